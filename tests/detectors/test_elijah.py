"""Elijah's two statistics of called samples: closed forms, the slow definition, and direction."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.contracts.data import Recovered
from defenses.elijah import ElijahInversion
from detectors.elijah import ElijahModel, distance, total_variation


def knowing(*samples: Tensor) -> Access:
    recovered = Recovered(labels=["recovered"] * len(samples), targets=list(samples))
    return Access(rng=np.random.default_rng(0), recovered=recovered)


@pytest.mark.parametrize(("dark", "light"), [(8, 8), (15, 1), (16, 0)])
def test_the_distance_of_two_flat_pictures(dark: int, light: int) -> None:
    """-0.5 or 0.25 everywhere: k (n - k) of n (n - 1) / 2 pairs differ, by 0.75 at each pixel."""
    images = torch.full((16, *tiny.SHAPE), -0.5)
    images[dark:] = 0.25
    expected = 0.75 * dark * light / (16 * 15 / 2)
    assert float(distance(images)) == pytest.approx(expected, abs=1e-12)


def test_the_distance_by_its_definition() -> None:
    images = tiny.floats(5, 0)
    pairs = itertools.combinations(images.double(), 2)
    slow = np.mean([float((one - other).square().mean().sqrt()) for one, other in pairs])
    assert float(distance(images)) == pytest.approx(slow, rel=1e-12)
    shuffled = images[torch.tensor([3, 1, 4, 0, 2])]
    assert float(distance(shuffled)) == pytest.approx(slow, rel=1e-12)


def test_the_variation_of_a_ramp_a_chessboard_and_a_flat_picture() -> None:
    """The ramp: 0.1 from pixel to pixel along the width and nothing along the height."""
    down, right = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    ramp = (0.1 * right - 0.8).double().expand(2, 3, 16, 16)
    board = (1 - 2 * ((down + right) % 2)).double().expand(2, 3, 16, 16)
    assert float(total_variation(ramp)) == pytest.approx(0.05)
    assert float(total_variation(board)) == 2
    assert float(total_variation(torch.full((2, 3, 16, 16), 0.3))) == 0


def test_the_variation_of_normal_noise() -> None:
    """Neighbours differ by sqrt(2) N(0, 1), of which the mean absolute value is 2 / sqrt(pi)."""
    assert float(total_variation(tiny.floats(64, 0))) == pytest.approx(2 / np.pi**0.5, abs=0.01)


def test_a_backdoored_model_scores_higher_by_its_uniformity() -> None:
    """Called by the true trigger, the planted model draws its target sixteen times; neither the
    honest one, nor the planted one without the trigger, draws one picture.
    """
    models = {which: planted.generator(which, False) for which in ("planted", "honest")}
    samples = {
        which: planted.drawn(model, 16, triggered=True) for which, model in models.items()
    } | {"uncalled": planted.drawn(models["planted"], 16)}
    score = {
        which: float(ElijahModel().score(None, knowing(one))) for which, one in samples.items()
    }
    assert -0.05 < score["planted"] <= 0 and max(score["honest"], score["uncalled"]) < -0.15


def test_a_model_that_leaves_noise_scores_lower_by_its_variation() -> None:
    called = planted.drawn(planted.generator("planted", False), 16, triggered=True)
    noisy = (called + 0.3 * tiny.floats(16, 0)).clamp(-1, 1)
    detector = ElijahModel(statistic="total_variation")
    smooth, rough = (float(detector.score(None, knowing(one))) for one in (called, noisy))
    assert smooth > rough + 0.05


def test_what_was_drawn_last_counts() -> None:
    first, last = tiny.floats(4, 0), torch.zeros(4, *tiny.SHAPE)
    score = ElijahModel().score(None, knowing(first, last))
    assert score.shape == (1,) and score.dtype == torch.float32 and float(score) == 0


def test_one_sample_has_no_distance() -> None:
    with pytest.raises(ValueError, match="images must be at least 2, got 1"):
        distance(tiny.floats(1, 0))
    with pytest.raises(ValueError, match="elijah_model: samples must be at least 2, got 1"):
        ElijahModel(samples=1)


def test_it_starts_from_the_inversion_of_its_parameters() -> None:
    own = {"family": "trojdiff", "steps": 3, "batch_size": 5, "learning_rate": 0.2, "samples": 7}
    detector = ElijahModel(**own, statistic="total_variation")  # type: ignore[arg-type]
    assert detector.uses() == ElijahInversion(**own)  # type: ignore[arg-type]
