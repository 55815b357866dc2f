"""Rank intervals: where an entry could stand if the seeds, and the samples in each, had come out
otherwise.

A hierarchical bootstrap. Each draw resamples the seeds, the same ones for every entry, and then the
samples in each seed by Rubin's (1981) weights, which are the same for every entry and every way
where the outcomes of the single samples are known: they started from the same noise, or are the
same images. Half a success and half a failure stand beside them (Jeffreys), so that no successes
among 64 samples are not proof of none.
With three seeds such an interval is on the short side: three seeds cannot show how different a
fourth would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leaderboard.aggregate import CONFIDENCE, MIN_SEEDS, Share

DRAWS = 2000
#: Of more samples than these, those that came out alike in every entry and way are drawn as one, a
#: gamma of their number in place of the sum of theirs; the weights of fewer serve many rankings.
ONE_BY_ONE = 256
#: Any fixed number: the same records must give the same board.
_SEED = 20_231_015
Draws = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A seed's share and, if known, the outcome (0 or 1) of each sample, in an order that all
    entries have in common.
    """

    share: Share
    outcomes: tuple[float, ...] | None = None


Way = TypeVar("Way", bound=Hashable)
Entry = TypeVar("Entry", bound=Hashable)


def comparable(entries: Sequence[Mapping[Way, Mapping[int, Sampled]]]) -> bool:
    """Whether every entry has the same ways and seeds."""
    seeds = [{way: set(by_seed) for way, by_seed in entry.items()} for entry in entries]
    return all(one == seeds[0] for one in seeds)


def in_common(
    entries: Sequence[Mapping[Way, Mapping[int, Sampled]]],
) -> list[dict[Way, dict[int, Sampled]]]:
    """Each entry in the seeds that all have, by way; empty if they cannot be compared, because one
    lacks a way of another's or there are fewer than :data:`MIN_SEEDS` such seeds.
    """
    ways = {way: None for entry in entries for way, by_seed in entry.items() if by_seed}
    seeds = {way: set.intersection(*(set(entry.get(way, ())) for entry in entries)) for way in ways}
    if any(len(shared) < MIN_SEEDS for shared in seeds.values()):
        return []
    return [
        {way: {seed: entry[way][seed] for seed in sorted(shared)} for way, shared in seeds.items()}
        for entry in entries
    ]


def rank_intervals(
    entries: Sequence[Mapping[Way, Mapping[int, Sampled]]],
    higher_is_better: bool,
    draws: int = DRAWS,
) -> list[tuple[int, int]]:
    """(best, worst) rank of each entry in the middle 95 % of the draws; 1 is the best.

    An entry is way -> seed -> :class:`Sampled`, and stands or falls with its worst way: the highest
    share, or the lowest if higher is better. Every entry has the same ways and seeds. Raises
    ``ValueError`` if not.
    """
    if not comparable(entries):
        raise ValueError("every entry must have the same ways and seeds")
    if not entries:
        return []
    values = _means([[entry[way] for entry in entries] for way in entries[0]], draws)
    worst = values.min(axis=0) if higher_is_better else values.max(axis=0)
    return ranks_of(worst if not higher_is_better else -worst)


def ranks_of(values: Draws) -> list[tuple[int, int]]:
    """(best, worst) rank in the middle 95 % of the draws, of (entries, draws) values of which the
    lower are the better. Equal values share the ranks they take up.
    """
    tail = (1 - CONFIDENCE) / 2
    below = (values[None] < values[:, None]).sum(axis=1)
    level = (values[None] == values[:, None]).sum(axis=1)
    low = np.quantile(below + 1, tail, axis=1, method="inverted_cdf")
    high = np.quantile(below + level, 1 - tail, axis=1, method="inverted_cdf")
    return [(int(one), int(other)) for one, other in zip(low, high, strict=True)]


def with_own_ranks(
    spans: Mapping[Entry, tuple[int, int]], ranks: Mapping[Entry, int]
) -> dict[Entry, tuple[int, int]]:
    """Each interval, widened where it lacks the rank that its entry was given (``ranks`` has all
    of them), or one of those that the entries sharing that rank take up together: the draws go by
    one number alone, a rank by tests that may tell nothing apart there.
    """
    sharing = Counter(ranks.values())
    return {
        key: (min(low, ranks[key]), max(high, ranks[key] + sharing[ranks[key]] - 1))
        for key, (low, high) in spans.items()
    }


