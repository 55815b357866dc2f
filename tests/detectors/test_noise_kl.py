"""The divergence of starting noise: against the integral it estimates, and its distribution where
there is nothing to see.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bench.artwork import triggers
from bench.contracts.access import Access
from bench.metrics.detection import auroc
from detectors.noise_kl import NoiseKL

SHAPE = (3, 16, 16)
ESTIMATES = ("histogram", "gaussian")


def access() -> Access:
    return Access(rng=np.random.default_rng(0))


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def kl(x: torch.Tensor, estimate: str, bins: int = 32) -> torch.Tensor:
    return NoiseKL(estimate=estimate, bins=bins).score(x, access())  # type: ignore[arg-type]


def quantiles(count: int) -> torch.Tensor:
    """``count`` values that lie as N(0, 1) has them, a row of one image."""
    grid = (np.arange(count) + 0.5) / count
    return torch.from_numpy(stats.norm.ppf(grid)).reshape(1, 1, -1, 1)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (-1.0, 1.0), (0.3, 0.6)])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_it_estimates_the_closed_form(estimate: str, shift: float, scale: float) -> None:
    """(g^2 + s^2 - 1) / 2 - ln s, g^2 / 2 where the scale is 1; of 400,000 values and fine bins."""
    x = shift + scale * quantiles(400_000)
    expected = (shift**2 + scale**2 - 1) / 2 - math.log(scale)
    assert float(kl(x, estimate, bins=4000)) == pytest.approx(expected, abs=0.003)


def test_the_histogram_is_the_sum_over_bins() -> None:
    """The definition, bin by bin, with empty bins and values beyond the outermost edges."""
    x = torch.cat([noise(3) * 0.5, noise(1) + 2, torch.full((1, *SHAPE), 40.0)])
    edges = stats.norm.ppf(np.linspace(0, 1, 9))
    expected = []
    for row in x.flatten(1).double().numpy():
        shares = np.histogram(row, edges)[0] / row.size
        expected.append(sum(p * math.log(8 * p) for p in shares if p > 0))
    np.testing.assert_allclose(kl(x, "histogram", bins=8).numpy(), expected, atol=1e-6)
    assert kl(x, "histogram", bins=8)[-1].item() == pytest.approx(math.log(8))


def test_the_gaussian_is_of_mean_and_variance() -> None:
    x = noise(6) * 0.7 + 0.2
    rows = x.flatten(1).double().numpy()
    expected = [(r.mean() ** 2 + r.var() - 1) / 2 - math.log(r.std()) for r in rows]
    np.testing.assert_allclose(kl(x, "gaussian").numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("estimate", "freedom"), [("histogram", 31), ("gaussian", 2)])
def test_clean_noise_follows_wilks(estimate: str, freedom: int) -> None:
    """2 d KL is chi-squared: what a threshold for noise of any size follows from."""
    statistic = 2 * 768 * kl(noise(3000), estimate).double().numpy()
    assert statistic.mean() == pytest.approx(freedom, rel=0.05)
    assert stats.kstest(statistic, stats.chi2(freedom).cdf).pvalue > 0.01


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize("name", ["grey_box", "stop_sign"])
def test_baddiffusions_noise_stands_out(estimate: str, name: str) -> None:
    x = torch.cat([noise(50), noise(50, 1) + triggers.trigger(name, SHAPE)])
    assert auroc(kl(x, estimate), np.arange(100) >= 50) > 0.999


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_a_scale_without_a_shift_stands_out(estimate: str) -> None:
    """TrojDiff's gamma: no mean sees it."""
    x = torch.cat([noise(50), 0.6 * noise(50, 1)])
    assert auroc(kl(x, estimate), np.arange(100) >= 50) > 0.999


def test_each_sees_what_the_other_does_not() -> None:
    """A shape of mean 0 and variance 1 is the histogram's; a small shift is the other's."""
    positive = np.arange(400) >= 200
    x = torch.cat([noise(200), noise(200, 1).sign()])
    assert auroc(kl(x, "histogram"), positive) == 1
    assert auroc(kl(x, "gaussian"), positive) < 0.55
    x = torch.cat([noise(200), noise(200, 1) + 0.08])
    assert auroc(kl(x, "gaussian"), positive) > auroc(kl(x, "histogram"), positive) + 0.05


def test_a_constant_is_far_and_finite() -> None:
    assert bool(torch.isfinite(kl(torch.zeros(1, *SHAPE), "gaussian")).all())
    assert kl(torch.zeros(1, *SHAPE), "gaussian").item() > 10


@pytest.mark.parametrize(("field", "value"), [("bins", 1), ("estimate", "knn")])
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"noise_kl: {field} must be .*, got {value!r}"):
        NoiseKL(**{field: value})  # type: ignore[arg-type]
