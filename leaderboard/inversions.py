"""Inversions: how near what they recovered is to the trigger and to the target, against the lines
they have to beat: constant images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leaderboard import plots
from leaderboard.aggregate import Interval
from leaderboard.board import Cell, under
from leaderboard.labels import label
from leaderboard.matrix import steady_value, summary
from leaderboard.values import Value


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What an inversion may recover of the backdoor. ``what``: in a word; ``series``: the records'
    error by epoch, of which lower is better for the defender; ``constants``: (metric, name) of the
    constant images' errors, which it has to beat.
    """

    what: str
    series: str
    constants: tuple[tuple[str, str], ...]

    @property
    def best(self) -> str:
        """The metric of the best epoch, chosen with the truth in hand."""
        return f"{self.series}_best"

    @property
    def last(self) -> str:
        """The metric of the last epoch, which is what is ranked by."""
        return f"{self.series}_last"


TRIGGER = Recovery(
    what="trigger",
    series="trigger_mse",
    constants=(("trigger_mse_constant", "the best flat image"),),
)
TARGET = Recovery(
    what="target",
    series="inversion_mse",
    constants=(
        ("inversion_mse_black", "a black image"),
        ("mse[constant]", "the best flat image"),
    ),
)
RECOVERIES = (TRIGGER, TARGET)


@dataclass(frozen=True, kw_only=True)
class InversionLine:
    """An inversion against one attack. ``values``: (metric, name, error) of the best and the
    last epoch and of the constant images, with which ``verdict`` compares the best one by the
    interval over seeds.
    """

    cell: Cell
    recovery: Recovery
    values: tuple[tuple[str, str, Value], ...]
    verdict: str
    curve: Markup | None


def inversion_lines(cell: Cell) -> tuple[InversionLine, ...]:
    """One for each of what it recovered; none for a cell that is no inversion."""
    return tuple(line for recovery in RECOVERIES if (line := _line(cell, recovery)))


def _line(cell: Cell, recovery: Recovery) -> InversionLine | None:
    best = summary(cell, recovery.best)
    lines = [
        (line.mean, name)
        for metric, name in recovery.constants
        if (line := summary(cell, metric)) is not None
    ]
    curve = _curve(cell, recovery, lines)
    if best is None and curve is None:
        return None
    named = [(recovery.best, "best epoch"), (recovery.last, "last epoch")]
    named += [(metric, _bare(name)) for metric, name in recovery.constants]
    return InversionLine(
        cell=cell,
        recovery=recovery,
        values=tuple((metric, name, steady_value(cell, metric)) for metric, name in named),
        verdict=_verdict(best, lines),
        curve=curve,
    )


def _bare(name: str) -> str:
    """Without its article."""
    return name.partition(" ")[2]


def _verdict(best: Interval | None, lines: Sequence[tuple[float, str]]) -> str:
    if best is None or not lines:
        return ""
    hardest, name = min(lines)
    if best.mean < hardest:
        sure = best.high is not None and best.high < hardest
        return f"better than {name}" if sure else f"below {name}, but these seeds leave it in doubt"
    passed = [name for value, name in lines if best.mean < value]
    return f"no better than {name}" + (f", though below {passed[0]}" if passed else "")


def _curve(cell: Cell, recovery: Recovery, lines: Sequence[tuple[float, str]]) -> Markup | None:
    name = recovery.series
    records = [entry.record for entry in cell.with_status("ok") if entry.record.series.get(name)]
    if not records:
        return None
    longest = max(records, key=lambda record: len(record.series[name])).series
    count = len(longest[name])
    epochs = longest.get("inversion_epoch", [])
    axis = epochs if len(epochs) == count else [float(epoch + 1) for epoch in range(count)]
    error = f"MSE to the {recovery.what}"
    title = (
        f"{error} per epoch, {label(cell.defense)} against "
        f"{label(cell.probe or cell.attack)}{under(cell.sampler)}"
    )
    by_seed = {record.seed: record.series[name] for record in records}
    levels = [(_bare(image), value) for value, image in lines]
    return plots.curves(axis, by_seed, levels, error, title)
