"""The attack x defense matrix, once per metric: what stands in each cell, its colour, and why where there is no number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard import names, palette
from leaderboard.aggregate import MIN_SEEDS, Interval, t_interval
from leaderboard.board import Board, Cell, Row

NOT_IN_SWITCH = ("mse[constant]", "asr_threshold", "inversion_mse_black")
DIRECTIONS = {
    True: "Higher is better for the defender.",
    False: "Lower is better for the defender.",
    None: "No direction: not coloured.",
}
Value = tuple[str, str]


@dataclass(frozen=True)
class Shown:
    """One cell under one metric. ``state``: value, absent, failed or skipped. ``step``: index into the colour scale."""

    cell: Cell | None
    state: str
    text: str
    interval: str = ""
    seeds: str = ""
    note: str = ""
    step: int | None = None
    badges: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricTable:
    """One position of the metric switch. ``worst`` and ``best`` label the ends of the colour scale, empty if it has none;
    ``references``: the anchors' (name, value) in this metric."""

    words: names.Words
    direction: str
    worst: str
    best: str
    rows: tuple[tuple[Row, tuple[Shown, ...]], ...]
    references: tuple[tuple[str, str], ...]


def direction(board_cells: Sequence[Cell], metric: str) -> bool | None:
    """The metric's direction as its records say; ``None`` if they say nothing or contradict each other."""
    said = {
        number.higher_is_better
        for cell in board_cells
        for entry in cell.entries
        if (number := entry.numbers.get(metric)) is not None and number.higher_is_better is not None
    }
    return said.pop() if len(said) == 1 else None


def metric_names(cells: Sequence[Cell]) -> list[str]:
    """Every metric with a value somewhere, in reading order."""
    found = {
        name for cell in cells for entry in cell.entries for name, number in entry.numbers.items() if number.value is not None
    }
    return sorted(found, key=names.order)


def matrices(board: Board) -> list[MetricTable]:
    """One table per metric that some cell of the matrix has."""
    cells = list(board.cells.values())
    return [_table(board, name, direction(cells, name)) for name in metric_names(cells) if name not in NOT_IN_SWITCH]


def summary(cell: Cell, metric: str) -> Interval | None:
    """Mean and t-interval over the cell's seeds; ``None`` without a value."""
    values = cell.values(metric)
    return t_interval([values[seed] for seed in sorted(values)]) if values else None


def shown_value(cell: Cell, metric: str) -> Value:
    """(mean, interval) as text, a dash without a value."""
    interval = summary(cell, metric)
    if interval is None:
        return "–", ""
    # A number that is the same for every seed (a threshold, a constant image) has no spread worth brackets.
    return names.number(metric, interval.mean), "" if interval.low == interval.high else interval_text(metric, interval)


def interval_text(metric: str, interval: Interval, decimals: int | None = None) -> str:
    """``[low, high]`` with the mean's decimals, or nothing for one seed."""
    if interval.low is None or interval.high is None:
        return ""
    places = names.decimals_for(metric, interval.mean) if decimals is None else decimals
    return f"[{names.number(metric, interval.low, places)}, {names.number(metric, interval.high, places)}]"


def _table(board: Board, metric: str, higher_is_better: bool | None) -> MetricTable:
    means = [interval.mean for cell in board.cells.values() if (interval := summary(cell, metric))]
    low, high = (0.0, 1.0) if names.bounded(metric) else (min(means), max(means))
    rows = tuple(
        (
            row,
            tuple(
                _shown(board.cell(row, column), family, metric, low, high, higher_is_better) for column, family in board.columns
            ),
        )
        for row in board.rows
    )
    scaled = higher_is_better is not None and high > low
    ends = [names.number(metric, low), names.number(metric, high)] if scaled else ["", ""]
    worst, best = ends if higher_is_better else reversed(ends)
    anchors = ((anchor, summary(anchor, metric)) for anchor in board.anchors)
    references = tuple(
        (names.anchor(anchor.attack.name), names.number(metric, interval.mean)) for anchor, interval in anchors if interval
    )
    return MetricTable(names.words(metric), DIRECTIONS[higher_is_better], worst, best, rows, references)


def _shown(cell: Cell | None, family: str, metric: str, low: float, high: float, higher_is_better: bool | None) -> Shown:
    if cell is None:
        return Shown(None, "absent", "–", note="not part of this run")
    interval = summary(cell, metric)
    if interval is None:
        return _without_value(cell, family, metric)
    return Shown(
        cell,
        "value",
        names.number(metric, interval.mean),
        interval_text(metric, interval) or "no interval",
        f"n = {interval.n}",
        names.words(metric).sentence,
        palette.step(interval.mean, low, high, higher_is_better),
        badges(cell, interval.n, metric),
    )


def _without_value(cell: Cell, family: str, metric: str) -> Shown:
    for status in ("failed", "skipped"):
        entries = cell.with_status(status)
        if entries and not cell.with_status("ok"):
            reason = entries[0].record.reason or "no reason recorded"
            return Shown(cell, status, status, reason, f"n = {len(entries)}", reason)
    inversion_metric = names.words(metric).group == "Inversion"
    if family == "inversion" and not inversion_metric:
        note = "an inversion changes no sample"
    elif inversion_metric:
        note = "only an inversion has this number"
    else:
        note = "not measured in this cell"
    return Shown(cell, "absent", "–", note=note)


def badges(cell: Cell, n: int, metric: str) -> tuple[str, ...]:
    """The records' flags that concern ``metric``, and what the board itself sees: seeds that failed, too few seeds to rank.

    A flag that starts with a metric's name and a colon (``asr_field: ...``) is about that metric alone; any other is about the cell.
    """
    total = len(cell.with_status("ok"))
    bases = {names.split(name)[0] for entry in cell.entries for name in entry.record.metrics}
    about = {flag: flag.split(":")[0] for flag, _ in cell.flags()}
    flags = [
        (flag.split(":", 1)[1].strip().split(",")[0] if about[flag] in bases else _short(flag), seeds)
        for flag, seeds in cell.flags()
        if about[flag] not in bases or about[flag] == names.split(metric)[0]
    ]
    shown = [flag if seeds >= total else f"{flag} ({seeds} of {total} seeds)" for flag, seeds in flags]
    for status in ("failed", "skipped"):
        count = len(cell.with_status(status))
        if count:
            shown.append(f"{count} seed{'s' if count > 1 else ''} {status}")
    few = f"n < {MIN_SEEDS} seeds"
    if n < MIN_SEEDS and few not in [flag for flag, _ in cell.flags()]:
        shown.append(few)
    return tuple(shown)


def _short(flag: str) -> str:
    """A flag may explain itself after a colon; the panel has room for that, a cell has not."""
    return flag.split(":")[0]
