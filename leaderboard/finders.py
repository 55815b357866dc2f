"""Who finds the poison, and who recovers the trigger or the target: detectors and inversions, each
ranked over the attacks of its board.

Nothing repairs anything here, so there is no budget and no defense to be better than. A detector
has to beat its own false alarms, an inversion the best constant image; those that do not have no
rank. The worst case over attacks is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from bench.record import PluginSpec
from leaderboard import bootstrap
from leaderboard.aggregate import (
    MIN_SEEDS,
    MOST,
    BySeed,
    Interval,
    Share,
    rank_texts,
    share_difference,
    share_interval,
    shared_ranks,
    significant,
    t_interval,
)
from leaderboard.board import Board, Cell, Row, identity, same_sampler
from leaderboard.bootstrap import Sampled
from leaderboard.detections import subjects as subjects_of
from leaderboard.inversions import RECOVERIES, Recovery
from leaderboard.labels import label
from leaderboard.matrix import badges, metric_names, summary
from leaderboard.names import RATE, SUBJECTS
from leaderboard.values import NO_VALUE, Value, count_text, samples_of

T = TypeVar("T")
#: The false positive rate that thresholds are fixed for.
FALSE_ALARMS = 0.01


@dataclass(frozen=True, kw_only=True)
class FinderLine:
    """A line. ``finds``: more than chance; ``most``: and more than half of the poison, or with less
    than half of a constant image's error; ``rank`` is empty where it does not, or where ``note``
    says why it cannot be ranked; ``ranks``: its interval. ``worst``: a detector's rate, or an
    inversion's error as a share of the best constant image's, against ``attack``, where it does
    worst; ``mean``: over the attacks; ``counted``: the fewest seeds an
    attack was measured with, and the samples of each. ``beside``: further numbers.
    """

    cell: Cell
    finds: bool
    most: bool
    rank: str
    ranks: tuple[int, int] | None
    worst: Interval
    attack: PluginSpec
    mean: float
    counted: tuple[int, int]
    beside: tuple[Value, ...]
    flags: tuple[str, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class FinderRanking:
    """``what``: is judged or recovered; ``recovery``: ``None`` of detectors; ``metric``: in the
    records; ``warning``: what is wrong with that metric; ``beside``: heads of the further columns;
    ``lines``: best first, unranked last; ``seeds``: of the first line; ``comparisons``: differences
    tested.
    """

    what: str
    recovery: Recovery | None = None
    metric: str
    warning: str
    attacks: tuple[PluginSpec, ...]
    beside: tuple[str, ...]
    lines: tuple[FinderLine, ...]
    seeds: int
    comparisons: int


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """``rates``: by row, seed -> the metric; ``lost``: by row, seeds without one; ``gaps``: why it
    cannot be ranked.
    """

    cells: Mapping[int, Cell]
    rates: Mapping[int, Mapping[int, Share]]
    lost: Mapping[int, set[int]]
    gaps: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many seeds lack the metric in some row."""
        return len(set().union(*self.lost.values()))

    def measured(self) -> int:
        """The fewest seeds with a number of their own that a row has."""
        return min(len(rates) - len(self.lost[row]) for row, rates in self.rates.items() if rates)

    def worst(self) -> int:
        return min(
            (row for row, rates in self.rates.items() if rates),
            key=lambda row: (_mean(self.rates[row]), row),
        )


def finder_standing(line: FinderLine, inverts: bool) -> str:
    """A detector, or what ``inverts``, in words, beside its rank; empty if it needs none."""
    if line.note:
        return f"not ranked: {line.note}"
    if not line.finds:
        return "no better than a constant image" if inverts else "no better than a guess"
    if line.most:
        return ""
    return "in part: half of the error or more is left" if inverts else "in part: half or less"


def detector_rankings(board: Board) -> list[FinderRanking]:
    """One for each thing that is judged (training set, generated images, what the adversary calls
    by), the clean control left out.
    """
    columns = [column for column, family in board.columns if family.endswith("detector")]
    judged = {
        subject
        for column in columns
        for row in board.rows
        if (cell := board.cell(row, column))
        for subject in subjects_of(cell)
    }
    subjects = [
        subject for subject in (*SUBJECTS, *sorted(judged - {*SUBJECTS})) if subject != "clean"
    ]
    return [ranking for subject in subjects if (ranking := _detectors(board, subject, columns))]


