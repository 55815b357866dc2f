"""Rates counted over samples: their paired difference, which small numbers must not make certain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from leaderboard.aggregate import CONFIDENCE, Interval, _quantile, t_interval


class Share(NamedTuple):
    """One seed's rate and the samples behind it."""

    value: float
    n: float


def share_interval(shares: Mapping[int, Share]) -> Interval:
    """The mean over seeds with its t-interval."""
    return t_interval([shares[seed].value for seed in sorted(shares)])


def share_difference(first: Mapping[int, Share], second: Mapping[int, Share]) -> Interval | None:
    """The interval of ``first - second`` over the seeds both have, with at least the variance that counting has."""
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    plain = t_interval([first[seed].value - second[seed].value for seed in common])
    if len(common) == 1:
        return plain
    variance = 0.0
    for shares in (first, second):
        n = math.fsum(shares[seed].n for seed in common)
        p = (math.fsum(shares[seed].n * shares[seed].value for seed in common) + 2) / (n + 4)
        variance += p * (1 - p) / n
    half = _quantile((1 + CONFIDENCE) / 2, len(common) - 1) * math.sqrt(variance)
    spread = max(half, plain.mean - plain.low if plain.low is not None else half)
    return Interval(plain.mean, plain.mean - spread, plain.mean + spread, len(common))
