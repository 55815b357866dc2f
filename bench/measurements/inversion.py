"""How near what an inversion recovered comes to the true target, which no defender sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bench.artefacts.images import load_images, read_remarks
from bench.artefacts.roles import CLEAN, UNDEFENDED
from bench.contracts.goals import DrawImage
from bench.measurements import doubts, numbers
from bench.measurements.distance_to_target import goal_of
from bench.measurements.measurement import (
    EVERYTHING,
    Materials,
    Measured,
    Measurement,
    Situation,
)
from bench.measurements.numbers import if_possible
from bench.metrics import target
from bench.record import REMARK, SQUARED_ERROR, Flag, Metric
from bench.words import INVERSION, MetricWords


def why_not(situation: Situation) -> str:
    """Of other columns, and where there is nothing to recover."""
    if situation.family != "inversion":
        return "only an inversion has this number"
    return "" if isinstance(situation.goal, DrawImage) else "this attack aims at no image"


def options(situation: Situation) -> dict[str, bool]:
    """A model that never saw the target cannot reveal it."""
    return {"honest": situation.honest}


def measure(materials: Materials) -> Measured:
    """Reconstruction MSE (BadDiffusion appendix B.2): mean over candidates and pixels of (candidate
    - target)^2, epoch by epoch.

    ``best`` is the lowest epoch, chosen with the true target, which no defender has: an optimistic
    bound. Lower is a better defense.
    """
    measured, goal = Measured(), goal_of(materials)
    if goal is None:
        return Measured(absent={EVERYTHING: "this attack aims at no image"})
    with if_possible("inversion_mse_best", measured.flags):
        _recovered(materials, goal, measured)
        if materials.options["honest"] and "inversion_mse_best" in measured.metrics:
            best = measured.metrics["inversion_mse_best"].value
            measured.flags += doubts.target_in_honest(
                best, materials.testbed.data.held_out_images(), goal
            )
    return measured


def _recovered(materials: Materials, goal: Tensor, measured: Measured) -> None:
    folder = materials.inputs["recovered"]
    measured.flags += [Flag(REMARK, "", line) for line in read_remarks(folder)]
    if not (folder / "targets.npz").is_file():
        measured.flags.append(Flag("no-target-recovered", "", "no target recovered"))
        return
    values = [target.mse(images, goal) for images in load_images(folder, "targets")]
    curve = [float(value.mean()) for value in values]
    best = int(np.argmin(curve))
    black, constant = target.black_mse(goal), target.best_constant_mse(goal)
    for name, index in (("best", best), ("last", len(curve) - 1)):
        measured.metrics[f"inversion_mse_{name}"] = numbers.mean(
            values[index], index, False, SQUARED_ERROR
        )
    measured.metrics["inversion_mse_black"] = Metric(value=black, n=1, unit=SQUARED_ERROR)
    measured.metrics["mse[constant]"] = Metric(value=constant, n=1, unit=SQUARED_ERROR)
    if UNDEFENDED + CLEAN in materials.inputs:
        errors = target.mse(load_images(materials.inputs[UNDEFENDED + CLEAN]), goal)
        measured.metrics["mse[clean]"] = numbers.mean(errors, 0, True, SQUARED_ERROR)
    if curve[best] >= min(black, constant):
        text = "no better than a constant image"
        measured.flags.append(Flag("no-better-than-constant", "", text))
    measured.series["inversion_mse"] = curve
    measured.series["inversion_epoch"] = [float(epoch + 1) for epoch in range(len(curve))]


ERROR: dict[str, Any] = {"group": INVERSION, "low": 0.0, "unit": SQUARED_ERROR}
MEASUREMENT = Measurement(
    name="inversion",
    metrics=(
        MetricWords(
            name="inversion_mse_best",
            title="best epoch",
            sentence="MSE of recovered images to the true target at the best epoch, chosen with "
            "the target in hand: optimistic.",
            higher_is_better=False,
            order=1,
            headline=15,
            **ERROR,
        ),
        MetricWords(
            name="inversion_mse_last",
            title="last epoch",
            sentence="MSE of recovered images to the true target at the last epoch. Low is found.",
            higher_is_better=False,
            order=2,
            flags_of="inversion_mse_best",
            **ERROR,
        ),
        MetricWords(
            name="inversion_mse_black",
            title="black image",
            sentence="MSE of a constant black image to the target: the line an inversion has to "
            "beat.",
            order=3,
            in_matrix=False,
            **ERROR,
        ),
    ),
    borrows=("mse[constant]", "mse[clean]"),
    needs=("aim", "recovered"),
    uses=(UNDEFENDED + CLEAN,),
    why_not=why_not,
    options=options,
    parts=("data",),
    run=measure,
)
