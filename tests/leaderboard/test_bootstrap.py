"""Rank intervals: against closed forms, a slow definition, and how often they hold the true
rank.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leaderboard.aggregate import Share
from leaderboard.bootstrap import (
    ONE_BY_ONE,
    Sampled,
    _samples,
    _weighted,
    rank_intervals,
    ranks_of,
    resampled_means,
    with_own_ranks,
)


def entry(*rates: float, n: int = 64) -> dict[str, dict[int, Sampled]]:
    return {"noise": {seed: Sampled(share=Share(rate, n)) for seed, rate in enumerate(rates)}}


def paired(outcomes: np.ndarray) -> dict[str, dict[int, Sampled]]:
    """(seeds, samples) of 0 and 1."""
    return {
        "noise": {
            seed: Sampled(share=Share(float(row.mean()), len(row)), outcomes=tuple(map(float, row)))
            for seed, row in enumerate(outcomes)
        }
    }


@pytest.mark.parametrize("n", [64, 2 * ONE_BY_ONE])
def test_a_seeds_draws_are_the_beta_posterior_of_its_count(n: int) -> None:
    """k of n with half a success and half a failure: Beta(k + .5, n - k + .5), whether the samples
    are known, one by one or by the kinds that there are, or only counted.
    """
    rng = np.random.default_rng(0)
    outcomes = tuple([1.0] * 5 + [0.0] * (n - 5))
    both = [Sampled(share=Share(5 / n, n)), Sampled(share=Share(5 / n, n), outcomes=outcomes)]
    for draws in _samples([both], 0, rng, 20_000)[0]:
        assert stats.kstest(draws, stats.beta(5.5, n - 4.5).cdf).pvalue > 0.001


@pytest.mark.parametrize("n", [64, 2 * ONE_BY_ONE])
def test_what_two_entries_differ_in_is_weighted_alone(n: int) -> None:
    """Ten samples fail in both and six in the second alone, of another way: what lies between the
    two is Dirichlet's weight of six, however many samples there are.
    """
    base = np.arange(n) < 10
    more = np.arange(n) < 16
    one, other = (
        Sampled(share=Share(float(row.mean()), n), outcomes=tuple(row.astype(float)))
        for row in (base, more)
    )
    drawn = _weighted([[one], [other]], 0, 20_000)
    (few, total), (many, same) = drawn[0, 0], drawn[1, 0]
    assert (total == same).all()
    assert stats.kstest((many - few) / total, stats.beta(6, n - 6).cdf).pvalue > 0.001


def test_entries_far_apart_have_one_rank_each_in_the_defenders_direction() -> None:
    """.0 before .5 before 1; of what is good when it is high the other way round."""
    far = [entry(0.5, 0.52, 0.5), entry(0.0, 0.0, 0.0), entry(1.0, 1.0, 1.0)]
    assert rank_intervals(far, higher_is_better=False) == [(2, 2), (1, 1), (3, 3)]
    assert rank_intervals(far, higher_is_better=True) == [(2, 2), (3, 3), (1, 1)]


def test_equal_entries_cover_each_others_ranks() -> None:
    """No successes among 64 in either is no order, and must not look like one."""
    assert rank_intervals([entry(0.0, 0.0, 0.0)] * 3, higher_is_better=False) == [(1, 3)] * 3


def test_what_is_common_to_two_entries_does_not_widen_their_ranks() -> None:
    """Every third sample fails in both; the second fails in two of 64 more. Paired, that is a rank;
    as two counts it is not.
    """
    base = np.tile(np.arange(60) % 3 == 0, (3, 1)).astype(float)
    more = base.copy()
    more[:, [1, 2, 4, 5, 7, 8]] = 1
    assert rank_intervals([paired(base), paired(more)], higher_is_better=False) == [(1, 1), (2, 2)]
    counted = [entry(*one.mean(axis=1), n=60) for one in (base, more)]
    assert rank_intervals(counted, higher_is_better=False) == [(1, 2), (1, 2)]


def test_what_is_common_to_two_ways_does_not_widen_their_ranks() -> None:
    """One entry fails by noise, the other by an image, in samples of the same noise: with weights
    of their own the two would often change places.
    """
    base = np.tile(np.arange(60) % 3 == 0, (3, 1)).astype(float)
    more = base.copy()
    more[:, [1, 2, 4, 5, 7, 8]] = 1
    none = paired(np.zeros_like(base))["noise"]
    one = {"noise": paired(base)["noise"], "image": none}
    other = {"noise": none, "image": paired(more)["noise"]}
    assert rank_intervals([one, other], higher_is_better=False) == [(1, 1), (2, 2)]


def test_an_entry_stands_with_its_worst_way_in() -> None:
    """One open door is enough: .0 and .9 is worse than .4 and .4."""

    def two(noise: float, image: float) -> dict[str, dict[int, Sampled]]:
        return {"noise": entry(*[noise] * 3)["noise"], "image": entry(*[image] * 3)["noise"]}

    assert rank_intervals([two(0.0, 0.9), two(0.4, 0.4)], higher_is_better=False) == [
        (2, 2),
        (1, 1),
    ]
    assert rank_intervals([two(0.1, 0.9), two(0.4, 0.4)], higher_is_better=True) == [(2, 2), (1, 1)]


def test_ranks_against_counting_by_hand() -> None:
    """Ties take up all the ranks they share."""
    values = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 1.0]])
    slow = [
        (
            min(1 + sum(values[:, d] < values[i, d]) for d in range(2)),
            max(sum(values[:, d] <= values[i, d]) for d in range(2)),
        )
        for i in range(3)
    ]
    assert ranks_of(values) == slow == [(1, 2), (1, 3), (1, 3)]


def test_means_over_resampled_seeds_have_the_variance_of_the_bootstrap() -> None:
    """(S - 1) / S of the unbiased variance over S, and the same seeds for both entries."""
    drawn = resampled_means([{0: 1.0, 1: 2.0, 2: 6.0}, {0: 2.0, 1: 3.0, 2: 7.0}], draws=40_000)
    assert drawn[0].var() == pytest.approx(np.var([1.0, 2.0, 6.0]) / 3, rel=0.03)
    assert np.allclose(drawn[1] - drawn[0], 1)


def test_the_same_records_give_the_same_interval_and_odd_ones_an_error() -> None:
    """No clock, no global state."""
    entries = [entry(0.4, 0.5, 0.45), entry(0.5, 0.45, 0.5)]
    np.random.default_rng().random()
    assert rank_intervals(entries, higher_is_better=False) == rank_intervals(
        entries, higher_is_better=False
    )
    with pytest.raises(ValueError, match="the same ways and seeds"):
        rank_intervals([entry(0.4, 0.5), entry(0.4)], higher_is_better=False)


def test_five_seeds_hold_the_true_rank_most_of_the_time() -> None:
    """Rates .30 .36 .42 that vary by .04 between seeds: the true rank lies in the interval in at
    least 90 % of boards.
    """
    rng = np.random.default_rng(3)
    held = total = 0
    for _ in range(60):
        entries = [
            entry(*(rng.binomial(64, np.clip(rng.normal(p, 0.04, 5), 0, 1)) / 64))
            for p in (0.30, 0.36, 0.42)
        ]
        for rank, (low, high) in enumerate(rank_intervals(entries, higher_is_better=False), 1):
            held += low <= rank <= high
            total += 1
    assert held / total >= 0.9


def test_a_rank_lies_in_its_own_interval_and_a_tie_in_that_of_each_that_shares_it() -> None:
    """A reader who sees "1=" above "2 to 2" does not know which of them to believe."""
    spans = {"a": (2, 2), "b": (1, 1), "c": (2, 4), "d": (3, 3)}
    ranks = {"a": 1, "b": 1, "c": 3, "d": 4, "no interval": 5}
    assert with_own_ranks(spans, ranks) == {"a": (1, 2), "b": (1, 2), "c": (2, 4), "d": (3, 4)}
