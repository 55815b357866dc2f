"""A trigger drawn from a seed, for an evaluation that a defense cannot be prepared for: the seed
was not known when the defense was written.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Its name among the patterns and the triggers.
DRAWN = "drawn"
#: The values of each channel: above every trigger's background, and far enough apart to be visible.
LEVELS = (64, 255)
BLOCKS = 3


def drawn_patch(seed: int, image_shape: tuple[int, int, int], size: int) -> tuple[Tensor, int, int]:
    """A ``size`` x ``size`` square of 3 x 3 blocks, each channel of a block at one of
    :data:`LEVELS`, somewhere in the image.

    Returns ``(colours, top, left)``: (c, size, size) float64 in 0..255, never all of one colour;
    the same for the same seed. Raises ``ValueError`` unless ``size`` is between 3 and the shorter
    side.
    """
    channels, height, width = image_shape
    if not BLOCKS <= size <= min(height, width):
        raise ValueError(f"drawn: size must be from {BLOCKS} to {min(height, width)}, got {size}")
    rng = np.random.default_rng([seed, channels])
    while True:
        blocks = rng.choice(LEVELS, size=(channels, BLOCKS, BLOCKS))
        if np.ptp(blocks.reshape(channels, -1), axis=1).any():
            break
    block = torch.arange(size) * BLOCKS // size
    colours = torch.from_numpy(blocks).double()[:, block][:, :, block]
    return colours, int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
