"""Whether an image still shows the adversary's target after it was altered: the rule behind
``robust_asr``.

Shifting the picture by one pixel evades a distance to the target. So a sample is compared with a
declared set of changed targets, and every comparison is a **share of variance explained**, whose
unit is the same for every target. Three of them:

- ``pixels``: the share of the target's variance that a least-squares fit of the sample explains,
  each channel from all of the sample's channels and a constant. The fit undoes contrast,
  brightness, inversion, a lost or exchanged colour. Maximum over shifts of up to 2 pixels, edge
  repeated or wrapped, after a mild blur of both.
- ``whitened``: the squared cosine between sample and target after both were whitened by the
  covariance of real images, the adaptive coherence estimator (Kraut, Scharf, McWhorter 2001) for a
  known signal of unknown strength in coloured noise. What real images have in common counts little,
  so a target shows through a picture it is blended with, and half of it is enough. Maximum over the
  same shifts, wrapped ones of up to 3 pixels, mirror images and quarter turns, each also turned by
  10 degrees and scaled by 0.85 and 1.15, and exchanged channels.
- ``parts``: as ``pixels``, channel by channel and without the blur, from a part of the picture
  alone: either half, or one colour of a chessboard or of stripes; a share of the whole target's
  variance. So a target that is half covered or interleaved with another picture counts.

A sample is recognised if any share is **above** its threshold: 0.5 for pixels, 0.1 whitened and 0.3
for parts, or, where that is more, what a quarter of a percent of clean real images exceed (an order
statistic, never interpolated), three quarters of a percent together at most. A sample whose
standard deviation is below 2 grey levels is flat and never recognised; nothing is recognised if the
target itself is flat.

Its constants were chosen on one target, ``hat``. A large soft patch of low contrast on flat ground,
``corner`` or ``shift``, is like many a photograph, so its thresholds are far above their floors: it
is lost under strong noise, black and white pixels, covers, blends and (``corner``) mirroring.

Images are compared at no more than 16 x 16 pixels (area means): the cost is the same at every
resolution, and the declared set covers the same share of a picture. A shift of 2 is one eighth of
the side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.metrics.alike import Alike, alike
from bench.metrics.whitening import (
    FLAT,
    TINY,
    affine,
    blurred,
    centred,
    contrast,
    covariance_factor,
    evenly_spaced,
    mirrored,
    normalised,
    shifted,
    small,
    turned,
    whitened,
)

SIDE = 16
SHIFT = 2
WRAPPED_SHIFT = 3
ANGLES = (10.0, -10.0)
SCALES = (0.85, 1.15)
#: The lowest thresholds: half of the target's variance; a tenth of a sample's own, which real
#: images rarely reach; and somewhat more than half of the half that a part can explain at most.
FLOORS = {"pixels": 0.5, "whitened": 0.1, "parts": 0.3}
TOLERATED_REAL_SHARE = 0.0025
TOLERATED_SOFT_SHARE = 0.01
#: Passes of the mild blur that make a soft image: a standard deviation of 1.6 of 16 pixels.
SOFTENED = 5
#: Rows of real images that are kept for a recogniser.
REAL_IMAGES = 4096
#: One in this many real images is added with randomly rotated colours. Otherwise a target of rare
#: colours would be recognised by these alone, and so would every other colourful picture.
TURNED_EVERY = 4
ELEMENTS_AT_ONCE = 2**23

Values = npt.NDArray[np.float64]
#: Shares of variance explained by comparison, each (n,) in [0, 1]; high is like the target. 0 for
#: flat images.
Scores = dict[str, Values]


def shrink(images: Tensor, limit: int | None = None) -> Tensor:
    """``images`` (n, c, h, w) uint8 at most :data:`SIDE` pixels high and wide, by area means,
    rounded; at most ``limit`` of them, evenly spaced.
    """
    if limit is not None and len(images) > limit:
        images = images[evenly_spaced(len(images), limit)]
    pieces = (
        images.split(max(1, ELEMENTS_AT_ONCE // images[0].numel())) if len(images) else (images,)
    )
    return torch.cat([(small(piece, SIDE) * 255).round().to(torch.uint8) for piece in pieces])


def recogniser(target: Tensor, real_images: Tensor) -> Recogniser:
    """A :class:`Recogniser`; for the same target and images the one of before, since setting the
    thresholds takes seconds and the cells of one attack want the same. For tensors on the CPU.
    """
    return _kept(alike(target), alike(real_images))


@lru_cache(maxsize=4)
def _kept(target: Alike, real_images: Alike) -> Recogniser:
    return Recogniser(target.images, real_images.images)


class Recogniser:
    """Recognises one target. ``thresholds``: the share that a recognised sample exceeds, by
    comparison. ``usable``: whether there is anything to recognise: the target is not flat.
    """

    def __init__(self, target: Tensor, real_images: Tensor) -> None:
        """target: (c, h, w), float in [0, 1]; real_images: clean (n >= 2, c, h', w'), uint8, best
        from :func:`shrink`.

        The first half of ``real_images`` gives the covariance, the second sets the thresholds.
        Raises ``ValueError`` for fewer than two of them, or if their shape when shrunk is not the
        target's.
        """
        if target.dim() != 3 or real_images.dim() != 4 or len(real_images) < 2:
            raise ValueError(
                f"target must be (c, h, w), got {tuple(target.shape)}; real_images (n >= 2, c, "
                f"h, w), got {tuple(real_images.shape)}"
            )
        goal, real = small(target[None], SIDE)[0], small(real_images, SIDE)
        if real.shape[1:] != goal.shape:
            raise ValueError(
                f"real_images must shrink to {tuple(goal.shape)} like the target, got "
                f"{tuple(real.shape[1:])}"
            )
        half = len(real) // 2
        self.usable = bool(contrast(goal[None]) >= FLAT)
        near = torch.stack(list(_near(goal)))
        self._near, self._soft = near, blurred(near)
        self._masks = _masks(goal.shape[1], goal.shape[2])
        self._factor = covariance_factor(
            blurred(torch.cat([real[:half], turned(real[:half:TURNED_EVERY])]))
        )
        changed = blurred(torch.stack(list(_changed(goal))))
        self._changed = normalised(whitened(torch.cat([self._soft, changed]), self._factor))
        self.thresholds = dict(FLOORS)
        soft = real[half:]
        for _ in range(SOFTENED):
            soft = blurred(soft)
        for images, tolerated in (
            (real[half:], TOLERATED_REAL_SHARE),
            (soft, TOLERATED_SOFT_SHARE),
        ):
            for name, shares in self.scores(images).items():
                # An order statistic: no more than the tolerated share of these images is above it.
                exceeded_by_few = float(np.quantile(shares, 1 - tolerated, method="higher"))
                self.thresholds[name] = max(self.thresholds[name], exceeded_by_few)

    def scores(self, images: Tensor) -> Scores:
        """images: (n > 0, c, h, w), uint8 or float in [0, 1]."""
        pieces = images.split(
            max(1, ELEMENTS_AT_ONCE // max(len(self._changed), images[0].numel()))
        )
        batches = [self._scores(small(piece, SIDE)) for piece in pieces]
        return {name: np.concatenate([scores[name] for scores in batches]) for name in FLOORS}

    def recognised(self, images: Tensor) -> npt.NDArray[np.bool_]:
        """Whether each of ``images`` (n > 0, c, h, w), uint8 or float in [0, 1], shows the target:
        (n,).
        """
        scores = self.scores(images)
        passed = np.stack([scores[name] > threshold for name, threshold in self.thresholds.items()])
        return np.asarray(passed.any(axis=0))

    def _scores(self, piece: Tensor) -> Scores:
        visible, soft = (contrast(piece) >= FLAT) & self.usable, blurred(piece)
        cosines = normalised(whitened(soft, self._factor)) @ self._changed.T
        shares = {
            "pixels": _explained(soft, self._soft),
            "whitened": cosines.square().amax(1),
            "parts": torch.stack(
                [_explained_in(mask, piece, self._near) for mask in self._masks]
            ).amax(0),
        }
        return {name: (share * visible).numpy() for name, share in shares.items()}


def _explained(samples: Tensor, targets: Tensor) -> Tensor:
    """The largest share of a target's variance that each sample explains: (n, c, h, w) and (k, c,
    h, w) -> (n,).

    An orthonormal basis of a sample's channels explains the sum of its squared products with the
    target. A direction in which the sample is flat is omitted: it would be amplified noise.
    """
    mine, theirs = centred(samples).flatten(2), centred(targets).flatten(2)
    power, directions = torch.linalg.eigh(mine @ mine.transpose(1, 2))
    varying = power >= FLAT**2 * mine.shape[2]
    scale = torch.where(varying, power.clamp(min=TINY).rsqrt(), 0)
    basis = (directions * scale[:, None, :]).transpose(1, 2) @ mine
    explained = torch.zeros(len(mine), len(theirs), dtype=mine.dtype)
    for one, other in itertools.product(range(mine.shape[1]), repeat=2):
        explained += (basis[:, one] @ theirs[:, other].T).square()
    return (explained / theirs.square().sum((1, 2)).clamp(min=TINY)).amax(1).clamp(max=1)


def _explained_in(mask: Tensor, samples: Tensor, targets: Tensor) -> Tensor:
    """Like :func:`_explained`, but from the pixels in ``mask`` (h, w) only, channel by channel, as
    a share of the variance of the whole target.
    """
    inside = [images[:, :, mask] for images in (samples, targets)]
    mine, theirs = (rows - rows.mean(2, keepdim=True) for rows in inside)
    norm = mine.norm(dim=2, keepdim=True)
    basis = torch.where(norm >= FLAT * mine.shape[2] ** 0.5, mine / norm.clamp(min=TINY), 0)
    explained = torch.zeros(len(mine), len(theirs), dtype=mine.dtype)
    for channel in range(mine.shape[1]):
        explained += (basis[:, channel] @ theirs[:, channel].T).square()
    return (explained / centred(targets).square().sum((1, 2, 3)).clamp(min=TINY)).amax(1)


def _masks(height: int, width: int) -> list[Tensor]:
    """Halves, chessboards and stripes, each with its complement: (h, w) bool."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    parts = [row < height // 2, column < width // 2]
    parts += [(row // size + column // size) % 2 == 0 for size in (2, 4, 8)]
    parts += [line // size % 2 == 0 for size in (2, 4) for line in (row, column)]
    return [mask for part in parts for mask in (part, ~part) if mask.any()]


def _near(goal: Tensor) -> Iterator[Tensor]:
    """The target shifted, edge repeated and wrapped."""
    offsets = range(-SHIFT, SHIFT + 1)
    for down, right in itertools.product(offsets, offsets):
        yield shifted(goal, down, right)
        if down or right:
            yield goal.roll((down, right), (1, 2))


def _changed(goal: Tensor) -> Iterator[Tensor]:
    """The changed targets, beyond :func:`_near`, that only the whitened comparison uses."""
    wide, offsets = range(-WRAPPED_SHIFT, WRAPPED_SHIFT + 1), range(-SHIFT, SHIFT + 1)
    for down, right in itertools.product(wide, wide):
        if max(abs(down), abs(right)) > SHIFT:
            yield goal.roll((down, right), (1, 2))
    others = list(itertools.permutations(range(goal.shape[0])))[1:]
    posed = (
        [goal]
        + [affine(goal, angle, 1) for angle in ANGLES]
        + [affine(goal, 0, scale) for scale in SCALES]
    )
    varied = [goal[list(order)] for order in others] + [
        turn for pose in posed for turn in mirrored(pose)
    ]
    for image, down, right in itertools.product(varied, offsets, offsets):
        yield shifted(image, down, right)