def _detectors(board: Board, subject: str, columns: Sequence[PluginSpec]) -> FinderRanking | None:
    detecting = set(map(identity, columns))
    measured = metric_names(
        [cell for cell in board.cells.values() if identity(cell.defense) in detecting]
    )
    metric = next(
        (
            m
            for m in (f"tpr_fixed_threshold[{subject}]", f"tpr_at_1_fpr[{subject}]")
            if m in measured
        ),
        None,
    )
    rows = [
        row
        for row in board.rows
        if row[0].name != "none" and _any(board, row, columns, metric or "")
    ]
    # A column takes part if it judged this anywhere: another kind of detector never will.
    columns = [
        column
        for column in columns
        if any(_any(board, row, [column], f"auroc[{subject}]") for row in board.rows)
    ]
    if metric is None or not rows or not columns:
        return None
    seeds = [_by_seed(board, row, columns, _shares(metric)) for row in rows]
    every = [_entry(board, rows, columns, column, metric) for column in columns]
    fixed = metric.startswith("tpr_fixed")
    entries = [entry for entry in every if any(entry.rates.values())]
    lines, comparisons = _detector_lines(entries, subject, metric, rows)
    return FinderRanking(
        what=subject,
        metric=metric,
        warning=""
        if fixed
        else "its threshold was chosen on the very data that is judged, which no defender can do",
        attacks=tuple(row.named for row in rows),
        beside=(*(["false alarms"] if fixed else []), "AUROC", "mean AUROC"),
        lines=lines,
        seeds=max(len(one) for one in seeds),
        comparisons=comparisons,
    )


def _detector_lines(
    entries: Sequence[_Entry], subject: str, metric: str, rows: Sequence[Row]
) -> tuple[tuple[FinderLine, ...], int]:
    """The ranked lines, best first, and the number of differences tested."""
    fixed = metric.startswith("tpr_fixed")
    alarms = [
        _highest(entry, f"fpr_fixed_threshold[{subject}]") if fixed else None for entry in entries
    ]
    finds = [_finds(entry, alarm) for entry, alarm in zip(entries, alarms, strict=True)]
    notes = [_why(entry, alarm) for entry, alarm in zip(entries, alarms, strict=True)]
    ranks, spans, comparisons = _ranks(entries, finds, notes)
    lines = [
        FinderLine(
            cell=entry.cells[entry.worst()],
            finds=finds[index],
            most=finds[index] and _mean(entry.rates[entry.worst()]) > MOST,
            rank=ranks.get(index, ""),
            ranks=spans.get(index),
            worst=_interval(entry.rates[entry.worst()]),
            attack=rows[entry.worst()].named,
            mean=math.fsum(values := [_mean(rates) for rates in entry.rates.values() if rates])
            / len(values),
            counted=(entry.measured(), samples_of(entry.cells[entry.worst()], metric)),
            beside=_auroc(entry, subject, alarms[index])
            if fixed
            else _auroc(entry, subject, None)[1:],
            flags=_flags(
                entry,
                metric,
                f"{entry.failed} failed seed{'s' if entry.failed > 1 else ''} counted as finding "
                f"nothing",
            ),
            note=notes[index],
        )
        for index, entry in enumerate(entries)
    ]
    order = sorted(
        lines,
        key=lambda line: (
            _line_order(line),
            -line.worst.mean,
            label(line.cell.defense),
            line.cell.id,
        ),
    )
    return tuple(order), comparisons


def _any(board: Board, row: Row, columns: Sequence[PluginSpec], metric: str) -> bool:
    return any(
        (cell := board.cell(row, column)) is not None and cell.values(metric) for column in columns
    )


def _by_seed(
    board: Board,
    row: Row,
    columns: Sequence[PluginSpec],
    values: Callable[[Cell], Mapping[int, T]],
    own: Cell | None = None,
) -> dict[int, T]:
    """Seed -> what some column has in this row; the seeds that all are held to. With ``own``: of
    these what a suite of that cell has.
    """
    return {
        seed: value
        for column in columns
        if (cell := board.cell(row, column))
        for seed, value in sorted(values(cell).items())
        if own is None or seed in own.seeds_asked(cell)
    }


