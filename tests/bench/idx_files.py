"""Fashion-MNIST as it is published, with few images: four IDX files, packed or not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

CLASSES, SIDE = 10, 28


def idx(values: np.ndarray) -> bytes:
    """``values``, uint8, as the bytes of an IDX file."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def garments(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` images (n, 28, 28) uint8 of a bright shape on black, another for each class, and
    their labels, all classes in turn.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % CLASSES
    images = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 2 + label, 12 - label
        shape = image[top : SIDE - 2, left : SIDE - left]
        shape[:] = rng.integers(90, 250) + rng.integers(-60, 6, shape.shape)
    return images, labels


def save_fashion(folder: Path, train: int = 60, held_out: int = 40, packed: bool = True) -> Path:
    """Writes the four files into ``folder``, which it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (prefix, count) in enumerate((("train", train), ("t10k", held_out))):
        images, labels = garments(count, seed)
        for name, values in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            content, end = idx(values), ".gz" if packed else ""
            file = folder / f"{prefix}-{name}{end}"
            file.write_bytes(gzip.compress(content) if packed else content)
    return folder
