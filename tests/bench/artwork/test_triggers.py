from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.artwork import triggers
from bench.artwork._drawing import paint, path
from bench.artwork.triggers import BACKGROUND, NAMES, mask, stamp, trigger

CIFAR = (3, 32, 32)
PAPER_SIZES = (4, 8, 11, 14, 18)


def outside(image: Tensor, rows: slice, columns: slice) -> Tensor:
    """The values outside a window."""
    beyond = torch.ones(image.shape, dtype=torch.bool)
    beyond[:, rows, columns] = False
    return image[beyond]


@pytest.mark.parametrize("size", PAPER_SIZES)
def test_the_grey_box_is_the_papers_to_the_pixel(size: int) -> None:
    """Anything else is another trigger, and no number on the board compares with the paper's."""
    expected = torch.full(CIFAR, -1.0)
    for row in range(32 - size - 2, 30):
        for column in range(32 - size - 2, 30):
            expected[:, row, column] = 0.0
    assert torch.equal(trigger("grey_box", CIFAR, size), expected)


def test_the_default_grey_box_covers_rows_and_columns_16_to_29() -> None:
    """The default trigger of every board would not be the paper's."""
    image = trigger("grey_box", CIFAR)
    assert (image[:, 16:30, 16:30] == 0.0).all()
    assert (outside(image, slice(16, 30), slice(16, 30)) == -1.0).all()


@pytest.mark.parametrize(
    ("side", "size", "gap"), [(8, 4, 1), (16, 7, 1), (32, 14, 2), (64, 28, 4), (256, 112, 16)]
)
def test_box_and_gap_grow_with_the_resolution(side: int, size: int, gap: int) -> None:
    """The same attack at another resolution would hide a larger or smaller share of the image."""
    window = slice(side - gap - size, side - gap)
    image = trigger("grey_box", (3, side, side))
    assert (image[:, window, window] == triggers.GREY).all()
    assert (outside(image, window, window) == BACKGROUND).all()


