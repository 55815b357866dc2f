"""Claims against records: which cells a claim compares, and the one rule that turns a paired
difference into a verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scipy import stats

from bench.record import Run
from leaderboard.aggregate import (
    CONFIDENCE,
    MIN_SEEDS,
    Interval,
    holm,
    paired_difference,
    sample_pairs,
    share_difference,
    share_less_exact,
    t_interval,
)
from leaderboard.board import POPULATION, Board, Cell, boards, identity, same_sampler
from leaderboard.contenders import fid_name
from leaderboard.matrix import is_share, metric_names, summary
from leaderboard.names import RATE, UNKNOWN, Words, split

#: Shares that are no estimate: what an attack was told to poison.
EXACT = frozenset({"p_t"})
#: Beyond one end of an interval.
ALPHA = (1 - CONFIDENCE) / 2
SHOWS, OPPOSITE, OPEN = "shows", "does not show", "cannot be told here"
#: The open interval (low, high) a difference should lie in; ``None`` where the reference that gives
#: a margin is missing.
Region = tuple[float, float] | None
#: What still counts as similar, as a share of the reference. The paper itself calls FIDs similar
#: that differ by up to 9.7 % (Table 6, hat, 90 %: 17.82 with clipping, 19.73 without).
SIMILAR = 0.1
#: Families of metrics named after a feature extractor.
EXTRACTED = ("fid_other_classes", "replication", "replication_p95")
RULE = (
    "Every comparison is a difference between two cells, taken seed by seed (cells of one seed "
    "share their starting noise), with a "
    "two-sided 95 % Student t-interval over the seeds, for rates with no smaller a spread than "
    "counting has. A claim names the region "
    "the difference should lie in: `< 0`, `> 0`, or, for claims of similarity, a margin around "
    "0. The interval lies wholly inside the "
    "region: **shows**. Wholly outside: **does not show** (the data say the opposite). "
    "Otherwise, or with fewer than "
    f"{MIN_SEEDS} common seeds: **cannot be told here**. A claim with several comparisons shows "
    f"if each of them does, and does not show "
    "if any of them does not after Holm's correction for their number: of ten comparisons that "
    "lie on the very edge of what is claimed, "
    "chance alone would refute the claim in up to a quarter of runs. "
    f"The margin is {100 * SIMILAR:g} % of the reference's mean FID; for an MSE, "
    f"{100 * SIMILAR:g} % of the mean MSE of the honest model "
    "(the distance an attack has to cover) or of the baseline that is named; for an ASR, 0.1. "
    "The intervals themselves are not "
    "corrected for the number of comparisons, nor are the claims for that of claims."
)


@dataclass(frozen=True)
class Line:
    """One cell with all its seeds, and its board. The metric name ``fid`` means the testbed's own
    FID, and the other :data:`EXTRACTED` names likewise mean what its extractor measures.
    """

    board: Board
    cell: Cell

    @cached_property
    def params(self) -> dict[str, Any]:
        """Parameters: the attack's by name, others as ``defense.NAME``, ``testbed.NAME`` and, where
        a suite lists samplers, ``sampler.NAME``, with the sampler's name as ``sampler``.
        """
        others = {"defense": self.cell.defense, "testbed": self.board.testbed}
        listed = self.cell.sampler
        if listed:
            others["sampler"] = listed
        prefixed = {
            f"{prefix}.{name}": value
            for prefix, spec in others.items()
            for name, value in spec.params.items()
        }
        return self.cell.attack.params | prefixed | ({"sampler": listed.name} if listed else {})

    def metric(self, metric: str) -> str:
        """The name in the records."""
        if metric == "fid":
            return fid_name(self.board) or metric
        if metric in EXTRACTED:
            return next(
                (name for name in metric_names([self.cell]) if split(name)[0] == metric),
                metric,
            )
        return metric

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> value."""
        return self.cell.values(self.metric(metric))

    def interval(self, metric: str) -> Interval | None:
        """Mean and interval over seeds; of a population of models its record's own, which is over
        all seeds. ``None`` without a value.
        """
        name = self.metric(metric)
        if self.cell.kind != POPULATION:
            return summary(self.cell, name)
        entry = self.cell.entries[0]
        number = entry.numbers.get(name)
        if number is None or number.value is None:
            return None
        return Interval(number.value, number.ci_low, number.ci_high, len(entry.record.seeds))

    @property
    def seeds(self) -> tuple[int, int]:
        """How many have a result, of how many."""
        if self.cell.kind == POPULATION:
            own = len(self.cell.entries[0].record.seeds)
            return own if self.cell.with_status("ok") else 0, own
        return len(self.cell.with_status("ok")), len(self.cell.entries)


