"""How near pictures come to the nearest of a set: what tells a copy, touched up or not, from a
picture of the same kind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

#: The side of the thumbnails that are compared, and of those that candidates are found with.
SIDE, COARSE = 16, 8
#: Candidates an image is compared with, and the pixels of a thumbnail's edge that a shift may move
#: out of the picture.
CANDIDATES, MARGIN = 16, 2
#: Turned by so many degrees, and larger by this factor.
TURNS, ZOOMS = (-10.0, 10.0), (0.8, 1.25)
#: Rows of the set that are compared at once.
CHUNK = 4096


def nearest(images: Tensor, known: Tensor) -> Tensor:
    """Of each of ``images`` (n, c, h, w), how far the nearest of ``known`` (m, c, h, w) is, both
    uint8: 1 less the largest correlation, either way, of two thumbnails' brightness, (n,) float32
    from 0 to 1, where 0 is a copy. It is one in other colours, brightness and contrast, mirrored,
    turned by right angles, or moved by an eighth of the side; also after a small turn or zoom. What
    is nearest is looked for among the :data:`CANDIDATES` that are so on coarser thumbnails. A
    picture of one brightness is like none.
    """
    changed, others = list(_ways(_thumbnails(images))), _thumbnails(known)
    ways = torch.stack([_coarse(way) for way in changed])
    likeness, row = _best(ways.flatten(0, 1), _coarse(others))
    likeness, row = likeness.view(len(ways), -1), row.view(len(ways), -1)
    chosen = likeness.topk(min(CANDIDATES, len(ways)), dim=0).indices
    mine = torch.stack([_inner(way) for way in changed])
    mine = mine.gather(0, chosen[..., None].expand(-1, -1, mine.shape[2]))
    others = others[row.gather(0, chosen).flatten()]
    best = torch.zeros(len(images))
    for down, right in itertools.product(range(2 * MARGIN + 1), repeat=2):
        theirs = _inner(others, down, right).view_as(mine)
        best = torch.maximum(best, (mine * theirs).sum(2).abs().amax(0))
    return (1 - best).clamp_min(0)


def _thumbnails(images: Tensor) -> Tensor:
    """(n, 1, :data:`SIDE`, :data:`SIDE`), slightly blurred, which noise and blur change little."""
    # Few at a time: photographs as floating-point numbers may fill the memory.
    parts = [F.adaptive_avg_pool2d(part.float().mean(1, True), SIDE) for part in images.split(64)]
    grey = torch.cat(parts)
    return F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _ways(thumbnails: Tensor) -> Iterator[Tensor]:
    """As they are and changed, each way for all of them."""
    for mirrored in (thumbnails, thumbnails.flip(3)):
        for quarters in range(4):
            yield mirrored.rot90(quarters, (2, 3))
        for down, right in itertools.product((-MARGIN, 0, MARGIN), repeat=2):
            if down or right:
                yield _moved(mirrored, down=down, right=right)
        for degrees in TURNS:
            yield _moved(mirrored, degrees=degrees)
        for zoom in ZOOMS:
            yield _moved(mirrored, zoom=zoom)


def _moved(
    pictures: Tensor, degrees: float = 0, zoom: float = 1, down: int = 0, right: int = 0
) -> Tensor:
    along = math.cos(math.radians(degrees)) / zoom
    across = math.sin(math.radians(degrees)) / zoom
    matrix = torch.tensor([[along, -across, 2 * right / SIDE], [across, along, 2 * down / SIDE]])
    grid = F.affine_grid(
        matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False
    )
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _best(rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the largest correlation with any of ``known``, and with which."""
    most, which = torch.full((len(rows),), -1.0), torch.zeros(len(rows), dtype=torch.int64)
    for start in range(0, len(known), CHUNK):
        values, indices = (rows @ known[start : start + CHUNK].T).abs().max(1)
        better = values > most
        most, which = torch.where(better, values, most), torch.where(better, indices + start, which)
    return most, which


def _coarse(thumbnails: Tensor) -> Tensor:
    return _unit(F.adaptive_avg_pool2d(thumbnails, COARSE))


def _inner(thumbnails: Tensor, down: int = MARGIN, right: int = MARGIN) -> Tensor:
    side = SIDE - 2 * MARGIN
    return _unit(thumbnails[..., down : down + side, right : right + side])


def _unit(pictures: Tensor) -> Tensor:
    """(n, d), of mean 0 and length 1, so that a product is a correlation; shorter if all of a row
    differs from its mean by less than a level.
    """
    rows = pictures.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / length.clamp_min(1)
