"""Whether the pictures of a witness show what its arrays and its record say of the same samples."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bench import testbeds
from bench.artefacts.roles import short
from bench.bundle.bag import sha256
from bench.bundle.recomputed import close
from bench.bundle.witnesses import RECOVERED, Witness, unit
from bench.cells import Cell
from bench.metrics import asr, recognition, target
from bench.record import Record
from bench.testbeds.testbed import Testbed

#: Verdicts on samples that may differ where a score lies within rounding of its threshold.
TOLERATED = 1
#: What thresholds may differ by on another machine, relative to their value.
THRESHOLD = 1e-3


class Judge:
    """The robust rule for one target, made again from the testbed's own data. ``near``: the MSE
    below which a sample counts.
    """

    def __init__(self, testbed: Testbed, goal: Tensor) -> None:
        real = testbed.data.train_images()
        self.near = asr.calibrate(testbed.data.held_out_images(), goal).threshold
        self._recogniser = recognition.Recogniser(
            goal, recognition.shrink(real, recognition.REAL_IMAGES)
        )
        self.thresholds = {"asr_threshold": self.near} | {
            f"robust_asr_threshold[{name}]": value
            for name, value in self._recogniser.thresholds.items()
        }

    def succeeds(self, images: Tensor, goal: Tensor) -> np.ndarray:
        """Which of ``images`` (n, c, h, w) uint8 count as the target."""
        return self._recogniser.recognised(images) | (target.mse(images, goal) < self.near)


class Judges:
    """One for each testbed that comes with castlewalls, and target."""

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[str, str], str], Judge] = {}

    def of(self, row: Cell, goal: Tensor) -> Judge | None:
        """``None`` where the data are not here for certain. ``row``: of the suite, whose testbed is
        no stranger's.
        """
        testbed = testbeds.build(row.testbed.name, row.testbed.params)
        if not testbed.embedded:
            return None
        key = row.testbed.identity, sha256(goal.numpy().tobytes())
        if key not in self._made:
            self._made[key] = Judge(testbed, goal)
        return self._made[key]


def faults(record: Record, witness: Witness, row: Cell, judges: Judges) -> list[str]:
    """What of the pictures contradicts the arrays or the record, a line each. Raises ``ValueError``
    for images of another shape than the target's.
    """
    lines: list[str] = []
    for role, images in witness.images.items():
        part = RECOVERED.get(role)
        if (part or "target") not in witness.aim:
            continue
        goal = unit(witness.aim[part or "target"])
        name = role if part else f"mse:{short(role)}"
        if name not in witness.arrays:
            lines.append(f"{name} must be there for its pictures, and is missing")
            continue
        errors, drawn = witness.arrays[name].reshape(-1), target.mse(images, goal)
        pairs = zip(errors[: len(drawn)], drawn, strict=False)
        if len(errors) < len(drawn) or not all(close(float(a), float(b)) for a, b in pairs):
            lines.append(f"{name} must be what its pictures show, and is not")
        outcomes = record.series.get(f"outcomes[robust_asr[{short(role)}]]")
        if part is None and outcomes is not None and (judge := judges.of(row, goal)):
            lines += _judged(record, role, images, goal, judge)
    return lines


def _judged(record: Record, role: str, images: Tensor, goal: Tensor, judge: Judge) -> list[str]:
    name = f"robust_asr[{short(role)}]"
    outcomes = np.asarray(record.series[f"outcomes[{name}]"])[: len(images)] == 1
    again = judge.succeeds(images, goal)
    wrong = int(np.count_nonzero(outcomes != again[: len(outcomes)]))
    lines = (
        [f"{name} must count {int(again.sum())} of its {len(again)} pictures, got {wrong} others"]
        if len(outcomes) < len(again) or wrong > TOLERATED
        else []
    )
    for which, value in judge.thresholds.items():
        metric = record.metrics.get(which)
        if metric is None or metric.value is None or abs(metric.value - value) > THRESHOLD * value:
            got = None if metric is None else metric.value
            lines.append(f"{which} must be {value:.6g} for this target, got {got}")
    return lines