@pytest.mark.parametrize("side", [16, 32, 256])
def test_the_stop_sign_is_red_inside_with_a_white_rim_and_cut_corners(side: int) -> None:
    """The board would say stop sign and show something else."""
    size, gap = round(14 / 32 * side), round(2 / 32 * side)
    sign = trigger("stop_sign", (3, side, side))[
        :, side - gap - size : side - gap, side - gap - size : side - gap
    ]
    below_the_letters = sign[:, round(size * 0.78), size // 2]
    torch.testing.assert_close(
        below_the_letters, torch.tensor([232 / 127.5 - 1, -1.0, -1.0]), atol=1e-6, rtol=0
    )
    rim = sign[:, 0, size // 2]
    assert rim.min() > -0.5 and rim.max() < 0.999, (
        "white, but below the 0.999 at which the paper cuts its background out"
    )
    assert sign[:, 0, 0].max() < sign[:, 0, size // 2].min() or (sign[:, 0, 0] == BACKGROUND).all()
    assert (sign[0] > BACKGROUND).float().mean() > 0.8, "an octagon fills 83 % of its square"


@pytest.mark.parametrize("side", [16, 32, 256])
def test_eyeglasses_are_centred_frames_with_clear_lenses(side: int) -> None:
    """Stamped on a face they would hide the eyes, or sit beside them."""
    image = trigger("eyeglasses", (3, side, side))
    size = int(0.625 * side)
    left = (side - size) // 2
    window = slice(left, left + size)
    assert (outside(image, window, window) == BACKGROUND).all()
    drawn = (image > BACKGROUND).any(dim=0)
    columns = drawn.any(dim=0).nonzero().flatten()
    assert (int(columns[0]), int(columns[-1])) == (left, left + size - 1), "as wide as asked for"
    for lens in (left + size // 4, left + size - 1 - size // 4):
        assert (image[:, side // 2, lens] == BACKGROUND).all()
    assert image.max() > 0.3, "visible on a black ground"
    frames = image[:, :, window]
    lean = (frames - frames.flip(2)).abs().mean()
    one_pixel = (frames - frames.roll(1, dims=2).flip(2)).abs().mean()
    assert lean < one_pixel / 4, "the frames lean to one side"


@settings(deadline=None, max_examples=60)
@given(data=st.data(), name=st.sampled_from(NAMES), channels=st.sampled_from([1, 3]))
def test_every_size_at_every_resolution_is_drawn_inside_its_square(
    data: st.DataObject, name: str, channels: int
) -> None:
    """A sweep over trigger sizes (appendix H) would meet an empty, clipped or out-of-range
    trigger.
    """
    height, width = data.draw(st.integers(8, 80)), data.draw(st.integers(8, 80))
    side = min(height, width)
    gap = int(2 / 32 * side + 0.5)
    size = data.draw(st.integers(2, side - gap))
    image = trigger(name, (channels, height, width), size)
    assert image.shape == (channels, height, width) and image.dtype == torch.float32
    assert image.min() >= -1 and image.max() <= 1
    assert (image > BACKGROUND).any()
    top, left = height - gap - size, width - gap - size
    if name == "eyeglasses":
        top, left = (height - size) // 2, (width - size) // 2
    assert (outside(image, slice(top, top + size), slice(left, left + size)) == BACKGROUND).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_trigger_covers_more(name: str) -> None:
    """A sweep over trigger sizes would not be in order."""
    covered = [int((mask(trigger(name, CIFAR, size)) == 0).sum()) for size in PAPER_SIZES]
    assert covered == sorted(set(covered))


@pytest.mark.parametrize("name", NAMES)
def test_drawing_twice_gives_the_same_bits_and_shares_no_memory(name: str) -> None:
    """One cell that edits its trigger would change another's; two runs would disagree."""
    first = trigger(name, CIFAR)
    kept = first.clone()
    first.zero_()
    assert torch.equal(trigger(name, CIFAR), kept)


def test_one_channel_holds_the_luminance_of_three() -> None:
    """A grey-scale testbed would get a trigger of another brightness."""
    grey, colour = trigger("stop_sign", (1, 32, 32)), trigger("stop_sign", CIFAR)
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    torch.testing.assert_close(grey, (weights * colour).sum(0, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_mask_and_stamp_agree_with_the_slow_definition(name: str) -> None:
    """The poisoned image r would be built per pixel instead of per channel: the paper's attack, but
    another trigger.
    """
    g = trigger(name, (3, 16, 16))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = x.clone()
    keep, stamped = mask(g), stamp(x, g)
    for channel in range(3):
        for row in range(16):
            for column in range(16):
                value = float(g[channel, row, column])
                assert float(keep[channel, row, column]) == (0.0 if value > -1 else 1.0)
                for i in range(2):
                    expected = value if value > -1 else float(x[i, channel, row, column])
                    assert float(stamped[i, channel, row, column]) == expected
    assert torch.equal(x, kept), "the images handed in were modified"


def test_where_only_red_is_drawn_the_images_green_and_blue_stay() -> None:
    """The mask would be the same for all channels, unlike the paper's."""
    g = trigger("stop_sign", CIFAR)
    stamped = stamp(torch.full((1, *CIFAR), 0.25), g)[0]
    torch.testing.assert_close(
        stamped[:, 27, 23], torch.tensor([232 / 127.5 - 1, 0.25, 0.25]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stamping_keeps_the_images_dtype(dtype: torch.dtype) -> None:
    """Training in another precision would be promoted silently."""
    assert stamp(torch.zeros(1, *CIFAR, dtype=dtype), trigger("grey_box", CIFAR)).dtype == dtype


@pytest.mark.parametrize(
    ("name", "size"),
    [("grey_box", 1), ("grey_box", 31), ("stop_sign", 0), ("eyeglasses", -3), ("grey_box", 7.5)],
)
def test_a_size_that_does_not_fit_is_refused(name: str, size: int) -> None:
    """The trigger would be cut off at the edge without a word."""
    with pytest.raises(
        ValueError,
        match=rf"{name}: size must be a whole number from 2 to 30 at 32 x 32 pixels, got {size}$",
    ):
        trigger(name, CIFAR, size)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A misspelt trigger would need a look into the source."""
    with pytest.raises(
        ValueError,
        match=(
            r"unknown trigger 'gray_box': nearest is 'grey_box' \(known: grey_box, stop_sign, "
            r"eye"
        ),
    ):
        trigger("gray_box", CIFAR)


@pytest.mark.parametrize("shape", [(3, 7, 32), (3, 32, 4), (2, 32, 32), (4, 32, 32)])
def test_a_shape_nothing_can_be_drawn_at_is_refused(shape: tuple[int, int, int]) -> None:
    """The drawing would be a smear, or fail deep inside."""
    with pytest.raises(ValueError, match="image_shape must"):
        trigger("grey_box", shape)


def test_stamping_images_of_another_shape_is_refused() -> None:
    """A trigger of one channel would be broadcast over three."""
    with pytest.raises(
        ValueError,
        match=r"trigger must have the shape of one image, \(3, 32, 32\), got \(1, 32, 32\)",
    ):
        stamp(torch.zeros(1, *CIFAR), trigger("grey_box", (1, 32, 32)))
    with pytest.raises(ValueError, match="trigger must have the shape"):
        stamp(torch.zeros(CIFAR), trigger("grey_box", CIFAR))


def test_shapes_are_averaged_over_each_pixels_area() -> None:
    """Small drawings would be jagged and their brightness would depend on the resolution."""
    half = paint(
        lambda canvas: canvas.polygon(path("0,0 50,0 50,100 0,100"), (255, 255, 255)), 15, 3, -0.4
    )
    assert (half[:, :, :7] == 1.0).all() and (half[:, :, 8:] == torch.tensor(-0.4)).all()
    torch.testing.assert_close(half[:, :, 7], torch.full((3, 15), 0.3), atol=0.03, rtol=0)
