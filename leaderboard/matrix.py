"""The attack x defense matrix, once per metric: each cell's number, its colour, and the reason
where there is none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.record import SHARE, SQUARED_ERROR, Flag, PluginSpec
from leaderboard import names, palette
from leaderboard.aggregate import (
    MIN_SEEDS,
    BySeed,
    Interval,
    positive_interval,
    share_interval,
    t_interval,
)
from leaderboard.beside import Beside, in_metric
from leaderboard.board import Awaited, Board, Cell, Row, families, under
from leaderboard.live import in_words
from leaderboard.names import Words
from leaderboard.values import NO_VALUE, Value, count_text, samples_of, value

NOT_RUN = "not part of this run"
#: A share over p_t; its interval follows from the share's.
AMPLIFICATION = "amplification"
#: Codes of flags that say why a number is missing.
WHY_ABSENT = ("not-measured", "nothing-to-tell-apart")
#: Codes of flags of a whole inversion that say something of the target, and nothing of the trigger.
OF_TARGET = ("no-better-than-constant", "no-target-recovered")
DIRECTIONS = {
    True: "Higher is better for the defender.",
    False: "Lower is better for the defender.",
    None: "No direction: not coloured.",
}


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One cell under one metric. ``state``: value, absent, failed or skipped. ``step``: index into
    the colour scale. ``printed``: what papers printed for the same, none of it ours; ``so_far``:
    how many of its seeds are there, while a run goes on.
    """

    cell: Cell | None
    state: str
    text: str
    interval: str = ""
    n: str = ""
    note: str = ""
    step: int | None = None
    badges: tuple[str, ...] = ()
    printed: tuple[Beside, ...] = ()
    so_far: str = ""

    @property
    def papers(self) -> list[str]:
        """What was printed, each line once though several tables have it."""
        return list(dict.fromkeys(one.short for one in self.printed))


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """One position of the metric switch. ``worst`` and ``best`` label the ends of the colour scale,
    empty if it has none; ``columns``: those of the board, and whether any of their cells has
    something to show; ``references``: the anchors' (name, value) in this metric.
    """

    words: Words
    direction: str
    worst: str
    best: str
    rows: tuple[tuple[Row, tuple[TableCell, ...]], ...]
    columns: tuple[tuple[PluginSpec, str, bool], ...]
    references: tuple[tuple[str, str], ...]

    def visible_columns(self) -> list[tuple[PluginSpec, str]]:
        """The columns that are drawn."""
        return [(column, family) for column, family, used in self.columns if used]

    def families(self) -> list[tuple[str, int]]:
        """Their families, each with the number of its columns."""
        return families(self.visible_columns())

    def visible_cells(self, cells: Sequence[TableCell]) -> list[TableCell]:
        """Those of a row's cells that are in such a column."""
        return [one for one, (_, _, used) in zip(cells, self.columns, strict=True) if used]

    def visible_rows(self) -> list[tuple[Row, list[TableCell]]]:
        """The rows that are drawn, with their cells in visible columns: those of which one has
        something to show, or is still to come.
        """
        every = [(row, self.visible_cells(cells)) for row, cells in self.rows]
        return [(row, cells) for row, cells in every if any(map(_shows, cells))]

    def rows_left_out(self) -> list[tuple[str, int]]:
        """Why -> how many rows have nothing to show, the most first."""
        reasons = Counter(
            _most_said(cells)
            for _, cells in self.rows
            if not any(map(_shows, self.visible_cells(cells)))
        )
        return sorted(reasons.items(), key=lambda one: (-one[1], one[0]))

    def sources(self) -> list[str]:
        """Of what papers printed for these cells, each once, with what it was measured on."""
        return sources(item for _, cells in self.rows for item in cells)

    def left_out(self) -> list[tuple[str, list[PluginSpec]]]:
        """Why -> the columns that have nothing to show for it."""
        by_reason: dict[str, list[PluginSpec]] = {}
        for index, (column, _, used) in enumerate(self.columns):
            if not used:
                reason = _most_said([cells[index] for _, cells in self.rows])
                by_reason.setdefault(reason, []).append(column)
        return list(by_reason.items())


def _shows(one: TableCell) -> bool:
    return one.state != "absent" or one.text != NO_VALUE.text


def _most_said(cells: Iterable[TableCell]) -> str:
    """Why most of those cells that were run have no value."""
    reasons = [one.note for one in cells if one.cell]
    return max(reasons, key=reasons.count) if reasons else NOT_RUN


def sources(cells: Iterable[TableCell]) -> list[str]:
    """The tables that :attr:`TableCell.printed` comes from, each once, and whose data they are."""
    data: dict[tuple[str, str], dict[str, None]] = {}
    for one in (item for cell in cells for item in cell.printed):
        key = one.published.citation, one.whose
        data.setdefault(key, {})[one.published.setting.data] = None
    return [
        f"{citation} ({', '.join(those)}; {whose})" for (citation, whose), those in data.items()
    ]


