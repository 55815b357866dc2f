"""Inversions: what they recovered, against the lines they have to beat: a constant black image and
the best constant image.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from leaderboard import plots
from leaderboard.aggregate import Interval
from leaderboard.board import Cell, under
from leaderboard.labels import label
from leaderboard.matrix import Value, summary, value_text


@dataclass(frozen=True, kw_only=True)
class InversionLine:
    """An inversion against one attack. ``verdict`` compares its best epoch with both lines by the
    interval over seeds.
    """

    cell: Cell
    best: Value
    last: Value
    black: Value
    flat: Value
    verdict: str
    curve: Markup | None


def inversion_line(cell: Cell) -> InversionLine | None:
    """``None`` for a cell that is no inversion or recovered nothing."""
    best, black, flat = (
        summary(cell, name)
        for name in ("inversion_mse_best", "inversion_mse_black", "mse[constant]")
    )
    curve = _curve(cell, black, flat)
    if best is None and curve is None:
        return None
    return InversionLine(
        cell=cell,
        best=value_text(cell, "inversion_mse_best"),
        last=value_text(cell, "inversion_mse_last"),
        black=value_text(cell, "inversion_mse_black"),
        flat=value_text(cell, "mse[constant]"),
        verdict=_verdict(best, black, flat),
        curve=curve,
    )


def _verdict(best: Interval | None, black: Interval | None, flat: Interval | None) -> str:
    lines = [
        (line.mean, name)
        for line, name in ((black, "a black image"), (flat, "the best flat image"))
        if line
    ]
    if best is None or not lines:
        return ""
    hardest, name = min(lines)
    if best.mean < hardest:
        sure = best.high is not None and best.high < hardest
        return f"better than {name}" if sure else f"below {name}, but these seeds leave it in doubt"
    passed = [name for value, name in lines if best.mean < value]
    return f"no better than {name}" + (f", though below {passed[0]}" if passed else "")


def _curve(cell: Cell, black: Interval | None, flat: Interval | None) -> Markup | None:
    records = [
        entry.record for entry in cell.with_status("ok") if entry.record.series.get("inversion_mse")
    ]
    if not records:
        return None
    longest = max(records, key=lambda record: len(record.series["inversion_mse"])).series
    count = len(longest["inversion_mse"])
    epochs = longest.get("inversion_epoch", [])
    axis = epochs if len(epochs) == count else [float(epoch + 1) for epoch in range(count)]
    title = (
        f"MSE to the target per epoch, {label(cell.defense)} against "
        f"{label(cell.probe or cell.attack)}{under(cell.sampler)}"
    )
    by_seed = {record.seed: record.series["inversion_mse"] for record in records}
    levels = [
        (name, line.mean)
        for name, line in (("constant black image", black), ("best flat image", flat))
        if line
    ]
    return plots.curves(axis, by_seed, levels, title)
