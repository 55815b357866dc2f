"""What takes part in a ranking: the end points of a board, the ways in for the adversary, and each
defense's numbers over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.record import PluginSpec
from leaderboard import names
from leaderboard.aggregate import (
    BySeed,
    Interval,
    Share,
    sample_pairs,
    share_difference,
    share_interval,
)
from leaderboard.board import Board, Cell, Row
from leaderboard.bootstrap import Sampled
from leaderboard.matrix import metric_names

#: What a seed that failed counts as: the adversary succeeded.
WORST = 1.0
#: The adversary's rates where he aims at no one image; they may stand beside others, since no
#: attack has two of them.
OTHER_GOALS = {
    "asr_class": "called samples that show the class aimed at",
    "asr_set": "called samples that lie among the pictures aimed at",
}
#: Families of metrics that say how often a call works, the one that ranks first.
RATES = ("robust_asr", "asr", *OTHER_GOALS)


@dataclass(frozen=True, kw_only=True)
class EndPoint:
    """What a family of defenses is ranked by. ``families``: of the metrics that are the adversary's
    rate, ``rate``: it in words, ``short``: as a column's head; ``kinds``: whose columns take part;
    ``utility``: the metric the budget is about, ``None`` if nothing measured one, and its
    direction.
    """

    title: str
    families: tuple[str, ...]
    rate: str
    short: str
    kinds: tuple[str, ...]
    utility: str | None
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way in: the number of the attack's row in the ranking, and the metric that says how often
    it works.
    """

    row: int
    metric: str

    @property
    def call(self) -> str:
        """``noise`` of ``robust_asr[noise]``; empty where there is only one way in."""
        return names.split(self.metric)[1]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A defense's numbers in one ranking. ``cells``, ``utilities`` and ``losses`` are by row: the
    cell, seed -> utility, and seed -> the share of no defense's utility that is lost (negative:
    gained). ``rates``: by way, seed -> rate, a failed seed at :data:`WORST`. ``outcomes``:
    likewise, of the single samples where they are known; ``failed``: (row, seed); ``gaps``: why it
    cannot be ranked.
    """

    defense: PluginSpec
    cells: tuple[Cell | None, ...]
    rates: Mapping[Way, Mapping[int, Share]]
    outcomes: Mapping[Way, Mapping[int, tuple[float, ...]]]
    utilities: tuple[BySeed, ...]
    losses: tuple[BySeed, ...]
    failed: tuple[tuple[int, int], ...]
    gaps: tuple[str, ...]

    def strongest(self, row: int | None = None) -> Way:
        """The way in (of one attack) that works best over all seeds: an adversary knows which that
        is, not each seed's luck.
        """
        ways = [way for way, rates in self.rates.items() if rates and row in (None, way.row)]
        return max(ways, key=self.mean)

    def mean(self, way: Way) -> float:
        """Over the seeds. Raises ``ZeroDivisionError`` for a way that no seed has."""
        return math.fsum(share.value for share in self.rates[way].values()) / len(self.rates[way])

    def worst(self) -> Interval:
        """The rate of the strongest way, over the seeds."""
        rates = self.rates[self.strongest()]
        return share_interval([rates[seed] for seed in sorted(rates)])

    def less(self, other: Contender) -> Interval | None:
        """The strongest way's rate less the other's, paired by seed and, if both are one way and it
        is known, by sample.

        Both sides are the highest of equally many ways, so what choosing the highest adds is the
        same on both.
        """
        mine, others = self.strongest(), other.strongest()
        pairs = None
        if mine == others:
            pairs = sample_pairs(self.outcomes[mine], other.outcomes[mine])
        return share_difference(self.rates[mine], other.rates[others], pairs)

    def sampled(self) -> dict[Way, dict[int, Sampled]]:
        """What :func:`leaderboard.bootstrap.rank_intervals` takes."""
        return {
            way: {
                seed: Sampled(share=share, outcomes=self.outcomes[way].get(seed))
                for seed, share in rates.items()
            }
            for way, rates in self.rates.items()
        }

    def cell(self) -> Cell:
        """Where the strongest way was measured."""
        cell = self.cells[self.strongest().row]
        assert cell is not None  # a way with rates has a cell
        return cell

    def costliest(self) -> Cell:
        """Where it costs most; without a cost, as :meth:`cell`."""
        row = self.dearest()
        return (self.cells[row] if row is not None else None) or self.cell()

    def measured(self) -> int:
        """The fewest seeds with a number of their own that an attack has; a failed seed has
        none.
        """
        rows = {way.row for way, rates in self.rates.items() if rates}
        return min(
            len(self.rates[self.strongest(row)]) - sum(row == other for other, _ in self.failed)
            for row in rows
        )

    def dearest(self) -> int | None:
        """The row in which the defense costs most; ``None`` if the cost is not known in each."""
        means = [math.fsum(loss.values()) / len(loss) if loss else None for loss in self.losses]
        known = [(mean, -row) for row, mean in enumerate(means) if mean is not None]
        return -max(known)[1] if known and len(known) == len(means) else None


def invocations(cells: Sequence[Cell]) -> list[str]:
    """The names in ``asr[...]`` that are the adversary's, the clean-noise control left out."""
    pairs = [names.split(name) for name in metric_names(cells)]
    return list(
        dict.fromkeys(
            call
            for family, call in pairs
            if family in ("asr", "robust_asr") and call not in ("clean", "")
        )
    )


