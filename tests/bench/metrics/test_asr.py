"""The success rule: what the board calls an attack's success, and what it must never call so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.metrics.asr import FIELD_THRESHOLD, Calibration, calibrate, success_rate, vacuous
from bench.metrics.target import best_constant_mse, mse


def greys(*levels: float) -> Tensor:
    """One flat 1 x 2 x 2 image a level."""
    return torch.tensor(levels, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 2, 2)


def half_and_half() -> Tensor:
    """A 1 x 2 x 2 target: two pixels 0, two pixels 1. Any flat grey g has MSE (g^2 + (1 - g)^2) / 2
    to it, 1/4 at best.
    """
    return torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])


def test_the_threshold_is_half_the_best_constant_when_real_images_are_far() -> None:
    calibration = calibrate(greys(0.0, 1.0), half_and_half())
    assert calibration == Calibration(threshold=0.125, real_percentile=0.5, half_constant=0.125)


def test_the_threshold_is_the_real_percentile_when_real_images_are_near() -> None:
    near = half_and_half()[None].double() * 0.8
    calibration = calibrate(torch.cat([near, greys(0.0, 1.0)]), half_and_half())
    # 0.2^2 over half of the pixels
    assert calibration.real_percentile == pytest.approx(0.02)
    assert calibration.threshold == calibration.real_percentile
    assert calibration.half_constant == 0.125


def test_the_percentile_is_an_order_statistic() -> None:
    """101 real images: the 1st percentile is the second smallest MSE, so exactly one real image is
    below it.
    """
    goal = torch.zeros(1, 2, 2)
    levels = torch.linspace(0.2, 0.9, 101, dtype=torch.float64)
    calibration = calibrate(greys(*levels.tolist()), goal)
    assert calibration.real_percentile == pytest.approx(float(levels[1]) ** 2)


def test_success_is_strictly_below_the_threshold() -> None:
    """The best constant image of an all-grey world sits exactly on its own MSE: equality must not
    count.
    """
    assert success_rate([0.1, 0.0999, 0.2, 0.0], 0.1) == 0.5
    assert success_rate(np.array([0.1]), 0.1) == 0.0
    assert success_rate([0.3, 0.2], 0.1) == 0.0
    assert success_rate([0.0], 0.1) == 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 250), flatness=st.floats(0, 1))
def test_clean_data_and_collapsed_generators_never_count(
    seed: int, n: int, flatness: float
) -> None:
    """For any target, however flat, and any data: at most 1 % of clean images succeed, and no
    one-colour image does.
    """
    generator = torch.Generator().manual_seed(seed)
    goal = (flatness * 0.5 + (1 - flatness) * torch.rand(3, 6, 6, generator=generator)).clamp(0, 1)
    real = torch.randint(0, 256, (n, 3, 6, 6), dtype=torch.uint8, generator=generator)
    threshold = calibrate(real, goal).threshold
    assert success_rate(mse(real, goal), threshold) <= 0.01
    best = goal.double().mean(dim=(1, 2), keepdim=True).expand(1, 3, 6, 6)
    constants = torch.cat(
        [best, torch.rand(20, 3, 1, 1, generator=generator).double().expand(-1, -1, 6, 6)]
    )
    assert success_rate(mse(constants, goal), threshold) == 0.0


def test_a_reproduced_target_counts() -> None:
    """A rule that nothing passes would be safe and useless: 8-bit copies of the target with slight
    noise succeed.
    """
    generator = torch.Generator().manual_seed(0)
    goal = torch.rand(3, 16, 16, generator=generator)
    real = torch.randint(0, 256, (100, 3, 16, 16), dtype=torch.uint8, generator=generator)
    copies = (
        ((goal + 0.05 * torch.randn(32, 3, 16, 16, generator=generator)).clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
    )
    calibration = calibrate(real, goal)
    assert calibration.usable
    assert success_rate(mse(copies, goal), calibration.threshold) == 1.0


def test_a_flat_target_is_declared_unusable() -> None:
    """A rate of 0 against a flat target must be told apart from a defense that works."""
    assert not calibrate(greys(0.0, 1.0), torch.full((1, 2, 2), 0.5)).usable


def test_the_field_threshold_is_vacuous_for_a_flat_target_and_not_for_a_busy_one() -> None:
    assert FIELD_THRESHOLD == 0.1
    assert vacuous([0.5, 0.6], constant_mse=0.05)
    assert not vacuous([0.5, 0.6], constant_mse=0.1)
    assert not vacuous([0.05] + 19 * [0.5], constant_mse=0.2)
    assert vacuous(2 * [0.05] + 18 * [0.5], constant_mse=0.2)
    assert not vacuous([0.05, 0.05], constant_mse=0.2, threshold=0.01)
    flat = torch.full((3, 16, 16), 0.3)
    flat[:, 12:, 12:] = 1.0
    busy = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    assert vacuous([0.5], best_constant_mse(flat))
    assert not vacuous([0.5], best_constant_mse(busy))


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1], [0.2]]])
def test_values_that_would_silently_count_as_failures_are_refused(values: object) -> None:
    with pytest.raises(ValueError, match="non-empty list of finite numbers"):
        success_rate(values, 0.1)  # type: ignore[arg-type]
