"""How near pictures come to the nearest of a set: what tells a copy, touched up or not, from a
picture of the same kind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Larger images are compared as thumbnails of at most this side: less work, and noise that was
#: added to a copy averages out.
SIDE = 16
#: Rows of the set that are compared at once.
CHUNK = 4096


def nearest(images: Tensor, known: Tensor) -> Tensor:
    """Of each of ``images`` (n, c, h, w), the mean squared difference, in levels of 255, to the
    nearest of ``known`` (m, c, h, w), both uint8; (n,) float32.
    """
    rows = _thumbnails(images)
    lengths = rows.square().sum(1, keepdim=True)
    least = torch.full((len(rows), 1), torch.inf)
    for start in range(0, len(known), CHUNK):
        others = _thumbnails(known[start : start + CHUNK])
        squares = lengths + others.square().sum(1) - 2 * rows @ others.T
        least = torch.minimum(least, squares.min(1, keepdim=True).values)
    # Of equal images the difference of two large sums may fall below 0.
    return least[:, 0].clamp_min(0) / rows.shape[1]


def _thumbnails(images: Tensor) -> Tensor:
    factor = -(-max(images.shape[2:]) // SIDE)
    values = images.float()
    if factor > 1:
        values = F.avg_pool2d(values, factor, ceil_mode=True)
    return values.flatten(1)
