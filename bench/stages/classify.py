"""A classifier defense's predictions on held-out images, clean and stamped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.arrays import save_scores
from bench.artefacts.images import Remarks, ignore_remark
from bench.artefacts.judged import POOL, load_judged
from bench.contracts.defense import ClassifierDefense
from bench.diffusion.generator import Generator
from bench.diffusion.precision import autocast
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import again, border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A classifier defense's predictions on a pool of held-out images, clean and stamped."""
    testbed = testbed_of(params)
    defense = plugin_of("defenses", params["defense"], ClassifierDefense)
    generator = generator_of(testbed, inputs, context)
    images = load_judged(inputs["judged"]).all()
    calls, remarks = 0, Remarks()

    def classify_rows(
        rows: Tensor, of: Generator = generator, remark: Callable[[str], None] = ignore_remark
    ) -> Tensor:
        nonlocal calls
        handed = of.clone()  # free to modify, and the next call must not see it
        access = access_of(defense, testbed, handed, inputs, params, context, remark)
        with autocast(generator.device, testbed.sampler.precision):
            scores = defense.classify(border.chosen(images, rows), access)
        calls += handed.calls
        return border.class_scores(defense, scores, len(rows), len(testbed.data.class_names))

    scores = classify_rows(torch.arange(len(images)), remark=remarks)
    counted = calls  # what the harness asks again is no cost of the defense's
    odd = again.compare(classify_rows, len(images), scores)
    nonsense = again.shuffled(generator)
    odd += again.without_the_model(lambda rows: classify_rows(rows, nonsense), len(images), scores)
    doubts.save(out, [*doubts.of_inputs(inputs), *odd, *remarks.flags()])
    save_scores(out, {POOL: scores.argmax(1).numpy()})
    return {"generator_calls": float(counted)}