def other_goals(cells: Sequence[Cell]) -> dict[str, str]:
    """The adversary's rates of :data:`OTHER_GOALS` that some cell has, with their words."""
    pairs = [names.split(name) for name in metric_names(cells)]
    present = {family for family, call in pairs if call not in ("clean", "")}
    return {family: words for family, words in OTHER_GOALS.items() if family in present}


def fid_name(board: Board) -> str | None:
    """The testbed's FID with its extractor; ``None`` if nothing measured one."""
    return next(
        (
            name
            for name in metric_names([*board.cells.values(), *board.anchors])
            if names.split(name)[0] == "fid"
        ),
        None,
    )


def end_points(board: Board) -> list[EndPoint]:
    """What the defenses of this board can be ranked by."""
    measured = metric_names(list(board.cells.values()))
    points = []
    cells = list(board.cells.values())
    calls, others = invocations(cells), other_goals(cells)
    if calls or others:
        # One kind of rate on a board: beside robust ones a plain rate, which is never higher, would
        # be an advantage.
        robust = any(names.split(name)[0] == "robust_asr" for name in measured)
        successes = (
            "images of the adversary’s class that carry the trigger"
            if calls == ["prompt"]
            else "triggered samples that show the target"
        )
        moved = (
            ", the highest over a declared set of small transformations of the image"
            if robust
            else ""
        )
        drawn = [f"{successes}{moved}"] if calls else []
        drawn += others.values()
        points.append(
            EndPoint(
                title="Stops the backdoor",
                families=("robust_asr" if robust else "asr", *OTHER_GOALS),
                rate=f"the share of {', or of '.join(drawn)}",
                short="robust ASR" if robust else "ASR",
                kinds=("control", "sampler", "model"),
                utility=fid_name(board),
                higher_is_better=False,
            )
        )
    if "classifier_asr" in measured:
        points.append(
            EndPoint(
                title="Classifies safely",
                families=("classifier_asr",),
                rate=(
                    "the share of stamped held-out images of other classes that are taken for "
                    "the adversary’s class"
                ),
                short="classifier ASR",
                kinds=("control", "data", "classifier"),
                utility="ta" if "ta" in measured else None,
                higher_is_better=True,
            )
        )
    return points


