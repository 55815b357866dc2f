"""Whether images carry an adversary's mark even after they were altered: a matched filter for what
the stamp adds on average.

A network trained on the trigger as drawn misses it in grey, at two levels of brightness or behind a
chessboard. Classical detection does not: the squared cosine between image and mark after both were
whitened by the covariance of real images, the adaptive coherence estimator (Kraut, Scharf,
McWhorter 2001) for a known signal of unknown strength in coloured noise. It is invariant to
contrast, brightness and inversion.

- **Three representations**: the pixels, the pixels after a mild blur, and their texture, the
  logarithm of the energy of second differences along rows and columns. A patch or a blend adds the
  same to the pixels of every picture; a distortion does not, but it smooths every picture at the
  same positions. Sharp pixels survive noise and covers, soft ones lost detail, texture a change of
  tone.
- **Three sets of marks** for each: unmoved; moved; and with channels exchanged, mirrored, turned
  by up to 20 degrees or scaled. A larger set matches by chance more easily, so each has its own
  scale: what one in a hundred real images exceeds. The score is the largest of the nine in units of
  their scales.
- **Altered real images**: the covariance includes pictures with rotated colours, with a frame, a
  bar or a box, shifted with wrapped edges, and turned by a quarter. Otherwise an edge made by such
  a change would pass for a mark that has one.

The constants below were chosen on badnets1, badnets2 and wanet on the digits, with changes of
pictures like those in the tests of recognition, and none of those in the tests of marks.

Images are compared at no more than 32 x 32 pixels (area means), at which a patch of a tenth of the
side is still 3 pixels wide, but distortions finer than that are gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.metrics.alike import Alike, alike
from bench.metrics.whitening import (
    FLAT,
    TINY,
    affine,
    blurred,
    contrast,
    covariance_factor,
    evenly_spaced,
    mirrored,
    normalised,
    shifted,
    small,
    whitened,
)
from bench.metrics.whitening import turned as in_other_colours

SIDE = 32
#: The largest shift of a mark as a share of the side: with the edge repeated, and wrapped.
SHIFT, WRAPPED_SHIFT = 1 / 8, 3 / 16
ANGLES = (10.0, -10.0, 20.0, -20.0)
SCALES = (0.8, 1.2)
#: The floor of a texture's energy, for images whose standard deviation is :data:`CONTRAST`:
#: anything up to half a colour level is rounding.
LEAST_ENERGY = (1 / 255) ** 2
CONTRAST = 0.25
#: Scales the logarithm so that textures vary about as much as images in [0, 1] do.
TEXTURE_UNIT = 0.1
#: The share of real images that exceed the scale of a set of marks.
BEYOND_SCALE = 0.01
#: Rows of real images that are kept for a filter.
REAL_IMAGES = 4096
#: One in this many real images is also added in each altered form.
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
    filter uses: uint8."""
    if len(images) > limit:
        images = images[evenly_spaced(len(images), limit)]
    return torch.cat(
        [(small(piece, SIDE) * 255).round().to(torch.uint8) for piece in _pieces(images)]
    )


def matched_filter(mark: Mark, real_images: Tensor) -> MatchedFilter:
    """A :class:`MatchedFilter`; for the same mark and images the one of before, since its
    covariances take seconds and the cells of one attack want the same. For tensors on the CPU.
    """
    return _kept(alike(mark.pixels), alike(mark.texture), alike(real_images))


@lru_cache(maxsize=4)
def _kept(pixels: Alike, texture: Alike, real_images: Alike) -> MatchedFilter:
    return MatchedFilter(Mark(pixels.images, texture.images), real_images.images)


class MatchedFilter:
    """``usable``: whether there is a mark to detect."""

    def __init__(self, mark: Mark, real_images: Tensor) -> None:
        """mark: from :func:`average_mark`; real_images: clean (n >= 2, c, h', w') uint8, best from
        :func:`shrink`.

        Every other one of ``real_images`` gives the covariance, the rest set the scales. Raises
        ``ValueError`` for fewer than two of them, or if their shape when shrunk is not the mark's.
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
        """For each representation: its function, the factor of the covariance and the three sets of
        whitened marks. Computed on first use: not every filter that is built is used."""
        pixels, grain = (
            [torch.stack(marks) for marks in _sets(part.double(), part is self._mark.texture)]
            for part in self._mark
        )
        ways: list[tuple[Callable[[Tensor], Tensor], list[Tensor]]] = [
            (torch.clone, pixels),
            (blurred, [blurred(marks) for marks in pixels]),
            (texture, grain),
        ]
        varied, comparisons = _varied(self._real[::2]), []
        for look, sets in ways:
            factor = covariance_factor(look(varied))
            comparisons.append(
                (look, factor, [normalised(whitened(marks, factor)) for marks in sets])
            )
        return comparisons

    @cached_property
    def _scales(self) -> Tensor:
        """What one in a hundred of the other real images exceed, by representation and set: (9,) >
        0."""
        exceeded = np.quantile(
            self._coherence(self._real[1::2]), 1 - BEYOND_SCALE, axis=0, method="higher"
        )
        return torch.from_numpy(exceeded).clamp(min=TINY)

    def scores(self, images: Tensor) -> Values:
        """images: (n, c, h, w) uint8 or float in [0, 1]. Returns (n,) scores >= 0: higher is more
        like the mark, 0 for flat images."""
        if not self.usable or not len(images):
            return np.zeros(len(images))
        scores = []
        for piece in _pieces(images):
            shrunk = small(piece, SIDE)
            scores.append(
                (self._coherence(shrunk) / self._scales).amax(1) * (contrast(shrunk) >= FLAT)
            )
        return torch.cat(scores).numpy()

    def _coherence(self, images: Tensor) -> Tensor:
        """The largest squared cosine with the marks of each set, in each representation: (n, 9) in
        [0, 1]."""
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
    """The mark (c, h, w) unchanged, shifted, and otherwise changed."""
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
    """With channels exchanged, mirrored and turned by quarters, each also rotated slightly or
    scaled, and all of these shifted."""
    posed = [
        mark,
        *(affine(mark, angle, 1) for angle in ANGLES),
        *(affine(mark, 0, scale) for scale in SCALES),
    ]
    varied = [image for pose in posed for image in mirrored(pose)]
    if is_texture:
        # Where rows become columns, their energies swap too: for square images in the second four
        # of each eight.
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
    """With a grey box of random position, size and shape, including bars and halves. The same boxes
    on every call."""
    stream = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    ends = torch.rand(len(images), 2, 2, generator=stream).sort(2).values
    row, column = torch.arange(height) / height, torch.arange(width) / width
    inside_rows = (row >= ends[:, 0, :1]) & (row < ends[:, 0, 1:])
    inside_columns = (column >= ends[:, 1, :1]) & (column < ends[:, 1, 1:])
    # A third of them reaches from edge to edge, either way.
    variant = torch.arange(len(images))[:, None] % 3
    box = ((variant == 1) | inside_rows)[:, None, :, None] & ((variant == 2) | inside_columns)[
        :, None, None, :
    ]
    grey = torch.rand(len(images), 1, 1, 1, generator=stream, dtype=images.dtype)
    return torch.where(box, grey, images)