def direction(board_cells: Sequence[Cell], metric: str) -> bool | None:
    """The metric's direction as its records say; ``None`` if they say nothing or contradict each
    other.
    """
    directions = {
        number.higher_is_better
        for cell in board_cells
        for entry in cell.entries
        if (number := entry.numbers.get(metric)) is not None and number.higher_is_better is not None
    }
    return directions.pop() if len(directions) == 1 else None


def metric_names(cells: Sequence[Cell]) -> list[str]:
    """Every metric with a value somewhere, in reading order."""
    measured: set[str] = set().union(*(cell.measured for cell in cells))
    return sorted(measured, key=cells[0].names.order) if measured else []


def matrices(board: Board) -> list[MetricTable]:
    """One table per metric that some cell of the matrix has."""
    cells = list(board.cells.values())
    return [
        _table(board, name, direction(cells, name))
        for name in metric_names(cells)
        if board.names.words(name).declared.in_matrix
    ]


def is_share(cell: Cell, metric: str) -> bool:
    """Whether the records say that the metric is a share, or, where they say nothing, who declared
    it.
    """
    return _unit(cell, metric) == SHARE


def _unit(cell: Cell, metric: str) -> str:
    """As the records say, or, where they say nothing, who declared the metric."""
    return cell.unit(metric) or cell.words(metric).declared.unit


def summary(cell: Cell, metric: str) -> Interval | None:
    """Mean over the cell's seeds, with the interval of a share, of a distance, or Student's;
    ``None`` without a value.
    """
    if metric not in cell.summaries:
        cell.summaries[metric] = _summary(cell, metric)
    return cell.summaries[metric]


def _summary(cell: Cell, metric: str) -> Interval | None:
    values = cell.values(metric)
    if not values:
        return None
    unit = _unit(cell, metric)
    if unit == SHARE:
        shares = cell.shares(metric)
        return share_interval([shares[seed] for seed in sorted(shares)])
    if metric == AMPLIFICATION and (interval := _amplification(cell, values)) is not None:
        return interval
    ordered = [values[seed] for seed in sorted(values)]
    positive = unit == SQUARED_ERROR and min(ordered) >= 0
    return positive_interval(ordered) if positive else t_interval(ordered)


def _amplification(cell: Cell, values: BySeed) -> Interval | None:
    """A share over the poisoned share, which is known exactly: so the interval is the share's."""
    shares, exact = cell.shares("asr[prompt]"), cell.values("p_t")
    if not all(seed in shares and exact.get(seed) for seed in values):
        return None
    whole = share_interval([shares[seed] for seed in sorted(values)])
    over = math.fsum(exact[seed] for seed in values) / len(values)
    low, high = (None if end is None else end / over for end in (whole.low, whole.high))
    mean = math.fsum(values.values()) / len(values)
    return Interval(mean, low, high, len(values))


def value_of(cell: Cell, metric: str, alone: str = "one seed") -> Value:
    """A dash without a value; ``alone``: instead of the interval of one seed."""
    if metric not in cell.texts:
        cell.texts[metric] = value(
            cell.words(metric), summary(cell, metric), samples_of(cell, metric)
        )
    one = Value._make(cell.texts[metric])
    return one if one.interval or one == NO_VALUE else one._replace(interval=alone)


def steady_value(cell: Cell, metric: str) -> Value:
    """Of a number that may be the same for every seed (a threshold, a constant image): then it has
    no spread worth brackets.
    """
    interval, text = summary(cell, metric), value_of(cell, metric, "")
    return text._replace(interval="") if interval and interval.low == interval.high else text


def _table(board: Board, metric: str, higher_is_better: bool | None) -> MetricTable:
    words = _words(board, metric)
    low, high, beyond = _scale(board, metric, words)
    rows = tuple(
        (
            row,
            tuple(
                _table_cell(cell, metric, low, high, higher_is_better)
                if cell
                else not_yet(board.expected(row, column))
                for cell, (column, _) in zip(cells, board.columns, strict=True)
            ),
        )
        for row, cells in board.grid
    )
    scaled = higher_is_better is not None and high > low
    ends = (
        [words.number(low), words.number(high) + (" or more" if beyond else "")]
        if scaled
        else ["", ""]
    )
    worst, best = ends if higher_is_better else reversed(ends)
    anchors = ((anchor, value_of(anchor, metric)) for anchor in board.anchors)
    references = tuple(
        (names.anchor(anchor.attack.name) + under(anchor.sampler), f"{one.text}, n {one.n}")
        for anchor, one in anchors
        if one.n
    )
    columns = tuple(
        (column, family, any(cells[index].state != "absent" for _, cells in rows))
        for index, (column, family) in enumerate(board.columns)
    )
    return MetricTable(
        words=words,
        direction=DIRECTIONS[higher_is_better],
        worst=worst,
        best=best,
        rows=rows,
        columns=columns,
        references=references,
    )


def _words(board: Board, metric: str) -> Words:
    units = {cell.unit(metric) for cell in board.cells.values()} - {""}
    return board.names.words(metric, units.pop() if len(units) == 1 else "")