def _shares(metric: str) -> Callable[[Cell], Mapping[int, Share]]:
    return lambda cell: cell.shares(metric)


def _entry(
    board: Board,
    rows: Sequence[Row],
    columns: Sequence[PluginSpec],
    column: PluginSpec,
    metric: str,
) -> _Entry:
    cells = {index: cell for index, row in enumerate(rows) if (cell := board.cell(row, column))}
    rates: dict[int, dict[int, Share]] = {}
    every_lost: dict[int, set[int]] = {}
    gaps: list[str] = []
    for index, row in enumerate(rows):
        if (cell := cells.get(index)) is None:
            gaps.append(f"not measured against {row.label}")
            continue
        # What was skipped was not tried.
        tried = {one.record.seed for one in cell.entries if one.record.status != "skipped"}
        broken = {one.record.seed for one in cell.with_status("failed")}
        values = cell.shares(metric)
        asked = _by_seed(board, row, columns, _shares(metric), cell)
        anyone = _by_seed(board, row, columns, _shares(metric))
        lost = (tried & asked.keys() | broken) - values.keys()
        # A seed in which nobody else detected anything has as many samples as the others.
        usual = max((one.n for one in anyone.values()), default=1.0)
        rates[index] = {seed: values[seed] for seed in sorted(values)} | {
            seed: Share(0.0, anyone[seed].n if seed in anyone else usual) for seed in sorted(lost)
        }
        every_lost[index] = lost
        if rates[index]:
            gaps += [f"seed {seed} not measured" for seed in sorted(asked.keys() - tried)]
        else:
            gaps.append(f"not measured against {row.label}")
    return _Entry(cells=cells, rates=rates, lost=every_lost, gaps=tuple(dict.fromkeys(gaps)))


def _why(entry: _Entry, alarm: Interval | None) -> str:
    """Why it has no rank, empty if it has."""
    if entry.gaps:
        return "; ".join(entry.gaps)
    if entry.measured() < MIN_SEEDS:
        return f"fewer than {MIN_SEEDS} seeds"
    if alarm is not None and alarm.low is not None and alarm.low > FALSE_ALARMS:
        return "it raises more false alarms than 1 %"
    return ""


def _finds(entry: _Entry, alarm: Interval | None) -> bool:
    """Whether it finds more of the poison than it would flag of anything, against every attack."""
    lows = [_interval(rates).low for rates in entry.rates.values() if rates]
    most = max(FALSE_ALARMS, alarm.mean if alarm else 0.0)
    return all(low is not None and low > most for low in lows)


def _ranks(
    entries: Sequence[_Entry], finds: Sequence[bool], notes: Sequence[str]
) -> tuple[dict[int, str], dict[int, tuple[int, int]], int]:
    """Index of the entry -> rank, and -> rank interval, with the number of differences tested."""
    ranked = [index for index, note in enumerate(notes) if not note]
    finders = [index for index in ranked if finds[index]]
    rates = [entries[index].rates[entries[index].worst()] for index in finders]
    apart = {
        frozenset(pair): significant(share_difference(rates[pair[0]], rates[pair[1]]))
        for pair in combinations(range(len(rates)), 2)
    }
    values = [{seed: share.value for seed, share in one.items()} for one in rates]
    order = shared_ranks(values, True, lambda one, other: apart[frozenset((one, other))])
    ranks = dict(zip(finders, order, strict=True))
    spans = {}
    sampled = bootstrap.in_common(
        [
            {
                row: {seed: Sampled(share=share) for seed, share in rates.items()}
                for row, rates in entries[index].rates.items()
            }
            for index in finders
        ]
    )
    if len(sampled) > 1:
        spans = dict(
            zip(finders, bootstrap.rank_intervals(sampled, higher_is_better=True), strict=True)
        )
    return rank_texts(ranks), bootstrap.with_own_ranks(spans, ranks), len(ranked) + len(apart)


