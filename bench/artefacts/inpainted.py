"""How what models are asked to restore lies in a stage's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = "corrupted.npz"
#: The call by which an adversary hands over an image: noise plus a real image that carries the
#: trigger. Without noise it is that image.
BY_IMAGE = "image"


def save_inputs(folder: Path, images: Tensor) -> None:
    """Writes float32 (n, c, h, w), around [-1, 1]."""
    np.savez(folder / FILE, images=images.numpy())


def load_inputs(folder: Path) -> Tensor:
    """What :func:`save_inputs` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        images: Tensor = torch.from_numpy(arrays["images"])
        return images
