"""The test of Kolmogorov and Smirnov: its p-value is a promise about false alarms, made before
anything is measured.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from bench.artwork import triggers
from bench.contracts.access import Access
from bench.metrics.detection import auroc
from detectors.noise_ks import NoiseKS, log_p_value
from detectors.noise_shift import NoiseShift

SHAPE = (3, 16, 16)


def access() -> Access:
    return Access(rng=np.random.default_rng(0))


def noise(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def p_of(scores: torch.Tensor) -> np.ndarray:
    return 10 ** -scores.double().numpy()


@pytest.mark.parametrize("shift", [0.0, 0.03, -0.1])
def test_p_is_that_of_scipys_exact_distribution(shift: float) -> None:
    x = noise(40) + shift
    exact = [stats.kstest(row.double().flatten().numpy(), "norm").pvalue for row in x]
    np.testing.assert_allclose(p_of(NoiseKS().score(x, access())), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("distance", [0.03, 0.08, 0.2])
def test_far_tails_keep_their_order_of_magnitude(distance: float) -> None:
    """A p of 1e-26 against 1e-25 decides which noise is more suspicious."""
    exact = stats.kstwo.logsf(distance, 768)
    assert log_p_value(np.array([distance]), 768)[0] == pytest.approx(exact, rel=0.01)


def test_the_two_forms_of_the_series_meet() -> None:
    """At x = 1: a step there would reverse the order of noises on either side of it."""
    distances = np.linspace(0.03, 0.042, 2001)  # x from .84 to 1.18 for 768 values
    steps = np.diff(log_p_value(distances, 768))
    assert (steps < 0).all() and np.abs(np.diff(steps)).max() < 1e-6


@pytest.mark.parametrize("by", ["image", "channel"])
def test_clean_noise_has_uniform_p_values(by: str) -> None:
    """What a defender may promise: one user in a hundred below a p of .01."""
    p = p_of(NoiseKS(by=by).score(noise(3000), access()))  # type: ignore[arg-type]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.005 < (p < 0.01).mean() < 0.016


def test_noise_at_any_distance_has_a_finite_score_that_grows() -> None:
    """p underflows where D is large; infinite scores would all be equal."""
    x = torch.cat([noise(1, shape=(3, 64, 64)) + g for g in (0.5, 1.0, 3.0, 10.0)])
    for by in ("image", "channel"):
        scores = NoiseKS(by=by).score(x, access())  # type: ignore[arg-type]
        assert bool(torch.isfinite(scores).all()) and bool((scores[:-1] < scores[1:]).all())
        assert scores[2] > 1000  # p = 1e-1000


def test_a_whole_images_order_is_that_of_the_distance() -> None:
    """What the docstring promises, so that nobody takes the two for two pieces of evidence."""
    x = torch.cat([noise(50), noise(50, 1) + 0.2])
    p, distance = NoiseKS().score(x, access()), NoiseShift(test="ks").score(x, access())
    assert stats.spearmanr(p, distance).statistic > 0.9999


@pytest.mark.parametrize("name", ["grey_box", "stop_sign"])
def test_baddiffusions_noise_stands_out(name: str) -> None:
    x = torch.cat([noise(50), noise(50, 1) + triggers.trigger(name, SHAPE)])
    assert auroc(NoiseKS().score(x, access()), np.arange(100) >= 50) > 0.999


def test_one_colour_is_seen_by_the_channel() -> None:
    """A trigger in one channel of three is diluted in the image; one in all of them is not."""
    one_colour = torch.zeros(SHAPE)
    one_colour[1] = 0.15
    x, positive = torch.cat([noise(200), noise(200, 1) + one_colour]), np.arange(400) >= 200
    image, channel = (
        auroc(NoiseKS(by=by).score(x, access()), positive)  # type: ignore[arg-type]
        for by in ("image", "channel")
    )
    assert channel > image + 0.05
    x = torch.cat([noise(200), noise(200, 1) + 0.05])
    image, channel = (
        auroc(NoiseKS(by=by).score(x, access()), positive)  # type: ignore[arg-type]
        for by in ("image", "channel")
    )
    assert image > channel + 0.02


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(
        ValueError, match="noise_ks: by must be one of 'image', 'channel', got 'row'"
    ):
        NoiseKS(by="row")  # type: ignore[arg-type]
