"""Sets of pictures that no testbed trains on: what an adversary may want drawn who aims beyond the
training data (TrojDiff's Out-D2D, Chen et al. 2023, arXiv 2303.05762, which takes MNIST's sevens).

``sevens``: the 179 handwritten sevens that ship with scikit-learn (Alpaydin and Kaynak 1998), white
on black with a margin. On a testbed of digits they are no other set. ``hats``: 128 pictures of our
hat, turned by up to 25 degrees, at 60 to 100 % of its size, moved by up to an eighth of the side,
and paler by up to a third; always the same ones.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.artwork import targets
from bench.artwork._drawing import check_image_shape, unknown_name

NAMES = ("hats", "sevens")
HATS, _SEED = 128, 7
_TURN, _SIZES, _MOVE, _STRENGTHS = math.radians(25), (0.6, 1.0), 1 / 8, (2 / 3, 1.0)


def pictures(name: str, image_shape: tuple[int, int, int]) -> Tensor:
    """The set: (n, c, h, w) float32 in [-1, 1] on the CPU.

    Raises ``ValueError`` for an unknown name, a side below 8 pixels, or other than 1 or 3 channels.
    """
    if name not in NAMES:
        raise unknown_name("set", name, NAMES)
    check_image_shape(image_shape)
    return _hats(image_shape) if name == "hats" else _sevens(image_shape)


def _sevens(shape: tuple[int, int, int]) -> Tensor:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images[digits.target == 7] / 16).float()[:, None]
    large = F.interpolate(
        F.pad(small, (1, 1, 1, 1)), size=shape[1:], mode="bicubic", align_corners=False
    )
    return (2 * large.clamp(0, 1) - 1).expand(-1, shape[0], -1, -1).contiguous()


def _hats(shape: tuple[int, int, int]) -> Tensor:
    rng = np.random.default_rng(_SEED)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, HATS)).float()

    angle, size = draw(-_TURN, _TURN), draw(*_SIZES)
    right, down, strength = draw(-_MOVE, _MOVE), draw(-_MOVE, _MOVE), draw(*_STRENGTHS)
    across, along = angle.cos() / size, angle.sin() / size
    # grid_sample counts in half sides.
    rows = [across, -along, 2 * right, along, across, 2 * down]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [HATS, *shape], align_corners=False)
    above = targets.target("hat", shape) - targets.BACKGROUND
    moved = F.grid_sample(above.expand(HATS, -1, -1, -1), grid, align_corners=False)
    return targets.BACKGROUND + strength.view(-1, 1, 1, 1) * moved
