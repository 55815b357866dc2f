"""The statistics of the board: intervals over seeds, paired differences, ranks that are shared
where the data cannot tell.

Pure functions of plain numbers. All intervals are two-sided and not corrected for the number of
comparisons (:func:`holm` does that). Shares (a count out of n in every seed) have
:func:`share_interval` and :func:`share_difference`, positive quantities without an upper end
:func:`positive_interval`, everything else Student's t. How often each covers the truth with three
and five seeds is simulated by ``benchmarks/coverage.py``; ``docs/intervals.md`` has the table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from scipy import optimize, stats

CONFIDENCE = 0.95
#: Seeds are alike, but never quite: the least correlation of two samples of one seed that a share's
#: interval allows for. With none at all, five seeds of 256 samples without a success would prove a
#: rate below 0.6 %, and be wrong two times in three where one seed in a few differs
#: (docs/intervals.md). The board's own spreads are about 0.02.
LEAST_CORRELATION = 0.005
#: Beyond so many samples a seed the seeds' own spread shows what they have in common, and the floor
#: grows no further.
LEAST_SAMPLES = 256
#: Fewer seeds than this are shown, never ranked.
MIN_SEEDS = 3
#: The share of an attack, or of a constant image's error, that has to be gone, and the share of the
#: poison that has to be found, for an answer to be yes.
MOST = 0.5

K = TypeVar("K", bound=Hashable)
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` seeds; ``low`` and ``high`` are ``None`` when one seed gives no
    interval.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def excludes_zero(self) -> bool:
        """True if there is an interval and 0 lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Share:
    """One seed's share: ``value`` in [0, 1] of ``n`` > 0 independent samples. Where samples are
    clustered, ``n`` is the effective number (``Metric.effective_n``), so it need not be whole.
    Raises ``ValueError`` otherwise.
    """

    value: float
    n: float

    def __post_init__(self) -> None:
        if not (0 <= self.value <= 1 and 0 < self.n < math.inf):
            raise ValueError(
                f"a share must be in [0, 1] of n > 0 samples, got {self.value} of {self.n}"
            )


