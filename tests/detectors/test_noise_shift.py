"""Noise shift: the cheapest detector of all is worth its column only if its statistics are the
textbook's.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from bench.artwork import triggers
from bench.contracts.access import Access
from bench.metrics.detection import auroc
from detectors.noise_shift import NoiseShift

SHAPE = (3, 16, 16)


def access() -> Access:
    return Access(rng=np.random.default_rng(0))


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_z_is_the_textbook_statistic() -> None:
    x = noise(20)
    expected = [abs(float(row.sum())) / (3 * 16 * 16) ** 0.5 for row in x.double()]
    torch.testing.assert_close(
        NoiseShift(test="z").score(x, access()), torch.tensor(expected), rtol=0, atol=1e-5
    )
    ones = torch.ones(1, *SHAPE)
    assert NoiseShift(test="z").score(-ones, access()).item() == pytest.approx(768**0.5)


@pytest.mark.parametrize(
    "change",
    [lambda x: x, lambda x: x + 0.3, lambda x: x - 0.3, lambda x: x * 0.5, lambda x: x.round()],
)
def test_ks_is_scipys(change: object) -> None:
    """Shifted up, shifted down (the other side of the supremum), narrowed, and with ties."""
    x = change(noise(10))
    expected = [stats.kstest(row.double().flatten().numpy(), "norm").statistic for row in x]
    torch.testing.assert_close(
        NoiseShift(test="ks").score(x, access()),
        torch.tensor(expected, dtype=torch.float32),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("test", ["z", "ks"])
@pytest.mark.parametrize("name", ["grey_box", "stop_sign"])
def test_baddiffusions_noise_stands_out(test: str, name: str) -> None:
    """Higher is more suspicious: e + g, whose background of -1 shifts nearly every pixel."""
    x = torch.cat([noise(50), noise(50, 1) + triggers.trigger(name, SHAPE)])
    assert auroc(NoiseShift(test=test).score(x, access()), np.arange(100) >= 50) > 0.999


@pytest.mark.parametrize("test", ["z", "ks"])
def test_clean_noise_against_clean_noise_is_a_coin(test: str) -> None:
    """The control: a detector that told these apart would be telling the batches apart."""
    scores = NoiseShift(test=test).score(noise(1000), access())
    assert 0.44 < auroc(scores, np.arange(1000) >= 500) < 0.56


def test_only_ks_sees_a_change_that_leaves_the_mean() -> None:
    """What a reader of the board must know before trusting the z test: half up and half down adds
    up to nothing.
    """
    balanced = torch.ones(SHAPE)
    balanced[:, :8] = -1
    x = torch.cat([noise(50), noise(50, 1) + balanced])
    blind, seeing = (
        auroc(NoiseShift(test=test).score(x, access()), np.arange(100) >= 50)
        for test in ("z", "ks")
    )
    assert 0.35 < blind < 0.65
    assert seeing > 0.999


@pytest.mark.parametrize("test", ["z", "ks"])
def test_a_score_does_not_depend_on_the_other_rows_and_the_noise_stays(test: str) -> None:
    x, detector = noise(6), NoiseShift(test=test)
    before = x.clone()
    whole = detector.score(x, access())
    assert whole.shape == (6,) and whole.dtype == torch.float32
    assert torch.equal(torch.cat([detector.score(row[None], access()) for row in x]), whole)
    assert torch.equal(detector.score(x.flip(0), access()).flip(0), whole)
    assert torch.equal(x, before)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_shift: test must be one of 'z', 'ks', got 't'"):
        NoiseShift(test="t")
