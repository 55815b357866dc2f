"""BadDiffusion's triggers (Chou et al. 2023, arXiv 2212.05400, table 1, appendix H), drawn by us,
and how an image is stamped.

A trigger ``g`` is an image whose background is exactly -1. It replaces an image's pixels *channel
by channel*, wherever it is above that: ``r = M x + (1 - M) g``. Deviation: the paper's stop sign
and eyeglasses are pictures; ours are drawings of the same things at the same places. The paper's
sign keeps no white (it is cut out with the background); ours has a rim and lettering just below 1.
"""

from __future__ import annotations

from math import cos, pi, sin

import torch
from torch import Tensor

from bench.artwork._drawing import Canvas, check_image_shape, paint, path, scaled, unknown_name
from bench.artwork.drawn import DRAWN, drawn_patch

BACKGROUND = -1.0
#: The paper's "grey": the middle of [-1, 1]. On a background of 0 the box would be invisible.
GREY = 0.0
NAMES = ("grey_box", "stop_sign", "eyeglasses")

_RED = (232, 0, 0)
_WHITE = (240, 240, 240)
_FRAME = (222, 174, 92)
# S, T, O, P as plain strokes; below about 20 pixels they merge into a pale bar, as in a photograph.
_LETTERS = (
    "28,38 19,38 19,50 28,50 28,62 19,62",
    "35,38 48,38",
    "41.5,38 41.5,62",
    "55,38 64,38 64,62 55,62 55,38",
    "72,62 72,38 81,38 81,50 72,50",
)


def trigger(
    name: str, image_shape: tuple[int, int, int], size: int | None = None, seed: int | None = None
) -> Tensor:
    """The trigger ``g``: (c, h, w) float32 in [-1, 1], exactly :data:`BACKGROUND` outside a
    ``size`` x ``size`` square.

    ``size`` counts pixels. The default is the paper's, in proportion to the shorter side: 14 of 32
    for the box and the sign (halves round up), 5/8 of the side for the eyeglasses (rounded down).
    Box and sign sit bottom right with a gap of 2 of 32 pixels; eyeglasses are centred, and ``size``
    is their width. ``drawn`` is a square of that size with colours and position drawn from
    ``seed``, which is ``None`` for all others (:mod:`bench.artwork.drawn`).

    Raises ``ValueError`` for an unknown name, a side below 8 pixels, other than 1 or 3 channels, or
    a size that is not a whole number from 2 to the shorter side minus the gap.
    """
    if name not in (*NAMES, DRAWN):
        raise unknown_name("trigger", name, (*NAMES, DRAWN))
    channels, height, width, side = check_image_shape(image_shape)
    if (seed is not None) != (name == DRAWN):
        raise ValueError(
            f"{name}: seed must be {'a number' if name == DRAWN else 'null'}, got {seed!r}"
        )
    gap = scaled(2, side)
    if size is None:
        size = side * 5 // 8 if name == "eyeglasses" else scaled(14, side)
    if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= side - gap:
        allowed = f"a whole number from 2 to {side - gap} at {height} x {width} pixels"
        raise ValueError(f"{name}: size must be {allowed}, got {size!r}")
    drawn = None
    if seed is not None:
        drawn, top, left = drawn_patch(seed, image_shape, size)
    elif name == "eyeglasses":
        top, left = (height - size) // 2, (width - size) // 2
    else:
        top, left = height - gap - size, width - gap - size
    image = torch.full((channels, height, width), BACKGROUND)
    square = image[:, top : top + size, left : left + size]
    if drawn is not None:
        square.copy_(drawn / 127.5 - 1)
    elif name == "grey_box":
        square.fill_(GREY)
    else:
        square.copy_(
            paint(_stop_sign if name == "stop_sign" else _eyeglasses, size, channels, BACKGROUND)
        )
    return image


def mask(trigger: Tensor) -> Tensor:
    """``M``, like ``trigger``: 0 where the trigger is above :data:`BACKGROUND`, 1 elsewhere.

    Per element, hence per channel: where only a trigger's red is above the background, an image's
    green and blue stay.
    """
    return (trigger <= BACKGROUND).to(trigger.dtype)


def stamp(images: Tensor, trigger: Tensor) -> Tensor:
    """``r = M x + (1 - M) g`` for ``images`` x (n, c, h, w) in [-1, 1] and one trigger (c, h, w); a
    new tensor like ``images``.

    Raises ``ValueError`` if the trigger is not of the images' shape.
    """
    if images.ndim != 4 or images.shape[1:] != trigger.shape:
        raise ValueError(
            f"trigger must have the shape of one image, {tuple(images.shape[1:])}, got "
            f"{tuple(trigger.shape)}"
        )
    keep = mask(trigger).to(images)
    return keep * images + (1 - keep) * trigger.to(images)


def _octagon(radius: float) -> list[tuple[float, float]]:
    return [
        (0.5 + radius * cos(pi / 8 + k * pi / 4), 0.5 + radius * sin(pi / 8 + k * pi / 4))
        for k in range(8)
    ]


def _stop_sign(canvas: Canvas) -> None:
    canvas.polygon(_octagon(0.54), _WHITE)
    canvas.polygon(_octagon(0.475), _RED)
    for letter in _LETTERS:
        canvas.stroke(path(letter), 0.048, _WHITE)


def _eyeglasses(canvas: Canvas) -> None:
    """Round frames with a bridge and two hinges; the lenses are background, so a face behind them
    stays.
    """
    for mirror in (False, True):
        centre = 0.75 if mirror else 0.25
        canvas.ellipse((centre, 0.5), (0.23, 0.24), _FRAME)
        canvas.polygon(path("0,34 14,34 8,46 0,43", mirror), _FRAME)
        canvas.ellipse((centre, 0.5), (0.15, 0.15), None)
    canvas.stroke(path("44,46 50,43 56,46"), 0.08, _FRAME)
