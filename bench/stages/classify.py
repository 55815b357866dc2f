"""A classifier defense's predictions on held-out images, clean and stamped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.aims import read_aim
from bench.artefacts.arrays import save_scores
from bench.artefacts.rows import evaluation_sets
from bench.contracts.defense import ClassifierDefense
from bench.diffusion.precision import autocast
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import again, border
from bench.stages.building import access_of, conditional, generator_of, plugin_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A classifier defense's predictions on held-out images, clean and (of other classes than the
    adversary's) stamped.
    """
    testbed, seed = conditional(params), params["seed"]
    defense = plugin_of("defenses", params["defense"], ClassifierDefense)
    generator = generator_of(testbed, inputs, context)
    found: dict[str, np.ndarray] = {}
    odd: list[str] = []
    calls = 0
    for name, (images, labels) in evaluation_sets(
        testbed, read_aim(inputs["aim"]), seed, testbed.test_images
    ).items():

        def classify_rows(chosen: Tensor, images: Tensor = images) -> Tensor:
            nonlocal calls
            handed = generator.clone()  # free to modify, and the next call must not see it
            access = access_of(defense, testbed, handed, inputs, seed, context)
            with autocast(generator.device, testbed.precision):
                said = defense.classify(images[chosen], access)
            calls += handed.calls
            return border.class_scores(defense, said, len(chosen), len(testbed.class_names))

        scores = classify_rows(torch.arange(len(images)))
        if not odd:
            counted = calls
            odd += again.compare(classify_rows, len(images), scores)
            calls = counted  # what the harness asks again is no cost of the defense's
        found[name] = scores.argmax(1).numpy()
        found[f"{name}_labels"] = labels.numpy()
    doubts.save(out, [*doubts.of_inputs(inputs), *odd])
    save_scores(out, found)
    return {"generator_calls": float(calls)}
