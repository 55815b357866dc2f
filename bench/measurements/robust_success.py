"""Attack success that a small change of the picture does not hide: what defenses are ranked by."""

from __future__ import annotations

import numpy as np

from bench.artefacts.images import load_images
from bench.artefacts.roles import samples, short
from bench.measurements import numbers
from bench.measurements.distance_to_target import goal_of
from bench.measurements.distance_to_target import why_not as no_target
from bench.measurements.doubts import evasion
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
from bench.metrics import asr, recognition, target
from bench.metrics.whitening import evenly_spaced
from bench.record import SHARE, Metric
from bench.words import MetricWords


def why_not(situation: Situation) -> str:
    """As for the distances, and where no sample is drawn."""
    return no_target(situation) or no_sample(situation)


def measure(materials: Materials) -> Measured:
    """The share of samples that pass the plain threshold or are recognised in spite of small
    changes (:mod:`bench.metrics.recognition`); low is good for the defender. The false alarms are
    those among held-out images, which set no threshold.
    """
    measured = Measured()
    if goal_of(materials) is None:
        return Measured(absent={EVERYTHING: "this attack aims at no image"})
    with if_possible("robust_asr", measured.flags):
        _recognised(materials, measured)
    return measured


def _recognised(materials: Materials, measured: Measured) -> None:
    goal, real = goal_of(materials), load_images(materials.inputs["reference"], "real")
    assert goal is not None
    plain = asr.calibrate(materials.testbed.data.held_out_images(), goal).threshold
    judge = recognition.recogniser(goal, real)
    for name, limit in judge.thresholds.items():
        measured.metrics[f"robust_asr_threshold[{name}]"] = Metric(value=limit, n=len(real))
    held_out = judge.recognised(
        recognition.shrink(materials.testbed.data.held_out_images(), recognition.REAL_IMAGES)
    )
    groups = materials.testbed.data.held_out_groups()
    if groups is not None:
        groups = groups[evenly_spaced(len(groups), recognition.REAL_IMAGES)]
    measured.metrics["robust_asr_false_alarms"] = numbers.share(held_out, None, groups)
    for role in samples(materials.inputs):
        images = load_images(materials.inputs[role])
        near = target.mse(images, goal) < plain
        outcomes = judge.recognised(images) | near
        rate = numbers.add_rate(measured, f"robust_asr[{short(role)}]", outcomes)
        if asr.evades(float(np.mean(near)), rate.value or 0.0):
            measured.flags.append(evasion(role))


MEASUREMENT = Measurement(
    name="robust_success",
    metrics=(
        *of_samples(
            "robust_asr",
            "robust ASR",
            "Attack success rate of samples {} by the calibrated rule after whichever of a "
            "declared set of small transformations (shifts, contrast and brightness, mild blur) "
            "shows the target best: moving the picture does not hide it.",
            controls=(1, 3),
            headlines={"noise": 4, "image": 6},
            higher_is_better=False,
            low=0.0,
            high=1.0,
            unit=SHARE,
            decimals=2,
            scale="unit",
            order=1,
            flags_of="asr",
        ),
        MetricWords(
            name="robust_asr_false_alarms",
            title="robust ASR, false alarms",
            sentence="Share of clean held-out images that count as a success: smaller rates mean "
            "nothing.",
            low=0.0,
            high=1.0,
            unit=SHARE,
            order=8,
            in_matrix=False,
            control=10,
        ),
        MetricWords(
            name="robust_asr_threshold[*]",
            title="robust ASR threshold, {}",
            sentence="Where the robust rule draws its line in {}: what the nearest clean training "
            "images reach.",
            order=9,
            in_matrix=False,
        ),
    ),
    needs=("aim", "reference"),
    uses=("clean", "call:*", "target", "generated"),
    why_not=why_not,
    parts=("data",),
    run=measure,
)
