"""The statistics of the board: intervals over seeds, paired differences, ranks that are shared where the data cannot tell.

Pure functions of plain numbers. All intervals are two-sided Student t-intervals for the mean, not cut at the ends of a
metric's range and not corrected for the number of comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats

CONFIDENCE = 0.95
#: Fewer seeds than this are shown, never ranked.
MIN_SEEDS = 3

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` seeds; ``low`` and ``high`` are ``None`` when one seed gives no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def excludes_zero(self) -> bool:
        """True if there is an interval and 0 lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """``mean -+ t * s / sqrt(n)``, ``s`` with n - 1 in its denominator. Raises ``ValueError`` without values."""
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none")
    # fsum: exactly rounded, so the order in which records are read cannot change the last digit of the board.
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    if min(values) == max(values):
        # Exactly no spread: dividing the sum again could move the mean by a rounding error and open a sliver of an interval.
        return Interval(values[0], values[0], values[0], n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


@lru_cache(maxsize=256)
def _quantile(probability: float, degrees: int) -> float:
    """Of Student's t; scipy takes most of a board's time without the cache."""
    return float(stats.t.ppf(probability, degrees))


def paired_difference(first: BySeed, second: BySeed) -> Interval | None:
    """The interval of ``first - second`` over the seeds both have; ``None`` if they share none.

    Cells of one seed share their noise, so the difference is far less noisy than the two intervals suggest.
    """
    common = sorted(first.keys() & second.keys())
    return t_interval([first[seed] - second[seed] for seed in common]) if common else None


def distinguishable(first: BySeed, second: BySeed) -> bool:
    """Whether the paired interval, over at least :data:`MIN_SEEDS` common seeds, excludes 0."""
    difference = paired_difference(first, second)
    return difference is not None and difference.n >= MIN_SEEDS and difference.excludes_zero()


def shared_ranks(entries: Sequence[BySeed], higher_is_better: bool) -> list[int]:
    """One rank per entry, 1 the best; equal ranks skip the following ones (1, 1, 3).

    Two entries that are not :func:`distinguishable` share a rank, and so does all whose mean lies between theirs. So a lower
    rank always means a real difference, in the right direction, to *every* entry ranked below; the price is that a chain of
    indistinguishable neighbours shares one rank even if its ends differ.
    """
    means = [t_interval(list(entry.values())).mean for entry in entries]
    order = sorted(range(len(entries)), key=lambda index: (-means[index] if higher_is_better else means[index], index))
    apart = [[distinguishable(entries[one], entries[other]) for other in order] for one in order]
    ranks, rank = [0] * len(entries), 1
    for place, index in enumerate(order):
        if all(apart[above][below] for above in range(place) for below in range(place, len(order))):
            rank = place + 1
        ranks[index] = rank
    return ranks


def lexicographic_ranks(
    first: Sequence[BySeed], second: Sequence[BySeed | None], higher_is_better: tuple[bool, bool]
) -> list[int]:
    """Ranks by ``first``; entries that share a rank there are ranked among themselves by ``second``.

    An entry without a second value cannot be told from its peers: then none of them is moved.
    """
    ranks = shared_ranks(first, higher_is_better[0])
    final = list(ranks)
    for rank in sorted(set(ranks)):
        peers = [index for index, value in enumerate(ranks) if value == rank]
        known = [entry for entry in (second[index] for index in peers) if entry]
        if len(known) == len(peers):
            for index, place in zip(peers, shared_ranks(known, higher_is_better[1]), strict=True):
                final[index] = rank + place - 1
    return final
