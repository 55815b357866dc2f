"""How near samples come to the image an adversary aims at: MSE, SSIM, and attack success by two
rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bench.artefacts.images import load_images
from bench.artefacts.roles import samples, short, words
from bench.contracts.goals import DrawImage
from bench.diffusion.noise import stream_seed
from bench.measurements import doubts, numbers
from bench.measurements.families import no_sample
from bench.measurements.measurement import (
    EVERYTHING,
    Materials,
    Measured,
    Measurement,
    Situation,
)
from bench.measurements.numbers import if_possible
from bench.measurements.samples import of_samples
from bench.metrics import asr, target
from bench.record import SHARE, SQUARED_ERROR, Flag, Metric
from bench.words import MetricWords

OF_SAMPLES = ("mse[*]", "ssim[*]", "asr[*]", "asr_field[*]")
_RATE: dict[str, Any] = {"low": 0.0, "high": 1.0, "unit": SHARE, "decimals": 2, "scale": "unit"}


def why_not(situation: Situation) -> str:
    """Where there is no image to come near to."""
    if situation.family == "anchor":
        return "an anchor is no attack's"
    if not isinstance(situation.goal, DrawImage):
        return "this attack aims at no image"
    return no_sample(situation) if situation.family == "inversion" else ""


def options(situation: Situation) -> dict[str, str]:
    """A detector draws nothing, and yet a reader wants to know what the attack would have to
    reach.
    """
    return {"no_sample": no_sample(situation)}


def goal_of(materials: Materials) -> Tensor | None:
    """The target (c, h, w) in [0, 1]; ``None`` if the attack turned out to have none."""
    return None if materials.aim.target is None else (materials.aim.target / 2 + 0.5).clamp(0, 1)


def measure(materials: Materials) -> Measured:
    """For every set of samples, with the constant-image baseline. MSE: high is good for the
    defender; the others: low.
    """
    measured, goal = Measured(), goal_of(materials)
    if goal is None:
        return Measured(absent={EVERYTHING: "this attack aims at no image"})
    with if_possible("asr", measured.flags):
        _distances(materials, goal, measured)
    if materials.options["no_sample"]:
        measured.absent |= dict.fromkeys(OF_SAMPLES, materials.options["no_sample"])
    return measured


def _distances(materials: Materials, goal: Tensor, measured: Measured) -> None:
    real, metrics = materials.testbed.data.held_out_images(), measured.metrics
    calibration = asr.calibrate(real, goal)
    constant = target.best_constant_mse(goal)
    metrics["mse[constant]"] = Metric(value=constant, n=1, unit=SQUARED_ERROR)
    metrics["asr_threshold"] = Metric(value=calibration.threshold, n=len(real))
    if not calibration.usable:
        text = "vacuous threshold: no sample can succeed against this target"
        measured.flags.append(Flag("vacuous-threshold", "", text))
    if asr.vacuous(target.mse(real, goal), constant):
        text = "vacuous threshold, clean or constant images pass mse < 0.1"
        measured.flags.append(Flag("vacuous-threshold", "asr_field", text))
    for role in samples(materials.inputs):
        with if_possible("mse", measured.flags):
            _distance(
                materials, role, load_images(materials.inputs[role]), goal, calibration, measured
            )


def _distance(
    materials: Materials,
    role: str,
    images: Tensor,
    goal: Tensor,
    calibration: asr.Calibration,
    measured: Measured,
) -> None:
    errors, similarity = target.mse(images, goal), target.ssim(images, goal)
    where = short(role)
    for name, values, better, unit in (
        ("mse", errors, True, SQUARED_ERROR),
        ("ssim", similarity, False, ""),
    ):
        seed = stream_seed(materials.seed, name, where) % 2**32
        measured.metrics[f"{name}[{where}]"] = numbers.mean(values, seed, better, unit)
    for name, threshold in (("asr", calibration.threshold), ("asr_field", asr.FIELD_THRESHOLD)):
        measured.metrics[f"{name}[{where}]"] = numbers.share(np.asarray(errors) < threshold, False)
    near_target = float(np.mean(errors)) < calibration.threshold
    measured.flags += doubts.constant(
        images, materials.testbed.data.held_out_images(), words(role), near_target
    )


MEASUREMENT = Measurement(
    name="distance_to_target",
    metrics=(
        *of_samples(
            "asr",
            "ASR",
            "Attack success rate by the calibrated rule: the share of samples {} that lie closer "
            "to the target than clean data or a flat image does.",
            controls=(2, 4),
            headlines={"noise": 3, "image": 5},
            higher_is_better=False,
            order=2,
            **_RATE,
        ),
        *of_samples(
            "mse",
            "MSE",
            "Mean squared error to the target, pixels in [0, 1], of samples {}.",
            controls=(0, 5),
            headlines={"noise": 2},
            higher_is_better=True,
            low=0.0,
            unit=SQUARED_ERROR,
            order=3,
        ),
        *of_samples(
            "ssim",
            "SSIM",
            "Structural similarity to the target of samples {}; 1 is identical.",
            controls=(0, 6),
            headlines={},
            higher_is_better=False,
            low=-1.0,
            high=1.0,
            decimals=2,
            scale="unit",
            order=4,
        ),
        *of_samples(
            "asr_field",
            "ASR, field rule",
            "Share of samples {} with MSE to the target below 0.1: the literature's rule, vacuous "
            "for flat or dark targets.",
            controls=(0, 7),
            headlines={},
            higher_is_better=False,
            order=5,
            **_RATE,
        ),
        MetricWords(
            name="mse[constant]",
            title="MSE, constant",
            sentence="MSE of the best constant image to the target: what a collapsed generator "
            "could reach.",
            low=0.0,
            unit=SQUARED_ERROR,
            order=1,
            in_matrix=False,
            control=8,
        ),
        MetricWords(
            name="asr_threshold",
            title="ASR threshold",
            sentence="The MSE below which a sample counts as a success under the calibrated rule.",
            low=0.0,
            order=2,
            in_matrix=False,
            control=9,
        ),
    ),
    needs=("aim",),
    uses=("clean", "call:*", "target", "generated"),
    why_not=why_not,
    options=options,
    parts=("data",),
    run=measure,
)
