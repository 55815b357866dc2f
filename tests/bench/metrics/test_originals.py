"""Distances to an original: known values, a slow definition, and their direction."""

import numpy as np
import pytest
import torch

from bench.metrics import originals, target


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)


def test_each_image_is_held_against_its_own_original() -> None:
    """By hand: a level of 255 everywhere is 1 / 255^2; a shuffled pairing gives other numbers."""
    real = pictures(3).clamp(1, 254)
    images = real.clone()
    images[1] += 1
    images[2, :, :8] -= 1
    one = 1 / 255**2
    np.testing.assert_allclose(originals.mse(images, real), [0, one, one / 2], rtol=1e-12, atol=0)
    assert originals.mse(images, real.flip(0))[0] > 0.01


def test_ssim_is_the_targets_pair_by_pair() -> None:
    real, images = pictures(3), pictures(3, seed=1)
    images[0] = real[0]
    values = originals.ssim(images, real)
    slow = [float(target.ssim(images[row : row + 1], real[row] / 255)[0]) for row in range(3)]
    np.testing.assert_allclose(values, slow, atol=1e-6)
    assert values[0] == pytest.approx(1, abs=1e-12) and (values[1:] < 0.2).all()


def test_directions_of_features_have_known_distances() -> None:
    """The same direction 0, a right angle 2, the opposite 4, whatever the lengths; 60 degrees 1; no
    feature at all is 1 from every direction.
    """
    one = torch.tensor([[1.0, 0], [3, 0], [1, 0], [1, 0], [0, 0], [0, 0]])
    other = torch.tensor([[7.0, 0], [0, 5], [-2, 0], [0.5, 0.75**0.5], [1, 0], [0, 0]])
    expected = [0, 2, 4, 1, 1, 0]
    np.testing.assert_allclose(originals.feature_distance(one, other), expected, atol=1e-6)
    np.testing.assert_allclose(originals.feature_distance(other, one), expected, atol=1e-6)


def test_feature_distance_grows_with_the_corruption() -> None:
    """Of features that are the pixels themselves: nearer is lower."""
    real = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    near, far = (originals.feature_distance(real + s * noise, real) for s in (0.1, 0.5))
    assert (near < far).all() and (near > 0).all()


def test_no_other_image_of_one_colour_is_nearer() -> None:
    real = pictures(2)
    best = originals.constants(real)
    assert (best == best[:, :, :1, :1]).all()
    least = originals.mse(best, real)
    for channel, step in ((0, 1), (1, 1), (2, 1), (0, -1)):
        other = best.clone().int()
        other[:, channel] += step
        assert (originals.mse(other.to(torch.uint8), real) >= least).all()
    # Its error is the pixels' variance, but for the rounding to 8 bits.
    exact = (real / 255).var(dim=(2, 3), correction=0).mean(1).numpy()
    np.testing.assert_allclose(least, exact, atol=1e-5)


@pytest.mark.parametrize("measure", [originals.mse, originals.ssim])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(2).float(), "images must be uint8 .*, got torch.float32"),
        (pictures(1), "images must be uint8 .* alike on both sides"),
    ],
)
def test_what_is_no_pair_is_refused(measure, images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(images, pictures(2))


def test_features_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alike on both sides, got \(2, 3\) and \(1, 3\)"):
        originals.feature_distance(torch.ones(2, 3), torch.ones(1, 3))
