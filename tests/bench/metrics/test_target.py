"""MSE and SSIM to the target: every ASR, threshold and inversion baseline on the board is built on
these two.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.metrics import target as under_test
from bench.metrics.target import (
    best_constant_cosine,
    best_constant_mse,
    black_mse,
    cosine,
    mse,
    ssim,
)


def random_images(seed: int, n: int = 3, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    return torch.randint(
        0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def random_target(seed: int, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slow_ssim(image: np.ndarray, goal: np.ndarray) -> float:
    """The definition, pixel by pixel: Wang et al. 2004, equations 13 to 16, on images reflected at
    their edges.
    """
    weights = np.array(
        [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    )
    weights /= weights.sum()
    c1, c2 = 0.01**2, 0.03**2
    scores = []
    for x, y in zip(image, goal, strict=True):
        x, y = (np.pad(plane, 5, mode="reflect") for plane in (x, y))
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a, b = (plane[row : row + 11, column : column + 11] for plane in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                variance_a = (weights * (a - mean_a) ** 2).sum()
                variance_b = (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                scores.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * covariance + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
                )
    return float(np.mean(scores))


def test_mse_is_the_hand_worked_mean_over_channels_and_pixels() -> None:
    goal = torch.zeros(2, 2, 2)
    goal[0, 0, 0] = 1.0
    images = torch.zeros(3, 2, 2, 2)
    images[1] = goal
    images[2] = 0.5
    # One of 8 values is off by 1; none is; all are off by one half.
    np.testing.assert_allclose(mse(images, goal), [1 / 8, 0, 1 / 4], rtol=0, atol=1e-15)
    assert mse(images, goal).dtype == np.float64


def test_uint8_images_are_read_as_255ths() -> None:
    """Samples are stored as 8-bit images; a wrong scale would move every threshold."""
    images = torch.full((1, 3, 16, 16), 51, dtype=torch.uint8)
    assert mse(images, torch.zeros(3, 16, 16))[0] == pytest.approx(0.04, abs=1e-15)
    goal = random_target(0)
    np.testing.assert_allclose(
        ssim(images, goal), ssim(images.double() / 255, goal), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 12, 20)])
def test_ssim_is_its_slow_definition(shape: tuple[int, ...]) -> None:
    images, goal = random_images(1, 2, shape), random_target(2, shape)
    near = (goal + 0.1 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))).clamp(
        0, 1
    )
    for batch in (images, near):
        expected = [
            slow_ssim(
                image.double().numpy() / (255 if batch is images else 1), goal.double().numpy()
            )
            for image in batch
        ]
        np.testing.assert_allclose(ssim(batch, goal), expected, rtol=0, atol=1e-12)


def test_ssim_gives_torchmetrics_numbers() -> None:
    """Our SSIM can be set beside the attacks' papers, whose code uses torchmetrics. Values by
    torchmetrics 1.9.0 in float64.
    """
    ramp = torch.arange(3 * 16 * 16, dtype=torch.float64).reshape(3, 16, 16)
    goal = (torch.sin(ramp * 0.37) + 1) / 2
    images = torch.stack(
        [
            (torch.sin(ramp * 0.37 + 0.4) + 1) / 2,
            (torch.cos(ramp * 0.11) + 1) / 2,
            goal / 2,
            1 - goal,
            torch.zeros_like(goal),
        ]
    )
    expected = [
        0.848515639859808,
        0.009137030977808781,
        0.6431848819154998,
        -0.5743897154478517,
        6.622218965705001e-05,
    ]
    np.testing.assert_allclose(ssim(images, goal), expected, rtol=0, atol=1e-12)


def test_ssim_sees_a_target_in_the_corner() -> None:
    """The `corner` target lives in the last pixels of the image: reproducing it must score, at 16 x
    16 too.
    """
    goal = torch.full((3, 16, 16), 0.3)
    goal[:, 12:, 12:] = 1.0
    assert ssim(goal[None], goal)[0] == pytest.approx(1, abs=1e-12)
    assert ssim(torch.full((1, 3, 16, 16), 0.3), goal)[0] < 0.95


def test_farther_images_have_larger_mse_and_smaller_ssim() -> None:
    goal = random_target(4)
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(5))
    images = torch.stack(
        [(goal + scale * noise).clamp(0, 1) for scale in (0.0, 0.05, 0.1, 0.3, 0.9)]
    )
    assert (np.diff(mse(images, goal)) > 0).all()
    assert (np.diff(ssim(images, goal)) < 0).all()


def test_large_sets_go_through_in_pieces_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, goal = random_images(6, 7), random_target(7)
    whole = mse(images, goal), ssim(images, goal)
    monkeypatch.setattr(under_test, "ELEMENTS_AT_ONCE", 2 * goal.numel())
    np.testing.assert_array_equal(mse(images, goal), whole[0])
    np.testing.assert_allclose(ssim(images, goal), whole[1], rtol=0, atol=1e-14)


def test_no_constant_image_beats_the_best_constant_mse() -> None:
    """Half this number bounds the success threshold: were it too large, a collapsed generator would
    count as an attack.
    """
    goal = random_target(8) ** 2
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 21, dtype=torch.float64)] * 3)
    constants = grid[:, :, None, None].expand(-1, 3, 16, 16)
    best = best_constant_mse(goal)
    values = mse(constants, goal)
    assert best <= values.min() <= best + (0.025**2)
    assert mse(goal.double().mean(dim=(1, 2), keepdim=True).expand(1, 3, 16, 16), goal)[
        0
    ] == pytest.approx(best, abs=1e-12)


def test_constant_and_black_baselines_by_hand() -> None:
    goal = torch.zeros(1, 2, 2)
    goal[0, 0, 0] = 0.8
    assert best_constant_mse(goal) == pytest.approx(0.64 / 4 - 0.2**2, abs=1e-8)
    assert black_mse(goal) == pytest.approx(0.64 / 4, abs=1e-8)
    assert black_mse(goal) == pytest.approx(
        mse(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), goal)[0]
    )
    assert best_constant_mse(torch.full((3, 4, 4), 0.25)) == 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(6, 18),
    width=st.integers(6, 18),
    channels=st.integers(1, 3),
)
def test_ranges_symmetry_and_identity_hold_for_any_image(
    seed: int, height: int, width: int, channels: int
) -> None:
    shape = (channels, height, width)
    images, goal = random_images(seed, 4, shape), random_target(seed + 1, shape)
    errors, similarities = mse(images, goal), ssim(images, goal)
    assert ((errors >= 0) & (errors <= 1)).all()
    assert ((similarities >= -1 - 1e-12) & (similarities <= 1 + 1e-12)).all()
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_array_equal(mse(images[order], goal), errors[order.numpy()])
    np.testing.assert_allclose(
        ssim(images[order], goal), similarities[order.numpy()], rtol=0, atol=1e-13
    )
    other = images[0].double() / 255
    assert mse(goal[None], other)[0] == pytest.approx(errors[0], abs=1e-12)
    assert ssim(goal[None], other)[0] == pytest.approx(similarities[0], abs=1e-12)
    assert mse(goal[None], goal)[0] == 0
    assert ssim(goal[None], goal)[0] == pytest.approx(1, abs=1e-9)
    assert best_constant_mse(goal) <= min(black_mse(goal), 0.25)


@pytest.mark.parametrize("measure", [mse, ssim])
@pytest.mark.parametrize(
    ("images", "goal", "words"),
    [
        (
            torch.zeros(1, 3, 16, 16),
            torch.full((3, 16, 16), -1.0),
            r"target must be in \[0, 1\], got -1 to -1",
        ),
        (
            torch.full((1, 3, 16, 16), float("nan")),
            torch.zeros(3, 16, 16),
            r"images must be in \[0, 1\]",
        ),
        (
            torch.zeros(1, 3, 16, 16) - 0.5,
            torch.zeros(3, 16, 16),
            r"images must be in \[0, 1\], got -0.5",
        ),
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.int64),
            torch.zeros(3, 16, 16),
            "images must be uint8 or float, got torch.int64",
        ),
        (torch.zeros(0, 3, 16, 16), torch.zeros(3, 16, 16), "n > 0"),
        (
            torch.zeros(1, 1, 16, 16),
            torch.zeros(3, 16, 16),
            r"like the target, got \(1, 1, 16, 16\)",
        ),
        (
            torch.zeros(1, 3, 16, 16),
            torch.zeros(3, 16, 16, dtype=torch.uint8),
            "target must be a float",
        ),
    ],
)
def test_wrong_ranges_and_shapes_are_refused(
    measure: object, images: Tensor, goal: Tensor, words: str
) -> None:
    """Images in [-1, 1] that slip in unconverted would give plausible, wrong numbers."""
    assert callable(measure)
    with pytest.raises(ValueError, match=words):
        measure(images, goal)


def test_images_smaller_than_the_window_margin_are_refused_by_ssim() -> None:
    with pytest.raises(ValueError, match="larger than 5 x 5 pixels"):
        ssim(torch.zeros(1, 1, 5, 9), torch.zeros(1, 5, 9))


def test_cosine_is_the_one_of_vectors_whatever_their_length() -> None:
    goal, images = random_target(1).double(), random_images(2, 7).double() / 255
    wanted = [
        float(one @ other / (one.norm() * other.norm()))
        for image in images
        for one, other in [((2 * image - 1).flatten(), (2 * goal - 1).flatten())]
    ]
    assert cosine(images, goal) == pytest.approx(wanted, abs=1e-12)
    shorter = (2 * images - 1) / 5 / 2 + 0.5
    assert cosine(shorter, goal) == pytest.approx(wanted, abs=1e-12)
    assert cosine(1 - images, goal) == pytest.approx([-one for one in wanted], abs=1e-12)
    assert cosine(torch.full((1, 3, 16, 16), 0.5).double(), goal) == pytest.approx([0.0])


def test_no_flat_image_beats_the_best_constant_cosine() -> None:
    goal = random_target(1).double() * 0.6
    colours = (torch.linspace(0, 1, 9, dtype=torch.float64),) * 3
    flats = torch.cartesian_prod(*colours)[:, :, None, None].expand(-1, 3, 16, 16)
    best, values = best_constant_cosine(goal), cosine(flats, goal)
    assert values.max() <= best + 1e-12 and values.max() > best - 0.02
    assert best_constant_cosine(torch.full((3, 4, 4), 0.2)) == pytest.approx(1)
    with pytest.raises(ValueError, match="mid grey"):
        best_constant_cosine(torch.full((3, 4, 4), 0.5))
