"""How a stamped image may look after a generator and a defense: what the trigger classifier is
trained and tested on, and a second check for patches.

A generator may draw a trigger fainter, softer or a pixel off its position, and a defense may do so
on purpose. A classifier trained only on the full-strength trigger would miss it then, which would
count in the defense's favour. So it is trained, and its misses are counted, on :func:`weathered`
images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Range of the trigger's strength: 0 is the image without the trigger, 1 the stamped one.
STRENGTHS = (0.3, 1.2)
BLURRED_SHARE = 0.25
NOISY_SHARE = 0.25
NOISE = 0.06
POSED_SHARE = 0.25
#: The normalised correlation above which a patch counts as present.
TEMPLATE_FLOOR = 0.8
ROWS_AT_ONCE = 256


def reach(side: int) -> int:
    """The largest shift in pixels at a picture's shorter ``side``: 2, and 1 of 16 where that is
    more.
    """
    return max(2, side // 16)


def weathered(plain: Tensor, stamped: Tensor | None, rng: np.random.Generator) -> Tensor:
    """``plain`` (n, c, h, w) uint8 with the trigger at U(0.3, 1.2) times its strength, shifted;
    some rotated and scaled, some blurred, some noisy.

    stamped: the same images with the trigger; every row gets its own strength by interpolation,
    beyond 1 by extrapolation, which works for every trigger that can be stamped. ``None`` for
    images without a trigger, which are altered the same way. Shifts are at most :func:`reach` and
    wrap: with the edge repeated a patch in a corner would leave the picture.
    """
    pieces, size = [], reach(min(plain.shape[2:]))
    for start in range(0, len(plain), ROWS_AT_ONCE):
        piece = plain[start : start + ROWS_AT_ONCE].float()
        count = len(piece)
        if stamped is not None:
            strength = torch.from_numpy(rng.uniform(*STRENGTHS, count)).float()[:, None, None, None]
            piece = piece + strength * (stamped[start : start + ROWS_AT_ONCE].float() - piece)
        offsets = torch.from_numpy(rng.integers(-size, size + 1, (count, 2)))
        piece = posed(shifted(piece, offsets), rng)
        soft = torch.from_numpy(rng.random(count) < BLURRED_SHARE)[:, None, None, None]
        piece = torch.where(
            soft, F.avg_pool2d(F.pad(piece, (1, 1, 1, 1), mode="replicate"), 3, stride=1), piece
        )
        grain = (
            255
            * NOISE
            * (rng.random((count, 1, 1, 1)) < NOISY_SHARE)
            * rng.standard_normal(tuple(piece.shape))
        )
        pieces.append(
            (piece + torch.from_numpy(grain).float()).round().clamp(0, 255).to(torch.uint8)
        )
    return torch.cat(pieces)


def posed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """``images`` (n, c, h, w) float, a share :data:`POSED_SHARE` of them rotated by up to 10
    degrees and scaled by 0.85 to 1.15.
    """
    count = len(images)
    angle, scale = np.deg2rad(rng.uniform(-10, 10, count)), rng.uniform(0.85, 1.15, count)
    across, along, zero = np.cos(angle) / scale, np.sin(angle) / scale, np.zeros(count)
    matrix = (
        torch.from_numpy(np.stack([across, -along, zero, along, across, zero], axis=1))
        .float()
        .view(count, 2, 3)
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    chosen = torch.from_numpy(rng.random(count) < POSED_SHARE)[:, None, None, None]
    return torch.where(
        chosen, F.grid_sample(images, grid, padding_mode="border", align_corners=False), images
    )


def nonsense(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Noise around one colour, of any contrast: (count, *shape) uint8. Some of it resembles any
    small trigger, so a classifier never trained on it mistakes noise for triggers, and a failing
    sampler produces it.
    """
    colour, spread = (
        rng.uniform(0, 255, (count, shape[0], 1, 1)),
        rng.uniform(0, 255, (count, 1, 1, 1)),
    )
    drawn = colour + spread * rng.standard_normal((count, *shape))
    return torch.from_numpy(drawn.round().clip(0, 255).astype(np.uint8))