@dataclass(frozen=True)
class Part:
    """One comparison; ``note``: why it has no difference to judge; ``words``: how its numbers are
    written.
    """

    text: str
    metric: str
    region: Region
    difference: Interval | None
    note: str = ""
    words: Words = RATE

    @property
    def verdict(self) -> str:
        """By :data:`RULE`, as if it were the claim's only comparison."""
        return judge(self.difference, self.region)

    @property
    def p_opposite(self) -> float:
        """One-sided p-value of the difference lying outside the region; below :data:`ALPHA` where
        the interval does, 1 without one.
        """
        return outside(self.difference, self.region)


@dataclass(frozen=True)
class Claim:
    """``ours``: a question of this bench, which the paper does not answer."""

    text: str
    parts: tuple[Part, ...]
    ours: bool = False

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Each comparison's, of which :data:`OPPOSITE` are only those that Holm's correction for
        their number leaves.
        """
        corrected = holm([part.p_opposite for part in self.parts])
        return tuple(
            OPEN if part.verdict == OPPOSITE and not p < ALPHA else part.verdict
            for part, p in zip(self.parts, corrected, strict=True)
        )

    @property
    def verdict(self) -> str:
        """By :data:`RULE`."""
        counts = Counter(self.verdicts)
        if counts[OPPOSITE]:
            return OPPOSITE
        return SHOWS if self.parts and counts[SHOWS] == len(self.parts) else OPEN

    def summary(self) -> str:
        """The verdict, and how many comparisons stand behind it where they differ."""
        count = self.verdicts.count(self.verdict)
        opposite = " (the opposite)" if self.verdict == OPPOSITE else ""
        return f"**{self.verdict}**{opposite}" + (
            f", {count} of {len(self.parts)} comparisons" if count < len(self.parts) else ""
        )


def judge(difference: Interval | None, region: Region) -> str:
    """:data:`SHOWS` if the interval lies inside the open ``region``, :data:`OPPOSITE` if it lies
    wholly outside its closure.
    """
    if (
        region is None
        or difference is None
        or difference.low is None
        or difference.high is None
        or difference.n < MIN_SEEDS
    ):
        return OPEN
    low, high = region
    if low < difference.low and difference.high < high:
        return SHOWS
    return OPPOSITE if difference.high < low or difference.low > high else OPEN


def outside(difference: Interval | None, region: Region) -> float:
    """The chance of a difference as far outside ``region`` if the truth lay on its nearest edge,
    from the interval's Student t.
    """
    if (
        judge(difference, region) != OPPOSITE
        or difference is None
        or difference.low is None
        or difference.high is None
        or region is None
    ):
        return 1.0
    beyond = max(region[0] - difference.mean, difference.mean - region[1])
    # Of an interval that is no mirror image, the side that faces the region.
    half = (
        difference.high - difference.mean
        if difference.mean < region[0]
        else difference.mean - difference.low
    )
    if half == 0:
        return 0.0
    degrees = difference.n - 1
    return float(stats.t.sf(beyond / half * stats.t.ppf((1 + CONFIDENCE) / 2, degrees), degrees))


def lines(run: Run | None) -> list[Line]:
    """Every cell of a run, anchors included, in an order independent of the run's; empty for a
    suite that was not run.
    """
    return [
        Line(board, cell) for board in (boards([run]) if run else []) for cell in board.all_cells()
    ]


def attacked(pool: Sequence[Line], defense: str = "none") -> list[Line]:
    """The cells of backdoored models under ``defense``."""
    return [
        line
        for line in pool
        if line.cell.kind not in ("anchor", POPULATION)
        and line.cell.attack.name != "none"
        and line.cell.defense.name == defense
    ]


def honest(pool: Sequence[Line], line: Line | None) -> Line | None:
    """The control of an attacked cell: the honest model on the same board, probed with that attack,
    under the same defense.
    """
    if line is None:
        return None
    return next(
        (
            other
            for other in pool
            if other.board.id == line.board.id
            and other.cell.attack.name == "none"
            and other.cell.probe is not None
            and identity(other.cell.probe) == identity(line.cell.attack)
            and identity(other.cell.defense) == identity(line.cell.defense)
            and same_sampler(other.cell.sampler, line.cell.sampler)
        ),
        None,
    )


def under(pool: Sequence[Line], line: Line | None, defense: str) -> Line | None:
    """The same attack on the same board and under the same sampler, against ``defense``."""
    if line is None:
        return None
    wanted = identity(line.cell.attack)
    beside = (
        other
        for other in attacked(pool, defense)
        if other.board.id == line.board.id and same_sampler(other.cell.sampler, line.cell.sampler)
    )
    return next((other for other in beside if identity(other.cell.attack) == wanted), None)


def population(pool: Sequence[Line], line: Line | None, every: bool) -> Line | None:
    """The models of all seeds that a cell's detector scored: those of its attack and the honest
    ones; ``every``: those of all attacks.
    """
    if line is None:
        return None
    own = identity(line.cell.attack)
    return next(
        (
            other
            for other in pool
            if other.cell.kind == POPULATION
            and other.board.id == line.board.id
            and (other.cell.attack.name == "all" if every else identity(other.cell.attack) == own)
            and identity(other.cell.defense) == identity(line.cell.defense)
            and same_sampler(other.cell.sampler, line.cell.sampler)
        ),
        None,
    )


def anchor(pool: Sequence[Line], name: str, board: Board | None = None) -> Line | None:
    """A reference line of the testbed (``base_model``, ``real_images``)."""
    return next(
        (
            line
            for line in pool
            if line.cell.kind == "anchor"
            and line.cell.attack.name == name
            and (board is None or board.id == line.board.id)
        ),
        None,
    )


def compare(
    text: str,
    first: tuple[Line | None, str],
    second: tuple[Line | None, str],
    region: Region,
    across: bool = False,
) -> Part:
    """``first - second``, each a (cell, metric). ``across``: the two were meant to be measured
    differently (samplers).
    """
    (one, metric), (other, other_metric) = first, second
    if one is None or other is None:
        return Part(text, metric, region, None, "no result", UNKNOWN.words(metric))
    metric = one.metric(metric)
    words = one.cell.words(metric)
    if not across and one.board.id != other.board.id:
        return Part(text, metric, region, None, "measured under different protocols", words)
    difference = _difference(one.cell, metric, other.cell, other.metric(other_metric))
    if difference is None:
        return Part(text, metric, region, None, "no common seed with a value", words)
    if split(metric)[0].startswith("replication") and any(
        _undetected(line) for line in (one, other)
    ):
        return Part(
            text,
            metric,
            None,
            difference,
            "no copy detector was used, so nothing is concluded",
            words,
        )
    note = (
        f"fewer than {MIN_SEEDS} seeds"
        if difference.n < MIN_SEEDS
        else "no reference for the margin"
        if region is None
        else ""
    )
    return Part(text, metric, region, difference, note, words)


def _difference(one: Cell, metric: str, other: Cell, other_metric: str) -> Interval | None:
    """Of two shares, or of one less a rate that is known exactly, with the variance that counting
    has at least; of anything else Student's.
    """
    if split(other_metric)[0] in EXACT and is_share(one, metric) and _sized(one, metric):
        return share_less_exact(one.shares(metric), other.values(other_metric))
    if not all(
        is_share(cell, name) and _sized(cell, name)
        for cell, name in ((one, metric), (other, other_metric))
    ):
        return paired_difference(one.values(metric), other.values(other_metric))
    pairs = sample_pairs(one.outcomes(metric), other.outcomes(other_metric))
    return share_difference(one.shares(metric), other.shares(other_metric), pairs)


def _sized(cell: Cell, metric: str) -> bool:
    """Whether every record says over how many samples it counted."""
    return all(
        entry.numbers[metric].n for entry in cell.with_status("ok") if metric in entry.numbers
    )


def _undetected(line: Line) -> bool:
    """Whether the records say that copies were searched without a copy detector."""
    return any(flag.code == "no-copy-detector" for flag, _ in line.cell.flags)


def against(text: str, first: tuple[Line | None, str], level: float, region: Region) -> Part:
    """``value - level``, for a comparison with a number instead of another cell."""
    line, metric = first
    if line is None:
        return Part(text, metric, region, None, "no result", UNKNOWN.words(metric))
    metric = line.metric(metric)
    words = line.cell.words(metric)
    values = line.values(metric)
    if not values:
        return Part(text, metric, region, None, "no seed with a value", words)
    interval = line.interval(metric)
    assert interval is not None  # it has values
    low, high = (None if end is None else end - level for end in (interval.low, interval.high))
    difference = Interval(interval.mean - level, low, high, interval.n)
    return Part(
        text,
        metric,
        region,
        difference,
        f"fewer than {MIN_SEEDS} seeds" if difference.n < MIN_SEEDS else "",
        words,
    )


def within(line: Line | None, metric: str) -> Region:
    """Similar: off by less than :data:`SIMILAR` of the mean of a cell's metric, either way."""
    size = _margin(line, metric)
    return None if size is None else (-size, size)


