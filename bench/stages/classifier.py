"""What a user trains on the suspected training set, or, with a data defense, on what that makes of
generated images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.artefacts.classifiers import save_classifier
from bench.artefacts.images import load_images
from bench.artefacts.rows import asked_for
from bench.classification.training import train_classifier
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Attack, DataDefense, TrainingSet
from bench.stages import border
from bench.stages.building import conditional, plugin_of, poisoned_set


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What a user trains on the suspected training set, or, with a data defense, on what that makes
    of the generator's images.
    """
    testbed, attack, seed = (
        conditional(params),
        plugin_of("attacks", params["attack"], Attack),
        params["seed"],
    )
    if "generated" in inputs:
        defense = plugin_of("defenses", params["defense"], DataDefense)
        images, asked = load_images(inputs["generated"]), asked_for(testbed, "generated", None)
        # this stage knows no sample counts: the images say how many were drawn
        assert asked is not None
        generated = TrainingSet(
            images, torch.zeros(len(images), dtype=torch.bool), asked[: len(images)]
        )
        chosen = border.cleaned(
            defense,
            generated,
            numpy_stream(seed, "defense", defense.card.name),
            len(testbed.class_names),
        )
    else:
        chosen = poisoned_set(testbed, attack, seed)
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
    np.savez(out / "losses.npz", losses=np.asarray(losses))
    return {}
