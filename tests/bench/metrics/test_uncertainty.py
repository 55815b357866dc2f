"""Intervals: the board calls two entries different when these say so, so they must cover what they claim to cover."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bench.metrics import uncertainty
from bench.metrics.fid import Statistics, fid, statistics
from bench.metrics.uncertainty import bootstrap_fid, bootstrap_interval, proportion_interval


def normal(rng: np.random.Generator, n: int, d: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)) * scale)


# --- means -----------------------------------------------------------------------------------------------------------------


def test_a_95_percent_interval_for_a_mean_covers_it_95_times_in_100() -> None:
    """On skewed values such as MSEs (gamma, shape 2), n = 60."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.gamma(2.0, 0.5, size=60), seed=seed)
        covered += low <= 1.0 <= high
    assert 0.90 <= covered / 400 <= 0.99


def test_a_mean_interval_is_as_wide_as_theory_says() -> None:
    """The normal interval for a large sample, on both of the two methods."""
    for n in (1_000, 4_000):
        values = np.random.default_rng(1).standard_normal(n)
        low, high = bootstrap_interval(values, seed=0)
        half = 1.96 * values.std(ddof=1) / np.sqrt(n)
        assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
        assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_mean_intervals_repeat_by_seed_and_widen_with_confidence() -> None:
    values = np.random.default_rng(2).random(40)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    narrow, wide = bootstrap_interval(values, 0.5, seed=3), bootstrap_interval(values, 0.99, seed=3)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


@settings(max_examples=25, deadline=None)
@example(values=[0.0, 1e-187], seed=0)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30), seed=st.integers(0, 2**31))
def test_a_mean_interval_is_finite_ordered_and_within_the_values(values: list[float], seed: int) -> None:
    """Down to two values, nearly equal values and one outlier: a NaN here would break the record."""
    low, high = bootstrap_interval(values, seed=seed)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.25] * 10, seed=0) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, float("nan")], [[0.0, 1.0]]])
def test_too_few_or_broken_values_are_refused(values: object) -> None:
    with pytest.raises(ValueError, match="at least 2 finite numbers"):
        bootstrap_interval(values, seed=0)  # type: ignore[arg-type]


# --- shares ----------------------------------------------------------------------------------------------------------------


def test_proportion_interval_is_wilsons_closed_form() -> None:
    z, n, k = stats.norm.ppf(0.975), 128, 90
    share = k / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert proportion_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_an_attack_that_never_succeeds_still_has_an_upper_bound() -> None:
    """0 of 128 does not prove a rate of 0: z^2 / (n + z^2) above it."""
    z2 = stats.norm.ppf(0.975) ** 2
    assert proportion_interval(0, 128) == pytest.approx((0, z2 / (128 + z2)))
    assert proportion_interval(128, 128) == pytest.approx((128 / (128 + z2), 1))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.83])