ShareBySeed = Mapping[int, Share]
#: Seed -> the outcomes (0 or 1) of the same samples in both cells, in the same order.
PairedOutcomes = Mapping[int, tuple[Sequence[float], Sequence[float]]]


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """``mean -+ t * s / sqrt(n)``, ``s`` with n - 1 in its denominator. Raises ``ValueError``
    without values.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none")
    # fsum: exactly rounded, so the order in which records are read cannot change the last digit of
    # the board.
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    if min(values) == max(values):
        # Exactly no spread: dividing the sum again could move the mean by a rounding error and open
        # a sliver of an interval.
        return Interval(values[0], values[0], values[0], n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def positive_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """For values >= 0 without an upper end (MSE): ``mean * exp(-+ t * s / (mean * sqrt(n)))``, the
    t-interval of the mean's logarithm by the delta method. Never below 0. Raises ``ValueError``
    without values or for a negative one.
    """
    if any(value < 0 for value in values):
        raise ValueError(f"values must be >= 0, got {min(values)}")
    plain = t_interval(values, confidence)
    if plain.high is None or plain.mean == 0:
        return plain
    factor = math.exp(min((plain.high - plain.mean) / plain.mean, 700.0))
    return Interval(plain.mean, plain.mean / factor, plain.mean * factor, plain.n)


def share_interval(shares: Sequence[Share], confidence: float = CONFIDENCE) -> Interval:
    """The mean share over seeds, with an interval that stays in [0, 1] and is never of no width
    (Korn and Graubard 1998, with Wilson's interval in place of Clopper and Pearson's).

    Wilson's interval on ``n_eff = N / deff`` samples, with Student's t of (seeds - 1) degrees in
    place of the normal quantile. ``N``: the samples of all seeds; ``deff``, the design effect: the
    seeds' observed variance over the binomial one, and at least what :data:`LEAST_CORRELATION`
    makes of seeds of that size. One seed has no interval. Raises ``ValueError`` without shares.
    """
    plain = t_interval([share.value for share in shares], confidence)
    if plain.n == 1:
        return plain
    p, samples = plain.mean, _samples(shares)
    t = _quantile((1 + confidence) / 2, plain.n - 1)
    size = samples / _design_effect(shares)
    centre = (p + t * t / (2 * size)) / (1 + t * t / size)
    half = t / (1 + t * t / size) * math.sqrt(p * (1 - p) / size + t * t / (4 * size * size))
    # Exact at the ends, where rounding leaves 1e-17, and never past the mean by as much.
    low = 0.0 if p == 0 else max(0.0, min(p, centre - half))
    high = 1.0 if p == 1 else min(1.0, max(p, centre + half))
    return Interval(p, low, high, plain.n)


def share_difference(
    first: ShareBySeed,
    second: ShareBySeed,
    outcomes: PairedOutcomes | None = None,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The interval of ``first - second`` over the seeds both have, in [-1, 1], never of no width;
    ``None`` if they share none.

    Student's t on the seeds' differences, but with no smaller a variance than sampling alone gives:
    ``p q / N`` of both sides, each smoothed by one success and one failure (Agresti and Caffo
    2000). So three equal differences of one image in 64 are not certain. ``outcomes``, if they hold
    every common seed, give that variance from the samples' pairs instead (Bonett and Price 2012),
    which is less where both cells succeed on the same samples. Raises ``ValueError`` for outcomes
    of two lengths.

    Newcombe's square-and-add of two share intervals with the seeds' correlation was tried and is
    worse: three seeds do not tell their correlation, and differences that are none were found up to
    a quarter of the time.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    one, other = [first[seed] for seed in common], [second[seed] for seed in common]
    differences = [a.value - b.value for a, b in zip(one, other, strict=True)]
    if len(common) == 1:
        return t_interval(differences)
    if outcomes is not None and all(seed in outcomes for seed in common):
        floor = _paired_floor(
            [outcomes[seed] for seed in common], min(_samples(one), _samples(other))
        )
    else:
        floor = _binomial_floor(one) + _binomial_floor(other)
    return _no_narrower(differences, floor, confidence)


def share_less_exact(
    share: ShareBySeed, exact: BySeed, confidence: float = CONFIDENCE
) -> Interval | None:
    """As :func:`share_difference`, less a number in [0, 1] that was not counted over samples and is
    known exactly, as a poison rate is: the variance that counting has is the share's alone.
    """
    common = sorted(share.keys() & exact.keys())
    if not common:
        return None
    differences = [share[seed].value - exact[seed] for seed in common]
    if len(common) == 1:
        return t_interval(differences)
    return _no_narrower(differences, _binomial_floor([share[seed] for seed in common]), confidence)


def _no_narrower(differences: Sequence[float], floor: float, confidence: float) -> Interval:
    """Student's interval of two or more differences of shares, with at least the variance
    ``floor``, in [-1, 1].
    """
    mean, n = t_interval(differences).mean, len(differences)
    spread = max(_variance(differences) / n, floor)
    half = _quantile((1 + confidence) / 2, n - 1) * math.sqrt(spread)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n)


def minimum_detectable_difference(shares: Sequence[Share], power: float = 0.8) -> float | None:
    """How far from these seeds' mean another cell's must lie, on the side with more room, for
    :func:`share_difference` to exclude 0 with probability ``power``, if it has as many seeds and
    samples and the same design effect and does not go along with these seeds. In (0, 1]; ``None``
    for fewer than two seeds, or if not even the far end is found so often.

    A difference that is not found may still be there if it is smaller than this.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must be in (0, 1), got {power}")
    if len(shares) < 2:
        return None
    n, p = len(shares), t_interval([share.value for share in shares]).mean
    samples, effect = _samples(shares), _design_effect(shares)
    side, room = (-1, p) if p >= 0.5 else (1, 1 - p)
    critical = _quantile((1 + CONFIDENCE) / 2, n - 1)

    def missed(distance: float) -> float:
        error = math.sqrt(
            effect * (_smoothed(p, samples) + _smoothed(p + side * distance, samples))
        )
        chance = float(stats.nct.cdf(critical, n - 1, distance / error))
        # SciPy has no number where it is below 1e-100.
        return (0.0 if math.isnan(chance) else chance) - (1 - power)

    return None if missed(room) > 0 else float(optimize.brentq(missed, 1e-9, room, xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given, each in [0, 1]: those at most alpha may
    be claimed together, with a chance of at most alpha that any of them is wrong. Raises
    ``ValueError`` for one outside [0, 1].
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values must be in [0, 1], got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _samples(shares: Sequence[Share]) -> float:
    """The samples behind an unweighted mean of shares: all of them if every seed has as many, fewer
    if not.
    """
    return len(shares) ** 2 / math.fsum(1 / share.n for share in shares)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _design_effect(shares: Sequence[Share]) -> float:
    """The variance of the mean over that of as many independent samples, at least what the least
    correlation gives.
    """
    p, samples = math.fsum(share.value for share in shares) / len(shares), _samples(shares)
    least = 1 + (min(max(1.0, samples / len(shares)), LEAST_SAMPLES) - 1) * LEAST_CORRELATION
    binomial = p * (1 - p) / samples
    observed = _variance([share.value for share in shares]) / len(shares)
    return max(least, observed / binomial) if binomial > 0 else least


def _smoothed(p: float, samples: float) -> float:
    """The binomial variance of a share, which is not 0 at a share of 0 or 1."""
    smooth = (p * samples + 1) / (samples + 2)
    return smooth * (1 - smooth) / samples


def _binomial_floor(shares: Sequence[Share]) -> float:
    return _smoothed(math.fsum(share.value for share in shares) / len(shares), _samples(shares))


def _paired_floor(
    outcomes: Sequence[tuple[Sequence[float], Sequence[float]]], samples: float
) -> float:
    """The variance of a difference of paired shares from the pairs that differ. Clustered samples
    (``samples`` fewer than there are pairs) weigh as many as they are worth.
    """
    if any(len(one) != len(other) for one, other in outcomes):
        raise ValueError("outcomes must be of the same samples in both cells, got two lengths")
    total = sum(len(one) for one, _ in outcomes)
    gained, lost = (
        (
            sum(
                sign * (a - b) > 0
                for one, other in outcomes
                for a, b in zip(one, other, strict=True)
            )
            + 1
        )
        / (total + 2)
        for sign in (1, -1)
    )
    return (gained + lost - (gained - lost) ** 2) / (total + 2) * max(1.0, total / samples)


@lru_cache(maxsize=256)
def _quantile(probability: float, degrees: int) -> float:
    """Of Student's t; scipy takes most of a board's time without the cache."""
    return float(stats.t.ppf(probability, degrees))


def sample_pairs(
    first: Mapping[int, Sequence[float]], second: Mapping[int, Sequence[float]]
) -> PairedOutcomes:
    """Both sides' outcomes of every seed in which they are as many, so that each has its pair."""
    return {
        seed: (first[seed], second[seed])
        for seed in first.keys() & second.keys()
        if len(first[seed]) == len(second[seed])
    }


def paired_difference(first: BySeed, second: BySeed) -> Interval | None:
    """The interval of ``first - second`` over the seeds both have; ``None`` if they share none.

    Cells of one seed share their noise, so the difference is far less noisy than the two intervals
    suggest.
    """
    common = sorted(first.keys() & second.keys())
    return t_interval([first[seed] - second[seed] for seed in common]) if common else None


def distinguishable(first: BySeed, second: BySeed) -> bool:
    """Whether the paired interval, over at least :data:`MIN_SEEDS` common seeds, excludes 0."""
    return significant(paired_difference(first, second))


def significant(difference: Interval | None) -> bool:
    """Whether a paired difference, over at least :data:`MIN_SEEDS` seeds, has an interval that
    excludes 0.
    """
    return difference is not None and difference.n >= MIN_SEEDS and difference.excludes_zero()


def rank_texts(ranks: Mapping[K, int]) -> dict[K, str]:
    """Each rank as text: ``2=`` where several share it."""
    shared = Counter(ranks.values())
    return {key: f"{rank}{'=' if shared[rank] > 1 else ''}" for key, rank in ranks.items()}


def shared_ranks(
    entries: Sequence[BySeed],
    higher_is_better: bool,
    apart: Callable[[int, int], bool] | None = None,
) -> list[int]:
    """One rank per entry, 1 the best; equal ranks skip the following ones (1, 1, 3).

    ``apart``: whether the data tell two entries, by their positions, apart; by default whether they
    are :func:`distinguishable`. Two that are not share a rank, and so do two whose common seeds say
    the opposite of their means, and all whose mean lies between theirs. So a lower rank always
    means a real difference, in the right direction, to *every* entry ranked below; the price is
    that a chain of indistinguishable neighbours shares one rank even if its ends differ.
    """
    means = [t_interval(list(entry.values())).mean for entry in entries]
    order = sorted(
        range(len(entries)),
        key=lambda index: (-means[index] if higher_is_better else means[index], index),
    )
    differ = apart or (lambda one, other: distinguishable(entries[one], entries[other]))

    def above(one: int, other: int) -> bool:
        paired = paired_difference(entries[one], entries[other])
        better = paired is not None and (paired.mean > 0 if higher_is_better else paired.mean < 0)
        return better and differ(one, other)

    table = [[one != other and above(one, other) for other in order] for one in order]
    ranks, rank = [0] * len(entries), 1
    for position, index in enumerate(order):
        if all(
            table[higher][below]
            for higher in range(position)
            for below in range(position, len(order))
        ):
            rank = position + 1
        ranks[index] = rank
    return ranks


def lexicographic_ranks(
    first: Sequence[BySeed],
    second: Sequence[BySeed | None],
    higher_is_better: tuple[bool, bool],
    apart: Callable[[int, int], bool] | None = None,
    apart_second: Callable[[int, int], bool] | None = None,
) -> list[int]:
    """Ranks by ``first`` (and ``apart``, as in :func:`shared_ranks`); entries that share a rank
    there are ranked among themselves by ``second`` (and ``apart_second``, of the same positions).

    An entry without a second value cannot be compared with its peers: then none of them is moved.
    """
    ranks = shared_ranks(first, higher_is_better[0], apart)
    final = list(ranks)
    for rank in sorted(set(ranks)):
        peers = [index for index, value in enumerate(ranks) if value == rank]
        known = [entry for entry in (second[index] for index in peers) if entry]
        if len(known) == len(peers):
            differ = apart_second and _among(peers, apart_second)
            order = shared_ranks(known, higher_is_better[1], differ)
            for index, peer_rank in zip(peers, order, strict=True):
                final[index] = rank + peer_rank - 1
    return final


def _among(peers: Sequence[int], apart: Callable[[int, int], bool]) -> Callable[[int, int], bool]:
    """``apart``, by the positions among ``peers``."""
    return lambda one, other: apart(peers[one], peers[other])
