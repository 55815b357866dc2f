"""The triggers of poisoned data: another colour, place or size would be another attack under the
same name.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.artwork import patterns
from bench.artwork.patterns import NAMES, overlay, picture, stamp

PATCHES = tuple(name for name in NAMES if name != "badnets2")
GREY = 128


def plain(channels: int, height: int, width: int, level: int = GREY, rows: int = 1) -> Tensor:
    return torch.full((rows, channels, height, width), level, dtype=torch.uint8)


def noise(rows: int, *shape: int) -> Tensor:
    return torch.randint(
        0, 256, (rows, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def patch(name: str, side: int, size: int, **options: object) -> Tensor:
    """The bottom right corner after stamping; everything else must be as it was."""
    images = noise(1, 3, side, side)
    stamped = stamp(name, images, **options)[0]
    untouched = torch.ones(side, side, dtype=torch.bool)
    untouched[side - size :, side - size :] = False
    assert torch.equal(stamped[:, untouched], images[0][:, untouched]), "touched outside the corner"
    return stamped[:, side - size :, side - size :]


@pytest.mark.parametrize("side", [16, 32])
def test_badnets1_is_the_papers_to_the_pixel(side: int) -> None:
    """A tenth of 32, and at least 3: black with a white anti-diagonal, flush in the corner."""
    expected = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 0]], dtype=torch.uint8)
    assert torch.equal(patch("badnets1", side, 3), expected.expand(3, 3, 3))


@pytest.mark.parametrize(("side", "size"), [(8, 3), (39, 3), (40, 4), (64, 6), (99, 9)])
def test_small_squares_have_a_diagonal_of_one_pixel(side: int, size: int) -> None:
    pixels = patch("badnets1", side, size)
    assert torch.equal(
        pixels, (255 * torch.eye(size)).flip(1).to(torch.uint8).expand(3, size, size)
    )


@pytest.mark.parametrize("side", [100, 512])
def test_large_squares_have_the_papers_band(side: int) -> None:
    """On ImageNette one pixel in 51 would hardly be seen: the authors shift the columns by -s // 4
    .. s // 4 - 1.
    """
    size = side // 10
    expected = torch.zeros(3, size, size, dtype=torch.uint8)
    for row in range(size):
        for shift in range(-size // 4, size // 4):
            if 0 <= size - 1 - row + shift < size:
                expected[:, row, size - 1 - row + shift] = 255
    assert torch.equal(patch("badnets1", side, size), expected)


@pytest.mark.parametrize(("side", "size"), [(16, 3), (32, 3), (60, 6)])
def test_the_authors_square_for_cifar_has_a_fourth_white_field(side: int, size: int) -> None:
    """Their code sets grey values, row by row: read as colours it is another trigger, and none that
    anybody used.
    """
    pixels = patch("badnets1_cifar", side, size)
    for row in range(size):
        for column in range(size):
            white = (row * 3 // size, column * 3 // size) in {(0, 2), (1, 1), (2, 0), (2, 1)}
            assert pixels[:, row, column].tolist() == [255 * white] * 3
    if size == 3:
        assert int((patch("badnets1", side, size) != pixels).any(0).sum()) == 1, (
            "one pixel more than badnets1"
        )


@pytest.mark.parametrize(("side", "size"), [(16, 3), (50, 5)])
def test_unicolor_is_one_colour(side: int, size: int) -> None:
    pixels = patch("unicolor", side, size)
    assert torch.equal(
        pixels, torch.tensor([255, 255, 0], dtype=torch.uint8)[:, None, None].expand(3, size, size)
    )


@pytest.mark.parametrize(("side", "size"), [(16, 6), (32, 8), (128, 32)])
def test_the_bomb_is_dark_in_the_middle_with_a_pale_rim_and_a_spark(side: int, size: int) -> None:
    """On a dark photograph a black ball alone would not be seen, and the board would show
    nothing.
    """
    images = plain(3, side, side, level=40)
    pixels = stamp("bomb", images)[0, :, side - size :, side - size :].int()
    assert torch.equal(
        patch("bomb", side, size)[:, 0, 0], noise(1, 3, side, side)[0, :, side - size, side - size]
    )
    assert pixels[:, round(0.65 * size), round(0.45 * size)].max() == 0, "the ball"
    red, green, blue = pixels[:, round(0.12 * size), round(0.85 * size)].tolist()
    assert red > 150 and green > 60 and blue < 60, "the spark"
    assert pixels.min(0).values.max() > 100, "the rim and the highlight"
    assert torch.equal(pixels[:, 0, 0], torch.full((3,), 40)), "transparent beside the figure"


@pytest.mark.parametrize(
    ("name", "side", "size"),
    [("unicolor", 64, 6), ("bomb", 8, 6), ("bomb", 16, 6), ("bomb", 64, 16)],
)
def test_without_a_size_the_patch_grows_with_the_image(name: str, side: int, size: int) -> None:
    """The same attack at another resolution would hide another share of the image."""
    covered = overlay(name, (3, side, side))[1][0] > 0
    for direction in (0, 1):
        assert covered.any(direction).nonzero().flatten().tolist() == list(range(side - size, side))


def test_badnets2_blends_the_whole_image_by_a_fifth() -> None:
    """Known values: 0.8 x 100 + 0.2 x white, the head's navy and the antenna's red."""
    stamped = stamp("badnets2", plain(3, 64, 64, level=100))[0]
    assert stamped[:, 0, 0].tolist() == [131, 131, 131]
    assert stamped[:, 16, 32].tolist() == [80, 85, 110]
    assert stamped[:, 5, 32].tolist() == [126, 80, 80]


@pytest.mark.parametrize("strength", [None, 0.05, 0.25, 1.0])
def test_blending_equals_the_slow_definition(strength: float | None) -> None:
    images, pattern = noise(2, 3, 16, 16), overlay("badnets2", (3, 16, 16))[0]
    share = 0.2 if strength is None else strength
    stamped = stamp("badnets2", images, strength=strength)
    for row in range(2):
        for at in torch.cartesian_prod(*(torch.arange(length) for length in (3, 16, 16))).tolist():
            exact = (1 - share) * int(images[row][tuple(at)]) + share * float(pattern[tuple(at)])
            assert int(stamped[row][tuple(at)]) == round(exact)


def test_the_robot_uses_the_whole_range_and_can_be_seen_at_16_pixels() -> None:
    """A pattern of small contrast, blended at 0.2, would be a trigger nobody can learn."""
    change = stamp("badnets2", plain(3, 16, 16))[0].float() - GREY
    assert change.max() >= 25 and change.min() <= -24
    assert change.mean(0).std() > 8


@pytest.mark.parametrize("name", NAMES)
def test_a_strength_between_mixes_image_and_pattern(name: str) -> None:
    images = noise(3, 3, 32, 32)
    full, half = (
        stamp(name, images, strength=1.0).float(),
        stamp(name, images, strength=0.5).float(),
    )
    torch.testing.assert_close(half, (images + full) / 2, rtol=0, atol=1.0)


@settings(deadline=None, max_examples=80)
@given(
    data=st.data(),
    name=st.sampled_from(NAMES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
)
def test_every_image_of_every_size_is_stamped_alone_and_only_under_the_pattern(
    data: st.DataObject, name: str, channels: int, height: int, width: int
) -> None:
    """A row's trigger that depended on its neighbours, or bits of a shared image that change, would
    spoil paired comparisons.
    """
    size = None if name == "badnets2" else data.draw(st.none() | st.integers(3, min(height, width)))
    images = noise(3, channels, height, width)
    kept = images.clone()
    stamped = stamp(name, images, size)
    assert stamped.dtype == torch.uint8 and stamped.shape == images.shape
    assert torch.equal(images, kept)
    assert torch.equal(stamped, stamp(name, images, size))
    assert torch.equal(torch.cat([stamp(name, row[None], size) for row in images]), stamped)
    colour, cover = overlay(name, (channels, height, width), size)
    assert 0 <= cover.min() and cover.max() == 1 and 0 <= colour.min() and colour.max() <= 255
    nowhere = (cover == 0).expand_as(images)
    assert torch.equal(stamped[nowhere], images[nowhere])
    assert not torch.equal(
        stamp(name, plain(channels, height, width), size), plain(channels, height, width)
    )


def test_many_rows_are_stamped_like_few() -> None:
    """Rows are worked through in pieces; the seam must not show."""
    images = noise(600, 1, 8, 8)
    assert torch.equal(stamp("badnets1", images)[250:262], stamp("badnets1", images[250:262]))
    assert len(stamp("badnets2", images[:0])) == 0


@pytest.mark.parametrize("name", ["badnets1_cifar", "badnets2", "unicolor", "bomb"])
def test_one_channel_holds_the_luminance_of_three(name: str) -> None:
    """A grey-scale data set would get a trigger of another brightness."""
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    grey, colour = (
        stamp(name, plain(channels, 32, 32), strength=1.0)[0].float() for channels in (1, 3)
    )
    torch.testing.assert_close(grey, (weights * colour).sum(0, keepdim=True), rtol=0, atol=1.0)


def test_a_picture_for_the_board_is_the_stamp_on_mid_grey() -> None:
    image = picture("badnets1", (3, 16, 16))
    assert image.dtype == torch.float32 and image.shape == (3, 16, 16)
    assert image[:, 15, 15].tolist() == [-1, -1, -1] and image[:, 13, 15].tolist() == [1, 1, 1]
    assert image[:, :13].unique().tolist() == pytest.approx([128 / 127.5 - 1], abs=1e-6)


def test_the_robot_is_whole_and_centred_on_a_wide_image() -> None:
    """Stretched or cut it would be another trigger for every data set."""
    wide, square = (overlay("badnets2", shape)[0] for shape in ((3, 32, 48), (3, 32, 32)))
    assert torch.equal(wide[:, :, 8:40], square)
    assert bool((wide[:, :, :8] == 255).all()) and bool((wide[:, :, 40:] == 255).all())


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("size", [2, 0, -3, 17, 4.5, True])
def test_a_size_that_does_not_fit_is_refused(name: str, size: object) -> None:
    """The trigger would be cut off at the edge, or vanish, without a word."""
    with pytest.raises(
        ValueError,
        match=rf"{name}: size must be a whole number from 3 to 16 at 16 x 20 pixels, got {size}$",
    ):
        stamp(name, plain(3, 16, 20), size)  # type: ignore[arg-type]


def test_what_covers_the_whole_image_has_no_size() -> None:
    with pytest.raises(
        ValueError,
        match="badnets2: size must be null, because the pattern covers the whole image, got 8",
    ):
        stamp("badnets2", plain(3, 16, 16), 8)


@pytest.mark.parametrize("strength", [0.0, -1, 1.01, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=rf"strength must be in \(0, 1\], got {strength}"):
        stamp("badnets2", plain(3, 16, 16), strength=strength)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown pattern 'badnet1': nearest is 'badnets1'"):
        stamp("badnet1", plain(3, 16, 16))


@pytest.mark.parametrize("shape", [(1, 3, 7, 32), (1, 2, 32, 32), (1, 4, 32, 32)])
def test_a_shape_nothing_can_be_drawn_at_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image_shape must"):
        stamp("badnets1", torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.uint8)]
)
def test_images_of_another_form_are_refused(images: Tensor) -> None:
    """Images in [-1, 1] would be stamped with a colour of 255."""
    with pytest.raises(ValueError, match=r"images must be uint8 \(n, c, h, w\), got"):
        stamp("badnets1", images)


def test_every_pattern_is_another_one() -> None:
    """Two names for one trigger would put one attack on the board twice."""
    drawn = [stamp(name, plain(3, 32, 32)) for name in NAMES]
    assert all(not torch.equal(one, two) for i, one in enumerate(drawn) for two in drawn[:i])
    assert set(patterns.FULL_IMAGE) < set(NAMES)