def ways_in(board: Board, point: EndPoint, rows: Sequence[Row]) -> list[Way]:
    """Every call of these attacks that some cell has a rate of."""
    ways = []
    for index, row in enumerate(rows):
        cells = [cell for column, _ in board.columns if (cell := board.cell(row, column))]
        metrics = [name for name in metric_names(cells) if names.split(name)[0] in point.families]
        ways += [Way(row=index, metric=name) for name in metrics if names.split(name)[1] != "clean"]
    return ways


def contenders(board: Board, point: EndPoint, rows: Sequence[Row]) -> list[Contender]:
    """No defense first, then the others in the order of the columns. A column whose cells were all
    skipped does not compete.
    """
    ways = ways_in(board, point, rows)
    columns = [
        column
        for column, family in board.columns
        if family in point.kinds
        or any(
            (cell := board.cell(rows[way.row], column)) and cell.values(way.metric) for way in ways
        )
    ]
    none = next((column for column in columns if column.name == "none"), None)
    control = _contender(board, point, rows, ways, none, None) if none else None
    others = [
        _contender(board, point, rows, ways, column, control)
        for column in columns
        if column is not none
    ]
    return [one for one in (control, *others) if one is not None and any(one.rates.values())]


def _contender(
    board: Board,
    point: EndPoint,
    rows: Sequence[Row],
    ways: Sequence[Way],
    column: PluginSpec,
    control: Contender | None,
) -> Contender | None:
    cells = tuple(board.cell(row, column) for row in rows)
    if all(entry.record.status == "skipped" for cell in cells if cell for entry in cell.entries):
        return None
    rates: dict[Way, dict[int, Share]] = {}
    outcomes: dict[Way, dict[int, tuple[float, ...]]] = {}
    failed: set[tuple[int, int]] = set()
    gaps: list[str] = []
    for way in ways:
        cell = cells[way.row]
        values = cell.shares(way.metric) if cell else {}
        outcomes[way] = cell.outcomes(way.metric) if cell else {}
        reference = _reference(control, way, cell) if control else values
        # What was skipped was not tried: there is no result, good or bad.
        tried = (
            {entry.record.seed for entry in cell.entries if entry.record.status != "skipped"}
            if cell
            else set()
        )
        lost = tried & reference.keys() - values.keys()
        rates[way] = {seed: values[seed] for seed in sorted(values.keys() & reference.keys())}
        rates[way] |= {seed: Share(WORST, reference[seed].n) for seed in sorted(lost)}
        failed |= {(way.row, seed) for seed in lost}
        gaps += _gaps(rows[way.row].label, sorted(reference.keys() - tried), bool(tried))
    utilities = tuple(
        cell.values(point.utility) if cell and point.utility else {} for cell in cells
    )
    return Contender(
        defense=column,
        cells=cells,
        rates=rates,
        outcomes=outcomes,
        utilities=utilities,
        losses=_losses(
            utilities, control.utilities if control else utilities, point.higher_is_better
        ),
        failed=tuple(sorted(failed)),
        gaps=tuple(dict.fromkeys(gaps)),
    )


def _reference(control: Contender, way: Way, cell: Cell | None) -> Mapping[int, Share]:
    """No defense's rates in the seeds that this cell must have."""
    rates, undefended = control.rates[way], control.cells[way.row]
    if cell is None or undefended is None:
        return rates
    # A source may have a defense and not the control that its suite made.
    asked = cell.seeds_asked(undefended) or rates.keys()
    return {seed: share for seed, share in rates.items() if seed in asked}


def _gaps(attack: str, missing: Sequence[int], measured: bool) -> list[str]:
    if not missing:
        return []
    seeds = f"seed{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
    return [f"{seeds} not measured" if measured else f"not measured against {attack}"]


def _losses(
    own: Sequence[BySeed], control: Sequence[BySeed], higher_is_better: bool
) -> tuple[BySeed, ...]:
    sign = -1 if higher_is_better else 1
    return tuple(
        {
            seed: sign * (mine[seed] / base[seed] - 1)
            for seed in sorted(mine.keys() & base.keys())
            if base[seed] > 0
        }
        for mine, base in zip(own, control, strict=True)
    )