def test_a_95_percent_interval_for_a_share_covers_it_95_times_in_100(share: float) -> None:
    """Exactly, by summing over every outcome of 128 samples."""
    outcomes = range(129)
    inside = [k for k in outcomes if proportion_interval(k, 128)[0] <= share <= proportion_interval(k, 128)[1]]
    assert 0.93 <= stats.binom.pmf(inside, 128, share).sum() <= 0.97


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 10_000))
def test_a_share_lies_inside_its_interval_inside_0_to_1(data: st.DataObject, n: int) -> None:
    k = data.draw(st.integers(0, n))
    low, high = proportion_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    mirrored = proportion_interval(n - k, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        proportion_interval(successes, n)


# --- FID -------------------------------------------------------------------------------------------------------------------

REFERENCE = Statistics(mean=np.full(6, 0.2), covariance=np.diag(np.linspace(0.5, 2.0, 6)))


def test_a_95_percent_interval_for_fid_covers_the_mean_fid_at_that_n() -> None:
    """What the interval claims: where FID falls, on average, for other samples of the same size from the same generator."""
    rng = np.random.default_rng(5)
    expected = np.mean([fid(statistics(normal(rng, 150, 6)), REFERENCE) for _ in range(1_000)])
    covered = 0
    for seed in range(200):
        low, high = bootstrap_fid(normal(rng, 150, 6), REFERENCE, resamples=100, seed=seed)
        covered += low <= expected <= high
    assert 0.90 <= covered / 200 <= 0.99


def slow_bootstrap(features: Tensor, resamples: int, seed: int) -> tuple[float, float]:
    """Resample rows, compute FID afresh each time, centre."""
    rng = np.random.default_rng(seed)
    n = len(features)
    distances = []
    for _ in range(resamples):
        counts = rng.multinomial(n, np.full(n, 1 / n))
        distances.append(fid(statistics(features.repeat_interleave(torch.from_numpy(counts), dim=0)), REFERENCE))
    low, high = np.quantile(distances, [0.025, 0.975]) - np.mean(distances) + fid(statistics(features), REFERENCE)
    return max(0.0, float(low)), float(high)


@pytest.mark.parametrize("n", [100, 4])
def test_the_fast_bootstrap_is_the_slow_one(n: int) -> None:
    """Weighted sums in whitened coordinates against FID of copied rows, for n above and below the number of features."""
    features = normal(np.random.default_rng(6), n, 6, scale=1.5)
    assert bootstrap_fid(features, REFERENCE, 30, seed=7) == pytest.approx(slow_bootstrap(features, 30, 7), rel=1e-5, abs=1e-6)


def test_a_fid_interval_contains_its_estimate_where_a_plain_percentile_one_would_not() -> None:
    """Resampling inflates FID: uncorrected, the interval of a good generator would exclude its own FID."""
    features = normal(np.random.default_rng(8), 128, 32)
    reference = Statistics(mean=np.zeros(32), covariance=np.eye(32))
    estimate = fid(statistics(features), reference)
    rows = np.random.default_rng(9).integers(128, size=(50, 128))
    uncorrected = [fid(statistics(features[row]), reference) for row in rows]
    assert np.quantile(uncorrected, 0.025) > estimate
    low, high = bootstrap_fid(features, reference, seed=0)
    assert 0 <= low < estimate < high


def test_fid_intervals_narrow_with_n_and_repeat_by_seed() -> None:
    rng = np.random.default_rng(10)
    small, large = normal(rng, 60, 6), normal(rng, 1_500, 6)
    widths = [high - low for low, high in (bootstrap_fid(side, REFERENCE, seed=0) for side in (small, large))]
    # By a factor of 5 in theory.
    assert widths[1] < widths[0] / 2.5
    assert bootstrap_fid(small, REFERENCE, seed=1) == bootstrap_fid(small, REFERENCE, seed=1)
    assert bootstrap_fid(small, REFERENCE, seed=1) != bootstrap_fid(small, REFERENCE, seed=2)


def test_a_fid_interval_never_goes_below_0() -> None:
    """Features that match the reference exactly have FID 0; a negative bound would be nonsense."""
    features = normal(np.random.default_rng(11), 50, 3)
    low, high = bootstrap_fid(features, statistics(features), seed=0)
    assert low == 0 and 0 < high < 1


def test_the_interval_costs_little_beside_drawing_the_samples() -> None:
    """512 images, 64 features, 200 resamples: every cell of the board pays this, so at most 2 seconds of CPU time."""
    features = normal(np.random.default_rng(12), 512, 64)
    reference = Statistics(mean=np.zeros(64), covariance=np.eye(64))
    start = time.process_time()
    bootstrap_fid(features, reference, seed=0)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_in_percent_is_refused(confidence: float) -> None:
    for attempt in (
        lambda: bootstrap_interval([0.0, 1.0], confidence, seed=0),
        lambda: proportion_interval(1, 2, confidence),
        lambda: bootstrap_fid(torch.zeros(4, 6), REFERENCE, 5, confidence, seed=0),
    ):
        with pytest.raises(ValueError, match=rf"confidence must be in \(0, 1\), got {confidence}"):
            attempt()


def test_one_resample_has_no_spread_and_is_refused() -> None:
    with pytest.raises(ValueError, match="resamples must be at least 2, got 1"):
        bootstrap_fid(torch.zeros(4, 6), REFERENCE, 1, seed=0)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (12, 20)])
def test_bootstrap_of_fid_says_the_same_wherever_it_is_calculated(n: int, d: int) -> None:
    """On a GPU torch calculates what NumPy does on a CPU; an interval that depended on the machine could not be compared."""
    stream = np.random.default_rng(0)
    points, other = stream.normal(size=(n, d)), stream.normal(size=(3 * n, d)) * 1.3
    mean, covariance = other.mean(0), np.cov(other, rowvar=False)
    drawn = [stream.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(5)]
    numpy = uncertainty._resampled(points, mean, covariance, drawn)
    tensors = [torch.from_numpy(array) for array in (points, mean, covariance)]
    np.testing.assert_allclose(uncertainty._resampled(*tensors, map(torch.from_numpy, drawn)), numpy, rtol=1e-7)
    if n > d:  # fewer images than features leave eigenvalues of 0, whose roots are rounding
        np.testing.assert_allclose(uncertainty._resampled(*tensors, map(torch.from_numpy, drawn)), numpy, rtol=1e-10)
