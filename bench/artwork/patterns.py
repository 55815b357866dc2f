"""Image triggers for poisoned training data (Pan et al. 2024, arXiv 2311.02373, table A1 and
appendix B.3), drawn by us.

A pattern has a colour and a share of every pixel that it covers; with strength a an image x becomes
``(1 - a cover) x + a colour``. Patches cover their pixels wholly and sit flush in the bottom right
corner; ``badnets2`` covers the whole image, so ``(1 - a) x + a colour``. Images are uint8 in and
out, rounded to the nearest level.

- ``badnets1``: a black square with a white anti-diagonal; a tenth of the side, rounded down, at
  least 3 pixels. From 10 pixels on the diagonal is a band, as in the paper's ImageNette images:
  columns shifted by -s/4 up to, not including, s/4.
- ``badnets1_cifar``: what the authors' code draws at 32 x 32, the 3 x 3 square with one white pixel
  more: black black white, black white black, white white black. At other sizes its nine fields grow
  with it.
- ``badnets2``: a cartoon robot on white, blended at 0.2. The paper's cartoon cat is not ours.
- ``unicolor``: a yellow square of ``badnets1``'s size. ``bomb``: a bomb with a burning fuse, a
  quarter of the side, at least 6 pixels. The paper gives neither the colour nor the sizes of these
  two.
- ``drawn``: a square of ``badnets1``'s size with colours and position drawn from a seed
  (:mod:`bench.artwork.drawn`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.artwork._drawing import (
    _LUMINANCE,
    Canvas,
    check_image_shape,
    curve,
    paint,
    path,
    unknown_name,
)
from bench.artwork.drawn import DRAWN, drawn_patch
from bench.diffusion.images import to_unit_range

NAMES = ("badnets1", "badnets1_cifar", "badnets2", "unicolor", "bomb")
#: Patterns that cover the whole image and so have no size.
FULL_IMAGE = ("badnets2",)
BLEND_STRENGTH = 0.2
SMALLEST_SIZE = 3
MID_GREY = 128

_BAND_FROM = 10
_ROWS_AT_ONCE = 256

_YELLOW = (255, 255, 0)
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
_NAVY = (0, 24, 150)
_RED = (230, 0, 0)
_ORANGE = (255, 120, 0)


def stamp(
    name: str,
    images: Tensor,
    size: int | None = None,
    strength: float | None = None,
    seed: int | None = None,
) -> Tensor:
    """``images`` (n, c, h, w) uint8 with the pattern on every row: a new uint8 tensor, the same on
    every call and for every row alone.

    ``size``: the patch's side in pixels; ``None`` is the pattern's own. ``strength`` a in (0, 1];
    ``None`` is 0.2 for ``badnets2`` and 1, opaque, for the patches. ``seed``: the seed of
    ``drawn``, ``None`` for all others. Raises ``ValueError`` for an unknown name, images of another
    shape or type, a side below 8 pixels, other than 1 or 3 channels, a size that does not fit or is
    given for ``badnets2``, a strength outside (0, 1], and a seed that is missing or unexpected.
    """
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 (n, c, h, w), got {images.dtype} {tuple(images.shape)}"
        )
    colour, cover = overlay(name, (images.shape[1], images.shape[2], images.shape[3]), size, seed)
    if strength is None:
        strength = BLEND_STRENGTH if name in FULL_IMAGE else 1.0
    if not 0 < strength <= 1:
        raise ValueError(f"{name}: strength must be in (0, 1], got {strength!r}")
    keep, added = (1 - strength * cover).to(images.device), (strength * colour).to(images.device)
    stamped = torch.empty_like(images)
    # In pieces, because a data set that fits into memory as bytes may not fit as floats.
    for start in range(0, len(images), _ROWS_AT_ONCE):
        piece = keep * images[start : start + _ROWS_AT_ONCE] + added
        stamped[start : start + _ROWS_AT_ONCE] = piece.round().clamp(0, 255).to(torch.uint8)
    return stamped


def picture(
    name: str,
    image_shape: tuple[int, int, int],
    size: int | None = None,
    strength: float | None = None,
    seed: int | None = None,
) -> Tensor:
    """The pattern stamped on a mid-grey image, for display: (c, h, w) float32 in [-1, 1]. Errors as
    :func:`stamp`.
    """
    return to_unit_range(
        stamp(
            name, torch.full((1, *image_shape), MID_GREY, dtype=torch.uint8), size, strength, seed
        )[0]
    )


def overlay(
    name: str, image_shape: tuple[int, int, int], size: int | None = None, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """The pattern's colour in 0..255, already multiplied by its cover, and its cover in [0, 1]:
    both (c, h, w) float64.

    Raises as :func:`stamp`.
    """
    if name not in (*NAMES, DRAWN):
        raise unknown_name("pattern", name, (*NAMES, DRAWN))
    channels, height, width, side = check_image_shape(image_shape)
    if (seed is not None) != (name == DRAWN):
        raise ValueError(
            f"{name}: seed must be {'a number' if name == DRAWN else 'null'}, got {seed!r}"
        )
    if name in FULL_IMAGE:
        if size is not None:
            raise ValueError(
                f"{name}: size must be null, because the pattern covers the whole image, got "
                f"{size!r}"
            )
        return _robot_on_white(channels, height, width), torch.ones(
            image_shape, dtype=torch.float64
        )
    if size is None:
        size = max(6, side // 4) if name == "bomb" else max(SMALLEST_SIZE, side // 10)
    if not isinstance(size, int) or isinstance(size, bool) or not SMALLEST_SIZE <= size <= side:
        allowed = f"a whole number from {SMALLEST_SIZE} to {side} at {height} x {width} pixels"
        raise ValueError(f"{name}: size must be {allowed}, got {size!r}")
    colour, cover = (
        torch.zeros(image_shape, dtype=torch.float64),
        torch.zeros(image_shape, dtype=torch.float64),
    )
    square = (slice(None), slice(height - size, height), slice(width - size, width))
    if seed is not None:
        drawn, top, left = drawn_patch(seed, image_shape, size)
        square = (slice(None), slice(top, top + size), slice(left, left + size))
        colour[square], cover[square] = drawn, 1.0
    elif name == "bomb":
        colour[square], cover[square] = _drawn(_bomb, size, channels)
    else:
        colour[square], cover[square] = _PATCHES[name](size, channels), 1.0
    return colour, cover


def _anti_diagonal(size: int, channels: int) -> Tensor:
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    shift = column - (size - 1 - row)
    band = (-size // 4, size // 4) if size >= _BAND_FROM else (0, 1)
    return (255.0 * ((band[0] <= shift) & (shift < band[1]))).expand(channels, size, size)


def _nine_fields(size: int, channels: int) -> Tensor:
    field = 3 * torch.arange(size) // size
    return (255.0 * torch.tensor([[0, 0, 1], [0, 1, 0], [1, 1, 0]])[field][:, field]).expand(
        channels, size, size
    )


def _one_colour(size: int, channels: int) -> Tensor:
    return _flat(_YELLOW, channels).expand(channels, size, size)


_PATCHES: dict[str, Callable[[int, int], Tensor]] = {
    "badnets1": _anti_diagonal,
    "badnets1_cifar": _nine_fields,
    "unicolor": _one_colour,
}


def _flat(colour: tuple[int, int, int], channels: int) -> Tensor:
    """A colour, or its luminance, as (channels, 1, 1)."""
    values = torch.tensor(colour, dtype=torch.float64)
    return (
        values
        if channels == 3
        else (values * torch.tensor(_LUMINANCE, dtype=torch.float64)).sum(0, keepdim=True)
    )[:, None, None]


def _drawn(figure: Callable[[Canvas], None], side: int, channels: int) -> tuple[Tensor, Tensor]:
    """A drawing's colour times cover in 0..255, and its cover, both derived from the drawing over
    black and over white.
    """
    black, white = (
        paint(figure, side, channels, background).double() for background in (-1.0, 1.0)
    )
    return (black + 1) * 127.5, 1 - (white - black) / 2


def _robot_on_white(channels: int, height: int, width: int) -> Tensor:
    side = min(height, width)
    image = torch.full((channels, height, width), 255.0, dtype=torch.float64)
    top, left = (height - side) // 2, (width - side) // 2
    image[:, top : top + side, left : left + side] = (
        paint(_robot, side, channels, 1.0).double() + 1
    ) * 127.5
    return image


def _robot(canvas: Canvas) -> None:
    """A square head with an antenna and ears, round eyes and a wide mouth: a few large shapes that
    remain visible through an image.
    """
    canvas.stroke(path("50,22 50,10"), 0.06, _NAVY)
    canvas.ellipse((0.5, 0.09), (0.08, 0.08), _RED)
    for mirror in (False, True):
        canvas.polygon(path("2,46 14,46 14,72 2,72", mirror), _RED)
    canvas.polygon(path("12,24 16,20 84,20 88,24 88,92 84,96 16,96 12,92"), _NAVY)
    for centre in (0.32, 0.68):
        canvas.ellipse((centre, 0.45), (0.14, 0.14), _YELLOW)
        canvas.ellipse((centre, 0.46), (0.06, 0.06), _BLACK)
    canvas.polygon(path("24,70 76,70 76,86 24,86"), _WHITE)
    for tooth in (35, 48, 61):
        canvas.polygon(path(f"{tooth},70 {tooth + 4},70 {tooth + 4},86 {tooth},86"), _NAVY)


def _bomb(canvas: Canvas) -> None:
    """A black ball with a highlight and a cap, a burning fuse; a white rim keeps it visible on dark
    images.
    """
    fuse = curve("62,34 68,22 78,16 84,18")
    canvas.ellipse((0.41, 0.6), (0.41, 0.4), _WHITE)
    canvas.polygon(path("48,30 64,22 78,40 64,50"), _WHITE)
    canvas.stroke(fuse, 0.16, _WHITE)
    canvas.ellipse((0.41, 0.6), (0.35, 0.34), _BLACK)
    canvas.polygon(path("52,32 62,27 72,39 62,46"), _BLACK)
    canvas.stroke(fuse, 0.06, _BLACK)
    canvas.ellipse((0.86, 0.17), (0.14, 0.15), _ORANGE)
    canvas.ellipse((0.86, 0.17), (0.07, 0.08), _YELLOW)
    canvas.ellipse((0.28, 0.48), (0.09, 0.08), _WHITE)
