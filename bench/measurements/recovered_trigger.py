"""How near what an inversion recovered comes to the true trigger, which no defender sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.artefacts.images import load_images
from bench.measurements import numbers
from bench.measurements.inversion import ERROR
from bench.measurements.measurement import (
    EVERYTHING,
    Materials,
    Measured,
    Measurement,
    Situation,
)
from bench.measurements.numbers import if_possible
from bench.metrics import target
from bench.record import SQUARED_ERROR, Metric
from bench.words import INVERSION, MetricWords

COSINE: dict[str, Any] = {"group": INVERSION, "low": -1.0, "high": 1.0, "decimals": 3}


def why_not(situation: Situation) -> str:
    """Of other columns."""
    return "" if situation.family == "inversion" else "only an inversion has this number"


def measure(materials: Materials) -> Measured:
    """Mean over candidates and pixels of (candidate - trigger)^2 in [0, 1], epoch by epoch; lower
    is a better defense.

    ``best`` is the lowest epoch, chosen with the true trigger in hand: an optimistic bound. Beside
    it the best constant image's, which an inversion has to beat.

    ``trigger_cosine``: of the last epoch, mean over candidates, in [-1, 1]; higher is a better
    defense. It leaves the length of what was recovered out, and is what papers of inversions
    report; of a trigger that is mostly background every flat image has a high one, so the best flat
    image's stands beside it.
    """
    measured, trigger = Measured(), materials.aim.trigger
    if trigger is None:
        return Measured(absent={EVERYTHING: "this attack has no trigger to draw"})
    if not (materials.inputs["recovered"] / "triggers.npz").is_file():
        return Measured(absent={EVERYTHING: "this inversion recovers no trigger"})
    goal = (trigger / 2 + 0.5).clamp(0, 1)
    recovered = load_images(materials.inputs["recovered"], "triggers")
    with if_possible("trigger_mse_best", measured.flags):
        values = [target.mse(images, goal) for images in recovered]
        curve = [float(value.mean()) for value in values]
        for name, index in (("best", int(np.argmin(curve))), ("last", len(curve) - 1)):
            measured.metrics[f"trigger_mse_{name}"] = numbers.mean(
                values[index], index, False, SQUARED_ERROR
            )
        constant = target.best_constant_mse(goal)
        measured.metrics["trigger_mse_constant"] = Metric(value=constant, n=1, unit=SQUARED_ERROR)
        measured.series["trigger_mse"] = curve
    with if_possible("trigger_cosine", measured.flags):
        cosines = target.cosine(recovered[-1], goal)
        measured.metrics["trigger_cosine"] = numbers.mean(cosines, len(recovered) - 1, True)
        flat = target.best_constant_cosine(goal)
        measured.metrics["trigger_cosine_constant"] = Metric(value=flat, n=1)
    return measured


MEASUREMENT = Measurement(
    name="recovered_trigger",
    metrics=(
        MetricWords(
            name="trigger_mse_best",
            title="trigger, best epoch",
            sentence="MSE of recovered triggers to the true one at the best epoch, chosen with the "
            "trigger in hand: optimistic.",
            higher_is_better=False,
            order=4,
            **ERROR,
        ),
        MetricWords(
            name="trigger_mse_last",
            title="trigger, last epoch",
            sentence="MSE of recovered triggers to the true one at the last epoch. Low is found.",
            higher_is_better=False,
            order=5,
            flags_of="trigger_mse_best",
            **ERROR,
        ),
        MetricWords(
            name="trigger_mse_constant",
            title="trigger, constant image",
            sentence="MSE of the best constant image to the trigger: the line an inversion has to "
            "beat.",
            order=6,
            in_matrix=False,
            **ERROR,
        ),
        MetricWords(
            name="trigger_cosine",
            title="trigger, cosine",
            sentence="Cosine of recovered triggers with the true one, as vectors of [-1, 1], at "
            "the last epoch. High is found, if the best flat image's is lower.",
            higher_is_better=True,
            order=7,
            **COSINE,
        ),
        MetricWords(
            name="trigger_cosine_constant",
            title="trigger, cosine of a constant image",
            sentence="Cosine of the best constant image with the trigger: near 1 if most of the "
            "trigger is background.",
            order=8,
            in_matrix=False,
            **COSINE,
        ),
    ),
    needs=("aim", "recovered"),
    why_not=why_not,
    parts=(),
    run=measure,
)
