"""How images lie in a stage's folder: what one stage writes and another reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def save_images(folder: Path, images: Tensor, name: str = "images") -> None:
    """Writes uint8 (n, c, h, w) as ``<name>.npz``."""
    np.savez_compressed(folder / f"{name}.npz", images=images.numpy())


def load_images(folder: Path, name: str = "images") -> Tensor:
    """Reads what :func:`save_images` wrote."""
    with np.load(folder / f"{name}.npz") as arrays:
        images: Tensor = torch.from_numpy(arrays["images"])
        return images