def _auroc(entry: _Entry, subject: str, alarm: Interval | None) -> tuple[Value, ...]:
    means = [one.mean for one in _summaries(entry, f"auroc[{subject}]")]
    rate = NO_VALUE if alarm is None else Value(RATE.number(alarm.mean, 3))
    if not means:
        return rate, NO_VALUE, NO_VALUE
    numbers = (min(means), math.fsum(means) / len(means))
    return rate, *(Value(RATE.number(one)) for one in numbers)


def _highest(entry: _Entry, metric: str) -> Interval | None:
    return max(_summaries(entry, metric), key=lambda one: one.mean, default=None)


def _summaries(entry: _Entry, metric: str) -> list[Interval]:
    return [one for cell in entry.cells.values() if (one := summary(cell, metric))]


def _flags(entry: _Entry, metric: str, failed: str) -> tuple[str, ...]:
    flags = [failed] if entry.failed else []
    for cell in entry.cells.values():
        flags += badges(cell, MIN_SEEDS, metric, failed=False)
    return tuple(dict.fromkeys(flags))


def inversion_rankings(board: Board) -> list[FinderRanking]:
    """One for each of what inversions recovered here: the last epoch's error over the best constant
    image's, worst over attacks, beside the same on an honest model. Lower is better.
    """
    return [ranking for one in RECOVERIES if (ranking := _inversions(board, one))]


def _inversions(board: Board, recovery: Recovery) -> FinderRanking | None:
    def ratios_of(cell: Cell) -> dict[int, float]:
        return _ratios(cell, recovery, recovery.last)

    columns = [column for column, family in board.columns if family == "inversion"]
    rows = [
        row
        for row in board.rows
        if row[0].name != "none" and _any(board, row, columns, recovery.last)
    ]
    if not rows:
        return None
    lines, logs = [], []
    for column in columns:
        cells = {index: cell for index, row in enumerate(rows) if (cell := board.cell(row, column))}
        ratios = {index: by_seed for index, cell in cells.items() if (by_seed := ratios_of(cell))}
        if not ratios:
            continue
        worst = max(ratios, key=lambda index: (_log_mean(ratios[index]), -index))
        seeds = [
            _by_seed(board, row, columns, ratios_of, cells.get(index))
            for index, row in enumerate(rows)
        ]
        logs.append({seed: math.log(value) for seed, value in ratios[worst].items()})
        lines.append(
            (cells[worst], rows[worst].named, ratios, worst, _missing(rows, seeds, cells, ratios))
        )
    made, comparisons = _inversion_lines(board, recovery, lines, logs)
    return FinderRanking(
        what=recovery.what,
        recovery=recovery,
        metric=recovery.last,
        warning="",
        attacks=tuple(row.named for row in rows),
        beside=("best epoch", "honest model"),
        lines=made,
        seeds=max(len(_by_seed(board, row, columns, ratios_of)) for row in rows),
        comparisons=comparisons,
    )


def _inversion_lines(
    board: Board,
    recovery: Recovery,
    lines: Sequence[tuple[Cell, PluginSpec, Mapping[int, BySeed], int, str]],
    logs: Sequence[dict[int, float]],
) -> tuple[tuple[FinderLine, ...], int]:
    """As :func:`_detector_lines`; ``logs``: of each line's worst ratios, by seed."""
    ranked = [index for index, line in enumerate(lines) if not line[4]]
    beating = [index for index in ranked if all(map(_beats, lines[index][2].values()))]
    order = shared_ranks([logs[index] for index in beating], higher_is_better=False)
    ranks = dict(zip(beating, order, strict=True))
    texts = rank_texts(ranks)
    spans: dict[int, tuple[int, int]] = {}
    shared = set.intersection(*(set(logs[index]) for index in beating)) if beating else set()
    if len(beating) > 1 and len(shared) >= MIN_SEEDS:
        drawn = bootstrap.resampled_means(
            [{seed: logs[index][seed] for seed in shared} for index in beating]
        )
        by_error = dict(zip(beating, bootstrap.ranks_of(drawn), strict=True))
        spans = bootstrap.with_own_ranks(by_error, ranks)
    made = [
        FinderLine(
            cell=cell,
            finds=index in beating,
            worst=(error := _interval_of_logs(logs[index])),
            most=index in beating and error.mean < 1 - MOST,
            rank=texts.get(index, ""),
            ranks=spans.get(index),
            attack=attack,
            mean=math.fsum(math.exp(_log_mean(one)) for one in ratios.values()) / len(ratios),
            counted=(min(map(len, ratios.values())), samples_of(cell, recovery.last)),
            beside=(
                _ratio_text(_ratios(cell, recovery, recovery.best)),
                _ratio_text(_honest(board, cell, recovery)),
            ),
            flags=badges(cell, MIN_SEEDS, recovery.last),
            note=note,
        )
        for index, (cell, attack, ratios, worst, note) in enumerate(lines)
    ]
    ordered = sorted(
        made,
        key=lambda line: (
            _line_order(line),
            line.worst.mean,
            label(line.cell.defense),
            line.cell.id,
        ),
    )
    return tuple(ordered), len(ranked) + len(beating) * (len(beating) - 1) // 2


