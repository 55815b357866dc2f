"""The board's statistics against closed forms, scipy and slow definitions."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leaderboard.aggregate import (
    Interval,
    distinguishable,
    lexicographic_ranks,
    paired_difference,
    shared_ranks,
    t_interval,
)

FINITE = st.floats(-1e3, 1e3)
ENTRY = st.dictionaries(
    st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), min_size=1, max_size=5
)


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_interval_of_three_seeds_is_the_textbook_one() -> None:
    """Two degrees of freedom have a closed form, t(p) = (2p - 1) sqrt(2 / (4p(1 - p))) = 4.3027; s
    = 1, n = 3.
    """
    interval = t_interval([1.0, 2.0, 3.0])
    half = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025)) / math.sqrt(3)
    assert interval.mean == 2 and interval.n == 3
    assert interval.low == pytest.approx(2 - half, abs=1e-12) and interval.high == pytest.approx(
        2 + half, abs=1e-12
    )


@given(
    st.lists(FINITE, min_size=2, max_size=12).filter(
        lambda values: max(values) - min(values) > 1e-6
    )
)
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    """Any other interval would be a different claim under the same brackets."""
    interval = t_interval(values)
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values)
    )
    assert interval.low == pytest.approx(
        low, rel=1e-9, abs=1e-9
    ) and interval.high == pytest.approx(high, rel=1e-9, abs=1e-9)


@given(
    st.lists(FINITE, min_size=1, max_size=8).flatmap(
        lambda values: st.tuples(st.just(values), st.permutations(values))
    )
)
def test_interval_does_not_depend_on_order(pair: tuple[list[float], list[float]]) -> None:
    """Or the same store would give two boards."""
    assert t_interval(pair[0]) == t_interval(pair[1])


def test_one_seed_has_no_interval_and_no_values_are_an_error() -> None:
    """Zero width for one seed would read as certainty."""
    assert t_interval([0.3]) == Interval(0.3, None, None, 1)
    assert not t_interval([0.3]).excludes_zero()
    with pytest.raises(ValueError, match="at least one value"):
        t_interval([])


def test_equal_values_have_exactly_no_width() -> None:
    """A rounding error must not open brackets around a constant (0.1 * 3 / 3 is not 0.1 in
    floats).
    """
    assert t_interval([0.1] * 3) == Interval(0.1, 0.1, 0.1, 3)


def test_paired_difference_uses_common_seeds_only() -> None:
    """Seed 9 has no partner and would bring its own noise."""
    interval = paired_difference(
        {0: 1.0, 1: 2.0, 2: 3.0, 9: 100.0}, {0: 0.5, 1: 1.4, 2: 2.6, 7: -100.0}
    )
    assert interval == t_interval([0.5, 2.0 - 1.4, 3.0 - 2.6])
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairing_sees_what_two_overlapping_intervals_hide() -> None:
    """Seeds differ by 10, the defenses by a steady 1: unpaired intervals overlap, the paired one
    does not contain 0.
    """
    first, second = seeds(0.0, 10.0, 20.0), seeds(1.1, 11.0, 20.9)
    assert t_interval(list(first.values())).high > t_interval(list(second.values())).low  # type: ignore[operator]
    assert distinguishable(first, second)
    assert shared_ranks([second, first], higher_is_better=False) == [2, 1]


def test_ranks_follow_the_direction() -> None:
    """A board that ranks the worst defense first is worse than none."""
    entries = [seeds(0.8, 0.81, 0.82), seeds(0.0, 0.01, 0.01), seeds(0.4, 0.41, 0.43)]
    assert shared_ranks(entries, higher_is_better=False) == [3, 1, 2]
    assert shared_ranks(entries, higher_is_better=True) == [1, 3, 2]


def test_entries_that_cannot_be_told_apart_share_a_rank_and_skip_the_next() -> None:
    """1, 1, 3: two firsts leave no second."""
    entries = [seeds(0.01, 0.02, 0.0), seeds(0.0, 0.03, 0.01), seeds(0.8, 0.82, 0.83)]
    assert shared_ranks(entries, higher_is_better=False) == [1, 1, 3]


def test_a_rank_is_never_against_the_seeds_that_two_have_in_common() -> None:
    """Two seeds in which only one was run, and bad for everybody, decided the order; where both
    were run, the first is worse by .2 each time.
    """
    worse, better = seeds(0.30, 0.31, 0.32), seeds(0.10, 0.11, 0.12, 0.90, 0.90)
    assert distinguishable(worse, better)
    assert shared_ranks([worse, better], higher_is_better=False) == [1, 1]
    assert shared_ranks([worse, seeds(0.10, 0.11, 0.12)], higher_is_better=False) == [2, 1]


def test_a_tie_is_broken_by_who_asks_for_it() -> None:
    """Three equal losses of one image are a difference by Student's t, and none by counting."""
    rates, losses = [seeds(0.5, 0.5, 0.5)] * 2, [seeds(0.0078, 0.0078, 0.0078), seeds(0, 0, 0)]
    lower = (False, False)
    assert lexicographic_ranks(rates, losses, lower) == [2, 1]
    assert lexicographic_ranks(rates, losses, lower, None, lambda *_: False) == [1, 1]


def test_fewer_than_three_common_seeds_never_separate() -> None:
    """Two seeds with equal differences have an interval of no width; that is no evidence."""
    assert not distinguishable({0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: 1.0, 5: 1.0})
    assert shared_ranks(
        [{0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: 1.0, 5: 1.0}], higher_is_better=False
    ) == [1, 1]


@given(st.lists(ENTRY, max_size=6), st.booleans())
def test_rank_invariants(entries: list[dict[int, float]], higher: bool) -> None:
    """Indistinguishable entries share a rank; a better rank means a real difference in the right
    direction; ranks count.
    """
    ranks = shared_ranks(entries, higher)
    means = [t_interval(list(entry.values())).mean for entry in entries]
    for one, other in itertools.combinations(range(len(entries)), 2):
        if not distinguishable(entries[one], entries[other]):
            assert ranks[one] == ranks[other]
        if ranks[one] < ranks[other]:
            assert means[one] > means[other] if higher else means[one] < means[other]
    for rank in ranks:
        assert rank == 1 + sum(other < rank for other in ranks)


def test_second_criterion_orders_only_within_a_shared_rank() -> None:
    """Equal ASR: cheaper in FID first. A better FID never lifts a defense over one with a lower
    ASR.
    """
    asr = [seeds(0.0, 0.0, 0.0), seeds(0.0, 0.0, 0.0), seeds(0.8, 0.8, 0.8)]
    fid = [seeds(3.6, 3.7, 3.6), seeds(2.9, 3.0, 2.9), seeds(1.0, 1.0, 1.1)]
    assert lexicographic_ranks(asr, fid, (False, False)) == [2, 1, 3]
    assert lexicographic_ranks(asr, [fid[0], None, fid[2]], (False, False)) == [1, 1, 3]