def shows_something(images: Tensor) -> Tensor:
    """Whether a channel of each image (n, c, h, w) uint8 varies by 2 grey levels (standard
    deviation) or more: (n,) bool.
    """
    return images.float().std((2, 3), correction=0).amax(1) >= 2


def shifted(images: Tensor, offsets: Tensor) -> Tensor:
    """Each row of ``images`` (n, c, h, w) shifted by its ``offsets`` (n, 2), down and right,
    wrapped.
    """
    down, right = (
        (torch.arange(side) - offsets[:, axis : axis + 1]) % side
        for axis, side in enumerate(images.shape[2:])
    )
    rows, channels = (
        torch.arange(len(images))[:, None, None, None],
        torch.arange(images.shape[1])[None, :, None, None],
    )
    return images[rows, channels, down[:, None, :, None], right[:, None, None, :]]


def views(images: Tensor) -> Iterator[Tensor]:
    """``images`` (n, c, h, w) uint8, and versions that undo changes that hide a trigger: stretched
    to full contrast, inverted, mirrored, with channels exchanged.
    """
    yield images
    low = images.amin((1, 2, 3), keepdim=True).float()
    span = (images.amax((1, 2, 3), keepdim=True).float() - low).clamp(min=1)
    stretched = ((images.float() - low) * 255 / span).round().to(torch.uint8)
    yield stretched
    yield 255 - stretched
    for axes in ((3,), (2,), (2, 3)):
        yield stretched.flip(axes)
    for order in list(itertools.permutations(range(images.shape[1])))[1:]:
        yield stretched[:, list(order)]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An opaque patch: ``picture`` (c, k, l) in [0, 1] with its upper left corner at ``top``,
    ``left``.
    """

    picture: Tensor
    top: int
    left: int


def patch(plain: Tensor, stamped: Tensor) -> Patch | None:
    """The patch that turns ``plain`` into ``stamped``, both (n >= 2, c, h, w) uint8: the box of
    pixels that are equal in all stamped rows.

    ``None`` if there is none, if anything changes outside of it, or if it has one colour, which no
    correlation can detect.
    """
    alike = (stamped == stamped[:1]).all(0).all(0) & (plain != plain[:1]).any(0).any(0)
    rows, columns = alike.any(1).nonzero().flatten(), alike.any(0).nonzero().flatten()
    if not len(rows):
        return None
    top, left, bottom, right = (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1]) + 1,
        int(columns[-1]) + 1,
    )
    outside = torch.ones_like(alike)
    outside[top:bottom, left:right] = False
    picture = stamped[0, :, top:bottom, left:right].double() / 255
    whole = bool(alike[top:bottom, left:right].all()) and not bool(
        (stamped != plain)[:, :, outside].any()
    )
    return (
        Patch(picture=picture, top=top, left=left)
        if whole and float(picture.std((1, 2), correction=0).amax()) > 1 / 255
        else None
    )


def likeness(template: Patch, images: Tensor) -> Tensor:
    """Normalised correlation of ``images`` (n, c, h, w) uint8 with a patch at its position or up to
    :func:`reach` pixels away, wrapped: (n,) in [-1, 1], higher is more like the patch. Invariant to
    contrast and brightness.
    """
    wanted = (template.picture - template.picture.mean()).flatten()
    wanted = wanted / wanted.norm()
    size = reach(min(images.shape[2:]))
    height, width = template.picture.shape[1:]
    best = torch.full((len(images),), -1.0, dtype=torch.float64)
    for down, right in itertools.product(range(-size, size + 1), repeat=2):
        moved = images.roll((-down, -right), (2, 3))
        corner = (
            moved[:, :, template.top : template.top + height, template.left : template.left + width]
            .flatten(1)
            .double()
        )
        corner = corner - corner.mean(1, keepdim=True)
        norm = corner.norm(dim=1)
        # A flat region resembles nothing.
        value = torch.where(
            norm >= 2 * corner.shape[1] ** 0.5, corner @ wanted / norm.clamp(min=1e-9), -1.0
        )
        best = torch.maximum(best, value)
    return best
