"""Intervals: the board calls two entries different when these say so, so they must cover what they
claim to cover.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bench.metrics.fid import Statistics, fid, statistics
from bench.metrics.uncertainty import (
    bootstrap_interval,
    design_effect,
    fid_interval,
    proportion_interval,
)


def normal(rng: np.random.Generator, n: int, d: int, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)) * scale)


# --- means ----------------------------------------------------------------------------------------


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
    assert (
        bootstrap_interval(values, seed=3)
        == bootstrap_interval(values, seed=3)
        != bootstrap_interval(values, seed=4)
    )
    narrow, wide = bootstrap_interval(values, 0.5, seed=3), bootstrap_interval(values, 0.99, seed=3)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


@settings(max_examples=25, deadline=None)
@example(values=[0.0, 1e-187], seed=0)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30), seed=st.integers(0, 2**31))
def test_a_mean_interval_is_finite_ordered_and_within_the_values(
    values: list[float], seed: int
) -> None:
    """Down to two values, nearly equal values and one outlier: a NaN here would break the
    record.
    """
    low, high = bootstrap_interval(values, seed=seed)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.25] * 10, seed=0) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, float("nan")], [[0.0, 1.0]]])
def test_too_few_or_broken_values_are_refused(values: object) -> None:
    with pytest.raises(ValueError, match="at least 2 finite numbers"):
        bootstrap_interval(values, seed=0)  # type: ignore[arg-type]


# --- shares ---------------------------------------------------------------------------------------


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
    inside = [
        k
        for k in outcomes
        if proportion_interval(k, 128)[0] <= share <= proportion_interval(k, 128)[1]
    ]
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


# --- FID ------------------------------------------------------------------------------------------

REFERENCE = Statistics(mean=np.full(6, 0.2), covariance=np.diag(np.linspace(0.5, 2.0, 6)))


def test_a_95_percent_interval_for_fid_covers_the_mean_fid_at_that_n() -> None:
    """What the interval claims: where FID falls, on average, for other samples of the same size
    from the same generator.
    """
    rng = np.random.default_rng(5)
    expected = np.mean([fid(statistics(normal(rng, 150, 6)), REFERENCE) for _ in range(1_000)])
    covered = 0
    for _ in range(200):
        low, high = fid_interval(normal(rng, 150, 6), REFERENCE)
        covered += low <= expected <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize(("n", "d"), [(100, 6), (12, 20)])
def test_the_fid_interval_is_the_jackknife_by_definition(n: int, d: int) -> None:
    """FID with one image weighted a little more, numerically, for n above and below the number of
    features.
    """
    rng = np.random.default_rng(6)
    points = normal(rng, n, d, scale=1.5)
    root = rng.standard_normal((d, d))
    reference = Statistics(mean=rng.standard_normal(d), covariance=root @ root.T + np.eye(d))

    def weighted_fid(weights: np.ndarray) -> float:
        share = weights / weights.sum()
        mean = share @ points.numpy()
        centred = points.numpy() - mean
        covariance = (centred * share[:, None]).T @ centred * n / (n - 1)
        return fid(Statistics(mean=mean, covariance=covariance), reference)

    step, derivatives = 1e-4, []
    for i in range(n):
        up, down = np.ones(n), np.ones(n)
        up[i], down[i] = 1 + step, 1 - step
        derivatives.append((weighted_fid(up) - weighted_fid(down)) / (2 * step) * n)
    low, high = fid_interval(points, reference)
    expected = 2 * 1.959963985 * np.std(derivatives, ddof=1) / np.sqrt(n)
    assert high - low == pytest.approx(expected, rel=2e-3)
    assert (high + low) / 2 == pytest.approx(fid(statistics(points), reference), rel=1e-9)


def test_fid_intervals_narrow_with_n() -> None:
    rng = np.random.default_rng(10)
    small, large = normal(rng, 60, 6, scale=1.5), normal(rng, 1_500, 6, scale=1.5)
    widths = [
        high - low for low, high in (fid_interval(side, REFERENCE) for side in (small, large))
    ]
    # By a factor of 5 in theory.
    assert widths[1] < widths[0] / 2.5


def test_a_fid_interval_never_goes_below_0() -> None:
    """A distance below 0 would be nonsense."""
    features = normal(np.random.default_rng(11), 50, 3)
    low, high = fid_interval(features, Statistics(mean=np.zeros(3), covariance=np.eye(3)))
    assert low == 0 and 0 < high < 1
    assert fid_interval(features, statistics(features)) == pytest.approx((0, 0), abs=1e-6)


def test_the_interval_costs_little_beside_drawing_the_samples() -> None:
    """10,000 images, 64 features: every cell of the board pays this, so at most a second of CPU
    time.
    """
    features = normal(np.random.default_rng(12), 10_000, 64)
    reference = Statistics(mean=np.zeros(64), covariance=np.eye(64))
    start = time.process_time()
    fid_interval(features, reference)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_in_percent_is_refused(confidence: float) -> None:
    for attempt in (
        lambda: bootstrap_interval([0.0, 1.0], confidence, seed=0),
        lambda: proportion_interval(1, 2, confidence),
        lambda: fid_interval(torch.zeros(4, 6), REFERENCE, confidence),
    ):
        with pytest.raises(ValueError, match=rf"confidence must be in \(0, 1\), got {confidence}"):
            attempt()


# --- clusters -------------------------------------------------------------------------------------


def test_the_design_effect_of_copies_is_their_number() -> None:
    """Four equal crops of a digit are one image; crops that have nothing in common are four."""
    rng = np.random.default_rng(0)
    digits, groups = (rng.random(500) < 0.3).astype(float), np.repeat(np.arange(500), 4)
    assert design_effect(np.repeat(digits, 4), groups) == pytest.approx(4, rel=0.01)
    assert design_effect((rng.random(2000) < 0.3).astype(float), groups) == pytest.approx(
        1, abs=0.15
    )
    assert design_effect(np.repeat(digits, 4), None) == 1


def test_the_design_effect_is_the_variance_of_means_drawn_by_group() -> None:
    """What it claims: the variance of the mean had other digits been drawn, over that of as many
    independent images.
    """
    rng = np.random.default_rng(1)

    def drawn() -> np.ndarray:
        easy = rng.beta(9, 1, 300)
        return (rng.random((300, 4)) < easy[:, None]).astype(float).ravel()

    means = [drawn().mean() for _ in range(2_000)]
    expected = np.var(means) / (0.9 * 0.1 / 1200)
    effect = np.mean([design_effect(drawn(), np.repeat(np.arange(300), 4)) for _ in range(100)])
    assert effect == pytest.approx(expected, rel=0.1)


def test_all_alike_and_odd_groups() -> None:
    """1,440 right crops of 360 digits are 360 right digits, no more; unequal lengths are
    refused.
    """
    assert design_effect(np.ones(8), np.repeat([3, 7], 4)) == 4
    assert design_effect([0.0, 1.0, 1.0], [5, 5, 5]) == 3
    low, high = proportion_interval(360 * 0.9, 360)
    assert (low, high) == pytest.approx(proportion_interval(324, 360))
    assert proportion_interval(12.5, 25.3)[0] < 12.5 / 25.3 < proportion_interval(12.5, 25.3)[1]
    with pytest.raises(ValueError, match="one for each of the 2 outcomes"):
        design_effect([0.0, 1.0], [1])
    with pytest.raises(ValueError, match="non-empty list of finite"):
        design_effect([], None)