def resampled_means(entries: Sequence[Mapping[int, float]], draws: int = DRAWS) -> Draws:
    """(entries, draws): the mean over resampled seeds of values that have no samples of their own.
    Every entry has the same seeds.
    """
    seeds = sorted(entries[0])
    counts = np.random.default_rng(_SEED).multinomial(
        len(seeds), [1 / len(seeds)] * len(seeds), draws
    )
    means: Draws = (
        np.array([[entry[seed] for seed in seeds] for entry in entries]) @ counts.T / len(seeds)
    )
    return means


def _means(ways: Sequence[Sequence[Mapping[int, Sampled]]], draws: int) -> Draws:
    """(ways, entries, draws): the mean share over the resampled seeds."""
    rng = np.random.default_rng(_SEED)
    seeds = [sorted(way[0]) for way in ways]
    # The same seeds for every way and entry: they come from one model each.
    counts = {
        n: np.random.default_rng(_SEED).multinomial(n, [1 / n] * n, draws) / n
        for n in {len(one) for one in seeds}
    }
    means = np.zeros((len(ways), len(ways[0]), draws))
    for seed in sorted(set().union(*seeds)):
        having = [index for index, one in enumerate(seeds) if seed in one]
        blocks = [[entry[seed] for entry in ways[index]] for index in having]
        for index, shares in zip(having, _samples(blocks, seed, rng, draws), strict=True):
            means[index] += counts[len(seeds[index])][:, seeds[index].index(seed)] * shares
    return means


def _samples(
    ways: Sequence[Sequence[Sampled]], seed: int, rng: np.random.Generator, draws: int
) -> Draws:
    """(ways, entries, draws): one seed's share, its samples weighted anew."""
    shares = np.empty((len(ways), len(ways[0]), draws))
    weighted = _weighted(ways, seed, draws)
    for (way, index), entry in _each(ways):
        if entry.outcomes:
            # A gamma draw of shape one half is half of a squared normal one, six times as quick.
            halves = rng.standard_normal((2, draws)) ** 2 / 2
            hits, total = weighted[way, index]
            shares[way, index] = (hits + halves[0]) / (total + halves.sum(axis=0))
        else:
            value, n = entry.share.value, entry.share.n
            hits, misses = (
                rng.standard_gamma(n * part + 0.5, draws) for part in (value, 1 - value)
            )
            shares[way, index] = hits / (hits + misses)
    return shares


def _each(ways: Sequence[Sequence[Sampled]]) -> Iterator[tuple[tuple[int, int], Sampled]]:
    """Each entry of each way, with where it stands."""
    for way, entries in enumerate(ways):
        for index, entry in enumerate(entries):
            yield (way, index), entry


def _weighted(
    ways: Sequence[Sequence[Sampled]], seed: int, draws: int
) -> dict[tuple[int, int], tuple[Draws, Draws]]:
    """By way and entry, of those with outcomes: the weights of their hits and of all samples."""
    alike: dict[tuple[int, float], dict[tuple[int, int], tuple[float, ...]]] = {}
    worths = [_worths(entries) for entries in ways]
    for at, entry in _each(ways):
        if entry.outcomes:
            length = len(entry.outcomes)
            alike.setdefault((length, worths[at[0]][length]), {})[at] = entry.outcomes
    sums = {}
    for (length, worth), outcomes in alike.items():
        hits, shapes = np.array(list(outcomes.values())), np.full(length, worth)
        if length > ONE_BY_ONE:
            hits, counts = np.unique(hits, axis=1, return_counts=True)
            shapes = worth * counts
        weights, total = _weights(seed, tuple(shapes), draws)
        sums.update({at: (row, total) for at, row in zip(outcomes, hits @ weights, strict=True)})
    return sums


@lru_cache(maxsize=12)
def _weights(seed: int, shapes: tuple[float, ...], draws: int) -> tuple[Draws, Draws]:
    """(samples, draws) of one common set of samples, and their sums (draws,): most of the work of a
    large board. ``shapes``: what each sample is worth, or several that are alike together.
    """
    rng = np.random.default_rng([_SEED, seed % 2**32, len(shapes)])
    weights = rng.standard_gamma(shapes, (draws, len(shapes)))
    return np.ascontiguousarray(weights.T), weights.sum(axis=1)


def _worths(entries: Sequence[Sampled]) -> dict[int, float]:
    """What a sample is worth, by the number of them: clustered ones count for less than one."""
    fewest: dict[int, float] = {}
    for entry in entries:
        if entry.outcomes:
            length = len(entry.outcomes)
            fewest[length] = min(fewest.get(length, length), entry.share.n)
    return {length: n / length for length, n in fewest.items()}