def not_above(line: Line | None, metric: str) -> Region:
    """Lower, or higher by less than the margin."""
    size = _margin(line, metric)
    return None if size is None else (-math.inf, size)


def not_below(line: Line | None, metric: str) -> Region:
    """Higher, or lower by less than the margin."""
    size = _margin(line, metric)
    return None if size is None else (-size, math.inf)


def series_by_epoch(line: Line, name: str) -> list[tuple[float, Interval]]:
    """(epoch, interval over the seeds that reached it) of a recorded series; epochs count from
    1.
    """
    series = [entry.record.series.get(name, []) for entry in line.cell.with_status("ok")]
    longest = max((len(values) for values in series), default=0)
    return [
        (float(index + 1), t_interval([values[index] for values in series if len(values) > index]))
        for index in range(longest)
    ]


def region_text(words: Words, region: Region) -> str:
    """``< 0``, ``> 0``, ``< +0.3``, ``within ±0.3``."""
    if region is None:
        return "–"
    low, high = region
    if math.isfinite(low) and math.isfinite(high):
        return f"within ±{_number(words, high)}"
    bound, sign = (high, "<") if math.isfinite(high) else (low, ">")
    return (
        f"{sign} 0" if bound == 0 else f"{sign} {'+' if bound > 0 else ''}{_number(words, bound)}"
    )


def difference_text(words: Words, difference: Interval) -> str:
    """``+0.31 [0.22, 0.40]``: enough decimals that the largest of the three has three digits."""
    known = [
        value for value in (difference.mean, difference.low, difference.high) if value is not None
    ]
    places = _places(words, *known)
    sign = "+" if round(difference.mean, places) > 0 else ""
    text = sign + words.number(difference.mean, places)
    if difference.low is None or difference.high is None:
        return text
    return (
        f"{text} [{words.number(difference.low, places)}, {words.number(difference.high, places)}]"
    )


def _margin(line: Line | None, metric: str) -> float | None:
    interval = line.interval(metric) if line else None
    return None if interval is None else SIMILAR * interval.mean


def _places(words: Words, *values: float) -> int:
    return 3 if words.bounded else words.decimals_for(*values)


def _number(words: Words, value: float) -> str:
    return words.number(value, _places(words, value))