def _missing(
    rows: Sequence[Row],
    seeds: Sequence[Mapping[int, float]],
    cells: Mapping[int, Cell],
    ratios: Mapping[int, BySeed],
) -> str:
    """Why an inversion has no rank: an error has no worst value that a failed seed could count
    as.
    """
    for index, row in enumerate(rows):
        if index not in cells:
            return f"not measured against {row.label}"
        if index not in ratios:
            return f"not measured against {row.label}"
        broken = {entry.record.seed for entry in cells[index].with_status("failed")}
        lost = sorted(seeds[index].keys() - ratios[index].keys() | broken)
        if lost:
            return f"seed {', '.join(map(str, lost))} failed or not measured"
        if len(ratios[index]) < MIN_SEEDS:
            return f"fewer than {MIN_SEEDS} seeds"
    return ""


def _ratios(cell: Cell, recovery: Recovery, metric: str) -> dict[int, float]:
    """Seed -> the error as a share of the hardest constant image's."""
    constants = [cell.values(name) for name, _ in recovery.constants]
    lines = {
        seed: min(line[seed] for line in constants if seed in line)
        for seed in set[int]().union(*constants)
    }
    return {
        seed: max(value, 1e-12) / lines[seed]
        for seed, value in sorted(cell.values(metric).items())
        if lines.get(seed, 0) > 0
    }


def _honest(board: Board, cell: Cell, recovery: Recovery) -> dict[int, float]:
    row = next(
        (
            r
            for r in board.rows
            if r.attack.name == "none"
            and r.probe
            and identity(r.probe) == identity(cell.attack)
            and same_sampler(r.sampler, cell.sampler)
        ),
        None,
    )
    honest = board.cell(row, cell.defense) if row else None
    return _ratios(honest, recovery, recovery.last) if honest else {}


def _beats(ratios: BySeed) -> bool:
    logs = {seed: math.log(value) for seed, value in ratios.items()}
    interval = t_interval([logs[seed] for seed in sorted(logs)])
    return interval.n >= MIN_SEEDS and interval.high is not None and interval.high < 0


def _interval_of_logs(logs: BySeed) -> Interval:
    plain = t_interval([logs[seed] for seed in sorted(logs)])
    low, high = (
        None if end is None else math.exp(min(end, 700.0)) for end in (plain.low, plain.high)
    )
    return Interval(math.exp(plain.mean), low, high, plain.n)


def _log_mean(ratios: BySeed) -> float:
    return math.fsum(math.log(value) for value in ratios.values()) / len(ratios)


def _ratio_text(ratios: BySeed) -> Value:
    if not ratios:
        return NO_VALUE
    return Value(f"{math.exp(_log_mean(ratios)):.2f}", n=count_text(len(ratios), 0))


def _interval(rates: Mapping[int, Share]) -> Interval:
    return share_interval([rates[seed] for seed in sorted(rates)])


def _mean(rates: Mapping[int, Share]) -> float:
    return math.fsum(share.value for share in rates.values()) / len(rates)


def _line_order(line: FinderLine) -> tuple[bool, int]:
    """Ranked first, then those that could have been, then those that could not."""
    return bool(line.note), int(line.rank.rstrip("=") or 10**6)
