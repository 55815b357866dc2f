"""Whether images carry an adversary's mark, whatever was done to them: a matched filter for what
the stamp adds on average.

A network that was trained on a trigger as it is drawn misses it in grey, at two levels of
brightness or behind a chessboard. Classical detection does not: the squared cosine between image
and mark after both were whitened by the covariance of real images, the adaptive coherence estimator
(Kraut, Scharf, McWhorter 2001) for a known signal of unknown strength in coloured noise. Contrast,
brightness and inversion leave it as it is.

- **Three ways to look**: at pixels as they are, after a mild blur, and at their texture, the
  logarithm of the energy of second differences along rows and columns. A patch or a blend adds the
  same to the pixels of every picture; a distortion, which does not, smooths every picture at the
  same places. Noise and covers leave the sharp pixels, lost detail the soft ones, tone the texture.
- **Three sets of marks** for each: in place; moved; and with channels exchanged, mirrored, turned
  by up to 20 degrees or scaled. A larger set is reached by chance more easily, so each has a scale
  of its own: what one in a hundred real images exceeds. The score is the largest of the nine in
  units of their scales.
- **Real images vary by what is done to them**: to the covariance belong pictures whose colours were
  turned, with a frame, a bar or a box, moved with the edge wrapped and turned by a quarter. Else an
  edge that such a change makes passes for a mark that has one.

Looked at when the constants below were chosen: badnets1, badnets2 and wanet on the digits, at
changes of pictures like those that the tests of recognition make; none of those that the tests of
marks make.

Images are compared at no more than 32 x 32 pixels (area means), at which a patch of a tenth of the
side is still 3 pixels wide, but distortions finer than that are gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.metrics.whitening import (
    FLAT,
    TINY,
    affine,
    blurred,
    contrast,
    covariance_factor,
    mirrored,
    normalised,
    shifted,
    small,
    whitened,
)
from bench.metrics.whitening import turned as in_other_colours

SIDE = 32
#: Of the side: what a mark may be moved by, and by how much more with the edge wrapped.
SHIFT, WRAPPED_SHIFT = 1 / 8, 3 / 16
ANGLES = (10.0, -10.0, 20.0, -20.0)
SCALES = (0.8, 1.2)
#: The least energy of a texture, of images whose standard deviation is :data:`CONTRAST`: half a
#: colour level and less are rounding.
LEAST_ENERGY = (1 / 255) ** 2
CONTRAST = 0.25
#: Of the logarithm, so that textures vary about as much as images in [0, 1] do.
TEXTURE_UNIT = 0.1
#: Of real images, what exceeds the scale of a set of marks.
BEYOND_SCALE = 0.01
#: Rows of real images that are kept for a filter.
REAL_IMAGES = 4096
#: Every so many real images also vary by each of what is done to them.
CHANGED_EVERY = 6
ROWS_AT_ONCE, ELEMENTS_AT_ONCE = 512, 2**23

Values = npt.NDArray[np.float64]


class Mark(NamedTuple):
    """What stamping adds on average: to ``pixels``, (c, h, w) in [-1, 1], and to their ``texture``,
    (2, h, w)."""

    pixels: Tensor
    texture: Tensor


def average_mark(plain: Tensor, stamped: Tensor) -> Mark:
    """From the same images without and with the stamp, both (n > 0, c, h, w) uint8."""
    pixels, textures = [], []
    for before, after in zip(_pieces(plain), _pieces(stamped), strict=True):
        before, after = small(before, SIDE), small(after, SIDE)
        pixels.append((after - before).sum(0))
        textures.append((texture(after) - texture(before)).sum(0))
    return Mark(torch.stack(pixels).sum(0) / len(plain), torch.stack(textures).sum(0) / len(plain))


def texture(images: Tensor) -> Tensor:
    """``images`` (n, c, h, w) in [0, 1] -> (n, 2, h, w): the logarithm of the energy of second
    differences along rows and columns, over all channels, at equal contrast."""
    deviation = images.std((1, 2, 3), correction=0, keepdim=True)
    even = (images - images.mean((1, 2, 3), keepdim=True)) * CONTRAST / deviation.clamp(min=FLAT)
    padded = F.pad(even, (1, 1, 1, 1), mode="replicate")
    across = 2 * even - padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    along = 2 * even - padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return TEXTURE_UNIT * torch.stack(
        [(LEAST_ENERGY + line.square().mean(1)).log() for line in (across, along)], 1
    )


def shrink(images: Tensor, limit: int = REAL_IMAGES) -> Tensor:
    """At most ``limit`` of ``images`` (n, c, h, w) uint8, evenly spaced, and no larger than a
    filter looks at: uint8."""
    if len(images) > limit:
        images = images[torch.linspace(0, len(images) - 1, limit).round().long()]
    return torch.cat(
        [(small(piece, SIDE) * 255).round().to(torch.uint8) for piece in _pieces(images)]
    )


class MatchedFilter:
    """``usable``: whether there is a mark to look for."""

    def __init__(self, mark: Mark, real_images: Tensor) -> None:
        """mark: from :func:`average_mark`; real_images: clean (n >= 2, c, h', w') uint8, best from
        :func:`shrink`.

        Every other of ``real_images`` says how real images vary, the rest set the scales. Raises
        ``ValueError`` for fewer than two of them, or for images that are not the mark's when
        shrunk.
        """
        real, shape = small(real_images, SIDE), tuple(mark.pixels.shape)
        if len(real) < 2 or real.shape[1:] != shape:
            raise ValueError(
                f"real_images must be two or more that shrink to {shape}, got "
                f"{tuple(real_images.shape)}"
            )
        self.usable = bool(mark.pixels.any())
        self._mark, self._real = mark, real

    @cached_property
    def _compared(self) -> list[tuple[Callable[[Tensor], Tensor], Tensor, list[Tensor]]]:
        """Each way to look, with the factor of the covariance and the three sets of marks under it,
        whitened. Made when first asked for: not everybody who holds a filter looks through it."""
        pixels, grain = (
            [torch.stack(marks) for marks in _sets(one.double(), one is self._mark.texture)]
            for one in self._mark
        )
        ways: list[tuple[Callable[[Tensor], Tensor], list[Tensor]]] = [
            (torch.clone, pixels),
            (blurred, [blurred(marks) for marks in pixels]),
            (texture, grain),
        ]
        varied, found = _varied(self._real[::2]), []
        for look, sets in ways:
            factor = covariance_factor(look(varied))
            found.append((look, factor, [normalised(whitened(marks, factor)) for marks in sets]))
        return found

    @cached_property
    def _scales(self) -> Tensor:
        """What a hundredth of the other real images exceed, by way and set: (9,) > 0."""
        exceeded = np.quantile(
            self._coherence(self._real[1::2]), 1 - BEYOND_SCALE, axis=0, method="higher"
        )
        return torch.from_numpy(exceeded).clamp(min=TINY)

    def scores(self, images: Tensor) -> Values:
        """images: (n, c, h, w) uint8 or float in [0, 1]. Each at least 0, high is like the mark:
        (n,). 0 for what shows nothing."""
        if not self.usable or not len(images):
            return np.zeros(len(images))
        found = []
        for piece in _pieces(images):
            shown = small(piece, SIDE)
            found.append(
                (self._coherence(shown) / self._scales).amax(1) * (contrast(shown) >= FLAT)
            )
        return torch.cat(found).numpy()

    def _coherence(self, images: Tensor) -> Tensor:
        """The largest squared cosine with the marks of each set, by each way to look: (n, 9) in [0,
        1]."""
        columns = []
        for look, factor, sets in self._compared:
            rows = normalised(whitened(look(images), factor))
            columns += [(rows @ marks.T).square().amax(1) for marks in sets]
        return torch.stack(columns, 1)


def _pieces(images: Tensor) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = images.split(
        max(1, min(ROWS_AT_ONCE, ELEMENTS_AT_ONCE // images[0].numel()))
    )
    return pieces


def _sets(mark: Tensor, is_texture: bool) -> tuple[list[Tensor], ...]:
    """The mark (c, h, w) in place, moved, and otherwise changed."""
    side = min(mark.shape[1:])
    near, wide = max(1, round(SHIFT * side)), max(1, round(WRAPPED_SHIFT * side))
    moved = [mark.roll(by, (1, 2)) for by in itertools.product(range(-wide, wide + 1), repeat=2)]
    moved += [shifted(mark, *by) for by in itertools.product(range(-near, near + 1), repeat=2)]
    return (
        [mark],
        moved,
        list(_changed(mark, is_texture, range(-near, near + 1, max(1, near // 2)))),
    )


def _changed(mark: Tensor, is_texture: bool, offsets: range) -> Iterator[Tensor]:
    """Channels exchanged, mirrored and turned by quarters, each also turned a little or scaled, and
    all of that moved."""
    posed = [
        mark,
        *(affine(mark, angle, 1) for angle in ANGLES),
        *(affine(mark, 0, scale) for scale in SCALES),
    ]
    varied = [image for pose in posed for image in mirrored(pose)]
    if is_texture:
        # Where rows become columns, so do their energies: of square images in the second four of
        # each eight.
        varied = [
            image.flip(0) if number % 8 >= 4 and len(varied) == 8 * len(posed) else image
            for number, image in enumerate(varied)
        ]
    else:
        varied += [mark[list(order)] for order in itertools.permutations(range(mark.shape[0]))][1:]
    for image, down, right in itertools.product(varied, offsets, offsets):
        yield image.roll((down, right), (1, 2))


def _varied(images: Tensor) -> Tensor:
    """``images`` (n, c, h, w) in [0, 1], and some of them after each change that leaves edges."""
    some, side = images[::CHANGED_EVERY], min(images.shape[2:])
    wide, thin = max(1, round(WRAPPED_SHIFT * side)), max(1, side // 16)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda rows: _covered(rows, thin),
        lambda rows: _covered(rows, 2 * thin),
        _barred,
        lambda rows: rows.roll((wide, wide), (2, 3)),
        lambda rows: rows.roll((-wide, -wide), (2, 3)),
    ]
    if images.shape[2] == images.shape[3]:
        changes.append(lambda rows: rows.rot90(1, (2, 3)))
    return torch.cat([images, in_other_colours(images[::4]), *(change(some) for change in changes)])


def _covered(images: Tensor, width: int) -> Tensor:
    """With a black frame."""
    framed = torch.zeros_like(images)
    framed[..., width:-width, width:-width] = images[..., width:-width, width:-width]
    return framed


def _barred(images: Tensor) -> Tensor:
    """With a box of one grey of any place, size and shape; bars and halves among them. The same
    boxes on every call."""
    stream = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    ends = torch.rand(len(images), 2, 2, generator=stream).sort(2).values
    row, column = torch.arange(height) / height, torch.arange(width) / width
    inside_rows = (row >= ends[:, 0, :1]) & (row < ends[:, 0, 1:])
    inside_columns = (column >= ends[:, 1, :1]) & (column < ends[:, 1, 1:])
    # A third of them reaches from edge to edge, either way.
    kind = torch.arange(len(images))[:, None] % 3
    box = ((kind == 1) | inside_rows)[:, None, :, None] & ((kind == 2) | inside_columns)[
        :, None, None, :
    ]
    grey = torch.rand(len(images), 1, 1, 1, generator=stream, dtype=images.dtype)
    return torch.where(box, grey, images)
