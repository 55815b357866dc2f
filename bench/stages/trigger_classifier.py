"""The harness's own judge of "does this image carry the trigger"."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bench.artefacts import judges
from bench.artefacts.classifiers import save_classifier
from bench.classification.training import train_classifier
from bench.contracts.attack import Attack
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics import marks, stamps
from bench.stages import border_attacks
from bench.stages.building import plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The harness's own judge of "does this image carry the trigger": trained on clean training
    images and their stamped copies, the trigger at many strengths and all of them shifted, soft or
    noisy (:func:`bench.metrics.stamps.weathered`); and beside it a filter for what the stamp adds
    on average (:mod:`bench.metrics.marks`).

    One for each attack and all its seeds. Every other held-out image sets the margins from which on
    it says yes, the rest count its errors (:class:`bench.artefacts.judges.TriggerJudge`): no rate
    below them means anything.
    """
    testbed, attack = testbed_of(params), plugin_of("attacks", params["attack"], Attack)
    rng, plain = numpy_stream(0, "trigger classifier"), testbed.data.train_images()
    without = [
        stamps.weathered(plain, None, rng),
        stamps.nonsense(len(plain) // 8, tuple(plain.shape[1:]), rng),
    ]
    stamped = _stamped(attack, plain)
    images = torch.cat([*without, stamps.weathered(plain, stamped, rng)])
    labels = (torch.arange(len(images)) >= len(images) - len(plain)).long()
    network = testbed.fresh_classifier(0, classes=2).to(context.device)
    train_classifier(
        network,
        images,
        labels,
        testbed.classifier_settings(),
        0,
        purpose="trigger classifier",
        progress=context.progress,
    )
    held_out = testbed.data.held_out_images()
    mark, real = marks.average_mark(plain, stamped), marks.shrink(plain)
    calibration = judges.errors(
        network, marks.MatchedFilter(mark, real), held_out, _stamped(attack, held_out), rng
    )
    judges.write_judge(calibration, mark, real, out)
    save_classifier(network, out)
    return {}


def _stamped(attack: Attack, images: Tensor) -> Tensor:
    stamped = border_attacks.stamped(attack, images)
    if stamped is None:
        raise ValueError(
            f"{attack.card.name} has no image trigger, so there is nothing to recognise"
        )
    return stamped
