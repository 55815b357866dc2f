"""Intervals of shares over seeds, against slow definitions and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from leaderboard.aggregate import (
    Interval,
    Share,
    holm,
    minimum_detectable_difference,
    positive_interval,
    share_difference,
    share_interval,
    share_less_exact,
    t_interval,
)

COUNTS = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
SHARES = st.lists(
    COUNTS.map(lambda pair: Share(pair[0] / pair[1], pair[1])), min_size=2, max_size=6
)


def shares(n: int, *successes: int) -> list[Share]:
    return [Share(count / n, n) for count in successes]


def by_seed(n: int, *successes: int) -> dict[int, Share]:
    return dict(enumerate(shares(n, *successes)))


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None and interval.low is not None and interval.high is not None
    return interval.low, interval.high


def drawn(
    rng: np.random.Generator, p: float, correlation: float, n: int, seeds: int
) -> list[Share]:
    """A beta-binomial draw: what a seed changes has an intraclass ``correlation``."""
    size = (1 - correlation) / correlation
    return shares(
        n, *(int(count) for count in rng.binomial(n, rng.beta(p * size, (1 - p) * size, seeds)))
    )


@given(SHARES)
def test_a_share_is_never_outside_0_and_1_and_never_certain(shares: list[Share]) -> None:
    """The board printed .948 [.850, 1.046], and 0 with no width at all, as if proven."""
    interval = share_interval(shares)
    low, high = ends(interval)
    assert 0 <= low <= interval.mean <= high <= 1
    assert high - low > 1e-3
    assert interval.mean == t_interval([share.value for share in shares]).mean


@given(SHARES)
def test_a_share_and_its_complement_mirror_each_other(shares: list[Share]) -> None:
    """Or it would matter whether successes or failures are counted."""
    low, high = ends(share_interval(shares))
    other_low, other_high = ends(
        share_interval([Share(1 - share.value, share.n) for share in shares])
    )
    assert (low, high) == pytest.approx((1 - other_high, 1 - other_low), abs=1e-9)


@pytest.mark.parametrize(
    "counts", [(10, 12, 11), (2, 30, 60), (0, 0, 0), (64, 64, 60), (1, 0, 0, 2, 0)]
)
def test_the_ends_are_the_shares_that_are_just_t_standard_errors_away(
    counts: tuple[int, ...],
) -> None:
    """The definition of a score interval, with the design effect by hand: between-seed over
    binomial variance.
    """
    n, seeds = 64, len(counts)
    values = np.array(counts) / n
    p, total = values.mean(), n * seeds
    binomial = p * (1 - p) / total
    effect = max(1 + 63 * 0.005, values.var(ddof=1) / seeds / binomial if binomial else 0)
    t = stats.t.ppf(0.975, seeds - 1)
    for end in ends(share_interval(shares(n, *counts))):
        if 0 < end < 1:
            assert abs(p - end) == pytest.approx(
                t * math.sqrt(end * (1 - end) * effect / total), rel=1e-9
            )


def test_seeds_that_differ_widen_the_interval_and_more_samples_narrow_it() -> None:
    """An interval that ignores one of the two says nothing about another run."""
    width = {
        name: np.subtract(*reversed(ends(share_interval(values))))
        for name, values in {
            "alike": shares(64, 32, 32, 32),
            "apart": shares(64, 8, 32, 56),
            "more": shares(256, 128, 128, 128),
            "five": shares(64, 32, 32, 32, 32, 32),
        }.items()
    }
    assert width["apart"] > 1.5 * width["alike"] and width["more"] < 0.8 * width["alike"]
    assert width["five"] < 0.7 * width["alike"]


def test_many_samples_a_seed_are_believed_for_what_seeds_differ_by() -> None:
    """A floor that grew with n would give every accuracy on thousands of images the same few
    percent, whatever its seeds say.
    """
    low, high = ends(share_interval([Share(value, 20_000) for value in (0.0100, 0.0101, 0.0102)]))
    assert 0.007 < low < high < 0.014


def test_one_seed_has_no_interval_and_what_is_no_share_is_refused() -> None:
    """One seed says nothing of others; 1.2 is no share."""
    assert share_interval(shares(64, 32)) == Interval(0.5, None, None, 1)
    for value, n in ((1.2, 10), (-0.1, 10), (0.5, 0), (math.nan, 3), (0.5, math.inf)):
        with pytest.raises(ValueError, match=r"a share must be in \[0, 1\] of n > 0"):
            Share(value, n)


@pytest.mark.parametrize(
    ("p", "correlation", "n", "seeds"),
    [(0.95, 0.02, 64, 3), (0.24, 0.02, 256, 5), (0.01, 0.1, 256, 5)],
)
def test_95_percent_intervals_of_a_share_cover_it(
    p: float, correlation: float, n: int, seeds: int
) -> None:
    """Student's t covers .43 to .93 there with three seeds; too few covered means claims that
    another run takes back.
    """
    rng = np.random.default_rng(1)
    intervals = [ends(share_interval(drawn(rng, p, correlation, n, seeds))) for _ in range(400)]
    assert np.mean([low <= p <= high for low, high in intervals]) > 0.92


def test_three_equal_differences_of_one_image_are_not_certain() -> None:
    """1/64 against 0 in each of three seeds was a proven difference, and ranked a defense that
    changes nothing first.
    """
    low, high = ends(share_difference(by_seed(64, 1, 1, 1), by_seed(64, 0, 0, 0)))
    assert low < 0 < 1 / 64 < high
    low, _ = ends(share_difference(by_seed(64, 60, 61, 61), by_seed(64, 3, 2, 2)))
    assert low > 0.5


def test_a_share_less_an_exact_rate_has_the_spread_of_counting() -> None:
    """A share of 1 in each of three seeds, less the poison rate, was +0.503 [0.503, 0.503]."""
    low, high = ends(share_less_exact(by_seed(256, 256, 256, 256), {0: 0.497, 1: 0.497, 2: 0.497}))
    assert low < 0.5025 < 0.5035 < high and high - low < 0.03
    half = 4.302653 * math.sqrt((769 / 770) * (1 / 770) / 768)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-6)
    # Seeds that vary by more than that are believed.
    varied = share_less_exact(by_seed(256, 20, 120, 220), {0: 0.1, 1: 0.1, 2: 0.1})
    assert ends(varied)[0] == pytest.approx(
        ends(t_interval([n / 256 - 0.1 for n in (20, 120, 220)]))[0]
    )
    assert share_less_exact(by_seed(256, 1), {7: 0.1}) is None


def test_a_difference_of_seeds_that_vary_is_the_paired_t_interval() -> None:
    """Where the seeds say more than the samples, the floor changes nothing; cells of a seed share
    their noise.
    """
    first, second = by_seed(64, 60, 50, 40), by_seed(64, 20, 5, 15)
    expected = t_interval([40 / 64, 45 / 64, 25 / 64])
    assert ends(share_difference(first, second)) == pytest.approx(ends(expected), abs=1e-12)


@given(SHARES, SHARES)
def test_a_difference_stays_in_range_and_turns_round_with_its_sides(
    one: list[Share], other: list[Share]
) -> None:
    """A difference of shares beyond 1, or a sign that depends on the order, would be nonsense."""
    first, second = dict(enumerate(one)), dict(enumerate(other))
    low, high = ends(share_difference(first, second))
    assert -1 <= low <= high <= 1 and high - low > 1e-3
    assert ends(share_difference(second, first)) == pytest.approx((-high, -low), abs=1e-12)


def test_outcomes_of_the_same_samples_make_a_difference_more_precise() -> None:
    """Two cells that succeed on the same samples, but for one a seed, differ by less than two
    independent ones might.
    """
    rng = np.random.default_rng(0)
    outcomes = {}
    for seed in range(3):
        base = (rng.random(64) < 0.5).astype(float)
        outcomes[seed] = (base.tolist(), np.where(np.arange(64) == seed, 1 - base, base).tolist())
    first = {seed: Share(float(np.mean(one)), 64) for seed, (one, _) in outcomes.items()}
    second = {seed: Share(float(np.mean(other)), 64) for seed, (_, other) in outcomes.items()}
    paired, plain = (
        ends(share_difference(first, second, outcomes)),
        ends(share_difference(first, second)),
    )
    assert paired[1] - paired[0] < 0.5 * (plain[1] - plain[0]) and paired[0] < 0 < paired[1]
    # Outcomes of one seed only cannot speak for the others.
    assert ends(share_difference(first, second, {0: outcomes[0]})) == plain
    with pytest.raises(ValueError, match="two lengths"):
        share_difference(first, second, outcomes | {1: ([1.0], [0.0, 1.0])})


def test_clustered_outcomes_weigh_what_they_are_worth() -> None:
    """Four crops of one digit are not four images."""
    outcomes = {seed: ([1.0, 0.0] * 32, [0.0, 0.0] * 32) for seed in range(3)}

    def width(n: float) -> float:
        one, other = (
            {seed: Share(0.5, n) for seed in range(3)},
            {seed: Share(0.0, n) for seed in range(3)},
        )
        low, high = ends(share_difference(one, other, outcomes))
        return high - low

    assert width(32) == pytest.approx(math.sqrt(2) * width(64), rel=1e-9)


def test_cells_that_do_not_differ_are_told_apart_in_fewer_than_5_of_100_boards() -> None:
    """The false alarm of "holds"."""
    rng = np.random.default_rng(2)
    alarms = 0
    for p, n in itertools.product((0.02, 0.3, 0.95), (64, 256)):
        for _ in range(100):
            one, other = (dict(enumerate(drawn(rng, p, 0.02, n, 3))) for _ in range(2))
            difference = share_difference(one, other)
            alarms += difference is not None and difference.excludes_zero()
    assert alarms <= 0.05 * 600


def test_no_common_seed_is_no_difference_and_one_has_no_interval() -> None:
    """Seeds are paired or not compared at all."""
    assert share_difference({0: Share(0.1, 9)}, {1: Share(0.2, 9)}) is None
    assert share_difference({0: Share(0.5, 8)}, {0: Share(0.25, 8), 1: Share(1, 8)}) == Interval(
        0.25, None, None, 1
    )


@pytest.mark.parametrize(("p", "seeds", "expected"), [(0.9, 5, 0.8), (0.1, 5, 0.8), (0.9, 3, 0.8)])
def test_the_minimum_detectable_difference_is_found_as_often_as_it_says(
    p: float, seeds: int, expected: float
) -> None:
    """ "Not found" means little where a real difference of that size would not have been found
    either.
    """
    rng, n = np.random.default_rng(3), 64
    least = minimum_detectable_difference(shares(n, *[round(p * n)] * seeds))
    assert least is not None
    q = p - least if p > 0.5 else p + least
    detected = 0
    for _ in range(400):
        one, other = by_seed(n, *rng.binomial(n, p, seeds)), by_seed(n, *rng.binomial(n, q, seeds))
        difference = share_difference(one, other)
        detected += difference is not None and difference.excludes_zero()
    # The interval is wider than the truth here (its floor), and the design effect allows for more
    # than these draws have.
    assert expected - 0.12 < detected / 400 < expected + 0.2


def test_more_seeds_find_smaller_differences_and_two_that_disagree_find_none() -> None:
    """What a reader needs to choose the number of seeds."""
    three, five = (minimum_detectable_difference(shares(64, *[58] * n)) for n in (3, 5))
    assert three is not None and five is not None and 0 < five < three < 1
    assert minimum_detectable_difference(shares(64, 0, 64)) is None
    assert minimum_detectable_difference(shares(64, 32)) is None


def test_positive_values_have_positive_intervals() -> None:
    """An MSE of [-.002, .01] cannot be; t on the logarithm gives the same where the spread is
    small.
    """
    low, high = ends(positive_interval([0.001, 0.004, 0.013]))
    assert 0 < low < 0.006 < high
    assert math.log(high / 0.006) == pytest.approx(math.log(0.006 / low))
    near, plain = positive_interval([0.099, 0.1, 0.101]), t_interval([0.099, 0.1, 0.101])
    assert ends(near) == pytest.approx(ends(plain), rel=1e-3)
    assert positive_interval([0.0, 0.0, 0.0]) == Interval(0, 0, 0, 3)
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        positive_interval([1.0, -1.0])


def test_holm_on_the_textbook_example() -> None:
    """Holm 1979: the smallest times their number, then one fewer, never below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1, 1]
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(values: list[float]) -> None:
    """Weaker would let claims through by chance, stronger would cost power for nothing; the order
    stays.
    """
    corrected = holm(values)
    for (p, adjusted), (q, other) in itertools.product(
        zip(values, corrected, strict=True), repeat=2
    ):
        assert p <= adjusted <= min(1, len(values) * p) + 1e-12
        assert p > q or adjusted <= other


@pytest.mark.parametrize("seeds", [5, 6, 8, 10])
def test_many_samples_and_seeds_find_small_differences(seeds: int) -> None:
    """Where SciPy's distribution has no number a board must be built all the same."""
    least = [minimum_detectable_difference(shares(n, *[n // 2] * seeds)) for n in (1000, 20000)]
    assert all(one is not None for one in least)
    assert 0 < (least[1] or 0) < (least[0] or 0) < 0.2