def _scale(board: Board, metric: str, words: Words) -> tuple[float, float, bool]:
    """The ends of the colours, and whether values lie beyond the upper one. A distance between sets
    of images runs from 0 to twice its mean without a defense: by the columns at hand, one bad one
    would make all others look alike.
    """
    if words.bounded:
        return 0.0, 1.0, False
    means = [interval.mean for cell in board.cells.values() if (interval := summary(cell, metric))]
    if not means:
        return 0.0, 1.0, False
    control = [
        interval.mean
        for cell in board.cells.values()
        if cell.defense.name == "none" and (interval := summary(cell, metric))
    ]
    if words.declared.scale == "control" and control and sum(control) > 0:
        high = 2 * sum(control) / len(control)
        return 0.0, high, max(means) > high
    return min(means), max(means), False


_NEVER = TableCell(cell=None, state="absent", text="–", note=NOT_RUN)


def not_yet(awaited: Awaited | None) -> TableCell:
    """Where there is no cell: when it is expected, or that it is no part of the run."""
    if awaited is None:
        return _NEVER
    when = f"in {in_words(awaited.seconds)}"
    return TableCell(cell=None, state="absent", text=when, note="still coming")


def _table_cell(
    cell: Cell, metric: str, low: float, high: float, higher_is_better: bool | None
) -> TableCell:
    interval = summary(cell, metric)
    if interval is None:
        return without_value(cell, metric)
    step = palette.step(interval.mean, low, high, higher_is_better)
    return measured(
        cell,
        metric,
        interval,
        step=None if _detects_nothing(cell, metric) else step,
        note=cell.words(metric).sentence,
    )


def measured(
    cell: Cell,
    metric: str,
    interval: Interval,
    *,
    step: int | None,
    note: str = "",
    alone: str = "no interval",
) -> TableCell:
    """A value with its n. ``alone``: what stands for the interval where there is none."""
    one = value_of(cell, metric, alone)
    return TableCell(
        cell=cell,
        state="value",
        text=one.text,
        interval=one.interval,
        n=one.n,
        note=note,
        step=step,
        badges=badges(cell, interval.n, metric),
        printed=in_metric(cell, metric),
        so_far=cell.so_far,
    )


def without_value(cell: Cell, metric: str) -> TableCell:
    """That a cell failed, was skipped, or went well without a value of ``metric``, and why."""
    for status in ("failed", "skipped"):
        entries = cell.with_status(status)
        if entries and not cell.with_status("ok"):
            # The reason is in the panel: in every metric's table it would be in the page forty
            # times.
            return TableCell(
                cell=cell,
                state=status,
                text=status,
                n=count_text(len(entries), 0),
                note=f"{status}: open it for the reason",
                so_far=cell.so_far,
            )
    return TableCell(cell=cell, state="absent", text="–", note=why_absent(cell, metric))


def why_absent(cell: Cell, metric: str) -> str:
    """Why a cell that went well has no value of ``metric``: what its records' flags, or their
    reasons, say of it.
    """
    flags = (flag.short for flag in concerning(cell, metric) if flag.code in WHY_ABSENT)
    return (
        next(flags, "")
        or cell.why_absent(metric)
        or _of_another_call(cell, metric)
        or "not measured in this cell"
    )


def _of_another_call(cell: Cell, metric: str) -> str:
    """That the attack is not called so, where what is measured by call was measured."""
    family, bracket, _ = metric.partition("[")
    measured = any(
        name.startswith(f"{family}[") for record in cell.records() for name in record.metrics
    )
    return "this attack has no such call" if bracket and measured else ""


def concerning(cell: Cell, metric: str) -> list[Flag]:
    """The records' flags about ``metric``, those about the whole cell among them."""
    family = cell.names.flag_family(metric)
    of_others = OF_TARGET if metric.startswith("trigger_mse_") else ()
    return [
        flag
        for flag, _ in cell.flags
        if flag.code not in of_others and flag.concerns(metric, family)
    ]


def _detects_nothing(cell: Cell, metric: str) -> bool:
    """Whether this is a detector's control, in which nothing is to be found: there low is neither
    good nor bad.
    """
    colour = cell.words(metric).declared.colour
    return colour == "never" or (colour == "attacked" and cell.attack.name == "none")


def badges(cell: Cell, n: int, metric: str, failed: bool = True) -> tuple[str, ...]:
    """The records' flags that concern ``metric``, and what the board itself sees: seeds that
    failed (unless ``failed`` is false), seeds that were skipped, too few seeds to rank.
    """
    total = len(cell.with_status("ok"))
    seeds_by_flag: dict[str, set[int]] = {}
    for flag in concerning(cell, metric):
        seeds_by_flag.setdefault(flag.short, set()).update(cell.flagged_seeds[flag])
    texts = [
        text if len(seeds) >= total else f"{text} ({len(seeds)} of {total} seeds)"
        for text, seeds in seeds_by_flag.items()
    ]
    for status in ("failed", "skipped"):
        count = len(cell.with_status(status))
        if count and (failed or status != "failed"):
            texts.append(f"{count} seed{'s' if count > 1 else ''} {status}")
    few = f"n < {MIN_SEEDS} seeds"
    if n < MIN_SEEDS and few not in seeds_by_flag:
        texts.append(few)
    return tuple(texts)
