"""The two forms of an image: uint8 0..255, as in data sets, and float32 in [-1, 1], the input of a
network.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1], any shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] (clamped) -> uint8 0..255, rounded: the same as saving an 8-bit PNG."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
