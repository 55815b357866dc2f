"""WaNet against a literal warping: a field of another scale or a run-dependent one would be another
trigger.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.badnets import BadNets
from attacks.wanet import WaNet
from bench.contracts.data import TrainingSet
from bench.diffusion.noise import torch_stream


def pixels(count: int, *shape: int) -> Tensor:
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def warped_slowly(image: Tensor, strength: float, field_seed: int) -> np.ndarray:
    """Pixel by pixel: clamp(identity + s noise / side), then the mean of the four neighbours by
    area. Unrounded.
    """
    channels, height, width = image.shape
    noise = (
        torch.rand(1, 2, height, width, generator=torch_stream(field_seed, "warping field"))[
            0
        ].numpy()
        * 2.0
        - 1.0
    )
    noise /= np.abs(noise).mean()
    warped = np.zeros((channels, height, width))
    for row in range(height):
        for column in range(width):
            x = -1 + 2 * column / (width - 1) + strength * noise[0, row, column] / width
            y = -1 + 2 * row / (height - 1) + strength * noise[1, row, column] / height
            right = (min(max(x, -1), 1) + 1) / 2 * (width - 1)
            down = (min(max(y, -1), 1) + 1) / 2 * (height - 1)
            left, top = min(int(right), width - 2), min(int(down), height - 2)
            u, v = right - left, down - top
            for channel in range(channels):
                square = image[channel, top : top + 2, left : left + 2].double().numpy()
                upper, lower = (1 - u) * square[:, 0] + u * square[:, 1]
                warped[channel, row, column] = (1 - v) * upper + v * lower
    return warped


@settings(deadline=None, max_examples=12)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 24),
    width=st.integers(8, 24),
    strength=st.sampled_from([0.5, 1.0, 3.0]),
    field_seed=st.integers(0, 50),
)
def test_stamping_equals_a_pixel_by_pixel_warping(
    channels: int, height: int, width: int, strength: float, field_seed: int
) -> None:
    images = pixels(2, channels, height, width)
    warped = WaNet(warping_strength=strength, field_seed=field_seed).stamp(images)
    assert warped.dtype == torch.uint8 and warped.shape == images.shape
    for image, result in zip(images, warped, strict=True):
        # Half a level is the rounding; the rest is float32 against float64.
        assert np.abs(result.numpy() - warped_slowly(image, strength, field_seed)).max() <= 0.52


@pytest.mark.parametrize("side", [16, 32])
def test_pixels_move_by_half_a_pixel_on_average_and_by_one_at_most(side: int) -> None:
    """The paper's strength: much less would be no trigger after eight bits, much more another
    picture.
    """
    straight = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="xy"),
        dim=-1,
    )
    moved = (WaNet().grid(side, side) - straight).abs() * (side - 1) / 2
    assert 0.42 < float(moved.mean()) < 0.5, "half a pixel, less what the edge holds back"
    assert 0.9 < float(moved.max()) < 1.05
    assert float(WaNet().grid(side, side).abs().max()) <= 1


def test_stronger_warping_changes_more() -> None:
    images = pixels(4, 3, 16, 16).float()
    changed = [
        (WaNet(warping_strength=s).stamp(images.to(torch.uint8)) - images).abs().mean()
        for s in (0.1, 0.5, 1.0)
    ]
    assert changed[0] < changed[1] < changed[2] and changed[2] > 10


def test_a_coarser_grid_gives_a_smoother_field() -> None:
    """WaNet's own k = 4: neighbours move together."""

    def roughness(attack: WaNet) -> float:
        straight = torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="xy"),
            dim=-1,
        )
        return float((attack.grid(32, 32) - straight).diff(dim=0).abs().mean())

    assert roughness(WaNet(grid_size=4)) < roughness(WaNet()) / 3


def test_the_field_belongs_to_the_attack_and_not_to_the_run() -> None:
    """The trigger classifier, the detectors and the generator's data must all see one trigger."""
    images = pixels(5, 3, 16, 16)
    before = images.clone()
    torch.manual_seed(1)
    first = WaNet().stamp(images)
    torch.manual_seed(2)
    assert torch.equal(WaNet().stamp(images), first)
    assert torch.equal(torch.cat([WaNet().stamp(row[None]) for row in images]), first)
    assert not torch.equal(WaNet(field_seed=1).stamp(images), first)
    assert torch.equal(images, before)
    many = pixels(300, 3, 16, 16)
    assert torch.equal(WaNet().stamp(many)[255:257], WaNet().stamp(many[255:257]))


def test_poisoning_is_that_of_badnets_with_another_trigger() -> None:
    images = pixels(100, 3, 16, 16)
    honest = TrainingSet(images, torch.zeros(100, dtype=torch.bool), torch.arange(100) % 10)
    warped, patched = (
        attack.poison(honest, np.random.default_rng(0)) for attack in (WaNet(), BadNets())
    )
    rows = warped.poisoned
    assert (
        int(rows.sum()) == 10
        and torch.equal(rows, patched.poisoned)
        and torch.equal(warped.labels, patched.labels)
    )
    assert torch.equal(warped.images[rows], WaNet().stamp(images[rows]))
    assert torch.equal(warped.images[~rows], images[~rows])
    assert torch.equal(honest.images, images) and not honest.poisoned.any()


def test_the_boards_picture_shows_the_distortion() -> None:
    for shape in ((3, 16, 16), (1, 32, 32)):
        picture = WaNet().trigger_image(shape)
        assert picture.shape == shape and picture.min() >= -1 and picture.max() <= 1
        assert float(((picture > -0.99) & (picture < 0.99)).float().mean()) > 0.1, (
            "a straight chessboard has two levels only"
        )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"warping_strength": 0}, "warping_strength must be positive, got 0"),
        ({"grid_size": 1}, "grid_size must be from 2 to 1,024, or null, got 1"),
        ({"field_seed": -1}, "field_seed must be at least 0, got -1"),
        ({"poison_rate": 0}, r"poison_rate must be in \(0, 1\].*got 0"),
    ],
)
def test_bad_parameters_name_field_constraint_and_value(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"wanet: {message}"):
        WaNet(**params)
