"""Drawing tools for triggers and targets: vector shapes at any resolution, averaged over each
pixel's area.

A figure is a function that draws on a :class:`Canvas` whose unit square runs from (0, 0) top left
to (1, 1) bottom right. It is painted several times larger than requested and averaged down in
integers: one version of Pillow always gives the same bits.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

Point = tuple[float, float]
Colour = tuple[int, int, int]

SMALLEST_SIDE = 8
_PAINTED_SIDE = 512
_LEAST_OVERSAMPLING = 4
_ELLIPSE_CORNERS = 128
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Canvas:
    """Opaque painting over a transparent ground. Coordinates and widths are fractions of the side,
    colours are 8-bit RGB.
    """

    def __init__(self, side: int) -> None:
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._side = side

    def polygon(self, points: Sequence[Point], colour: Colour | None) -> None:
        """A filled polygon; ``None`` cuts a hole down to the transparent ground."""
        self._draw.polygon(self._pixels(points), fill=_opaque(colour))

    def blob(self, points: Sequence[Point], colour: Colour | None) -> None:
        """A filled closed smooth curve through ``points``."""
        self.polygon(smooth(points, closed=True), colour)

    def ellipse(self, centre: Point, radii: Point, colour: Colour | None) -> None:
        """A filled axis-parallel ellipse, as a polygon: Pillow's own ellipses snap to whole pixels
        and lean to one side.
        """
        (x, y), (rx, ry) = centre, radii
        angles = [2 * pi * k / _ELLIPSE_CORNERS for k in range(_ELLIPSE_CORNERS)]
        self.polygon([(x + rx * cos(angle), y + ry * sin(angle)) for angle in angles], colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour | None) -> None:
        """A line through ``points`` with round joints and ends."""
        self._draw.line(
            self._pixels(points), fill=_opaque(colour), width=max(1, round(width * self._side))
        )
        for point in points:
            self.ellipse(point, (width / 2, width / 2), colour)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._side, y * self._side) for x, y in points]


def path(text: str, mirror: bool = False) -> list[Point]:
    """Points written as ``"x,y x,y ..."`` in hundredths of the side; ``mirror`` swaps left and
    right.
    """
    pairs = (pair.split(",") for pair in text.split())
    return [((1 - float(x) / 100) if mirror else float(x) / 100, float(y) / 100) for x, y in pairs]


def curve(text: str, mirror: bool = False) -> list[Point]:
    """An open smooth curve through the points of :func:`path`."""
    return smooth(path(text, mirror))


def smooth(points: Sequence[Point], closed: bool = False, steps: int = 12) -> list[Point]:
    """A Catmull-Rom curve through ``points``, as a polyline with ``steps`` pieces between
    neighbours.
    """
    nodes = [np.asarray(point) for point in points]
    padded = [nodes[-1], *nodes, nodes[0], nodes[1]] if closed else [nodes[0], *nodes, nodes[-1]]
    polyline: list[Point] = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for u in np.arange(steps) / steps:
            x, y = 0.5 * (
                2 * start
                + (end - before) * u
                + (2 * before - 5 * start + 4 * end - after) * u**2
                + (3 * start - before - 3 * end + after) * u**3
            )
            polyline.append((float(x), float(y)))
    return polyline if closed else [*polyline, points[-1]]


def paint(figure: Callable[[Canvas], None], side: int, channels: int, background: float) -> Tensor:
    """``figure`` over ``background``: (channels, side, side) float32 in [-1, 1]; one channel holds
    the luminance.

    Pixels the figure does not touch are exactly ``background``; on its edge the two are mixed by
    area.
    """
    colour, coverage = _painted(figure, side)
    if channels == 1:
        colour = (colour * np.asarray(_LUMINANCE)).sum(axis=2, keepdims=True)
    # In 0..1 the figure is already multiplied by its coverage; 2 v - 1 maps it to [-1, 1] without
    # touching the uncovered share.
    mixed = (2 * colour - coverage) + (1 - coverage) * background
    return torch.from_numpy(mixed.transpose(2, 0, 1).astype(np.float32)).contiguous()


@lru_cache(maxsize=64)
def _painted(figure: Callable[[Canvas], None], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour times coverage (side, side, 3) and coverage (side, side, 1), float64 in [0, 1]."""
    oversampling = max(_LEAST_OVERSAMPLING, -(-_PAINTED_SIDE // side))
    canvas = Canvas(side * oversampling)
    figure(canvas)
    pixels = np.asarray(canvas.image).reshape(side, oversampling, side, oversampling, 4)
    shares = pixels.sum(axis=1, dtype=np.int64).sum(axis=2) / (255 * oversampling**2)
    return shares[..., :3], shares[..., 3:]


def _opaque(colour: Colour | None) -> tuple[int, int, int, int]:
    return (0, 0, 0, 0) if colour is None else (*colour, 255)


def scaled(pixels: int, side: int) -> int:
    """A length on the paper's 32-pixel images, scaled to ``side`` pixels; halves round up."""
    return (2 * pixels * side + 32) // 64


def check_image_shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(channels, height, width, shorter side). Raises ``ValueError`` for a shape that cannot be
    drawn on.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise ValueError(
            f"image_shape must have 1 or 3 channels, got {channels} in {tuple(image_shape)}"
        )
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"image_shape must be at least {SMALLEST_SIDE} pixels high and wide, got "
            f"{tuple(image_shape)}"
        )
    return channels, height, width, min(height, width)


def unknown_name(what: str, name: str, known: Sequence[str]) -> ValueError:
    """The error for an unknown name; it suggests the nearest known one."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return ValueError(
        f"unknown {what} {name!r}: nearest is {nearest!r} (known: {', '.join(known)})"
    )
