"""What a user trains on the suspected training set, or, with a data defense, on what that makes of
generated images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.artefacts import doubts
from bench.artefacts.classifiers import save_classifier
from bench.artefacts.images import Remarks, load_images
from bench.artefacts.rows import evenly
from bench.artefacts.suspected import load_suspected
from bench.classification.training import train_classifier
from bench.contracts.data import TrainingSet
from bench.contracts.defense import DataDefense
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What a user trains on the suspected training set, or, with a data defense, on what that makes
    of the generator's images.
    """
    testbed, seed, remarks = testbed_of(params), params["seed"], Remarks()
    if "generated" in inputs:
        defense = plugin_of("defenses", params["defense"], DataDefense)
        images = load_images(inputs["generated"])
        # This stage knows no sample counts: the images say how many were drawn.
        labels = evenly(testbed, len(images))
        generated = TrainingSet(images, torch.zeros(len(images), dtype=torch.bool), labels)
        generator = generator_of(testbed, inputs, context) if "generator" in inputs else None
        access = access_of(defense, testbed, generator, inputs, params, context, remarks)
        chosen = border.cleaned(defense, generated, access, len(testbed.data.class_names))
    else:
        chosen = load_suspected(inputs["suspected"])
    assert chosen.labels is not None  # as on every testbed with classes
    network = testbed.fresh_classifier(seed).to(context.device)
    losses = train_classifier(
        network,
        chosen.images,
        chosen.labels,
        testbed.classifier_settings(),
        seed,
        progress=context.progress,
    )
    save_classifier(network, out)
    doubts.save(out, [*doubts.of_inputs(inputs), *remarks.flags()])
    np.savez(out / "losses.npz", losses=np.asarray(losses))
    return {}
