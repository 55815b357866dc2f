"""The suspected training set as its owner sees it: nothing in it says which rows are poisoned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.contracts.data import TrainingSet

IMAGES, LABELS = "images.npy", "labels.npy"


def save_suspected(train_set: TrainingSet, folder: Path) -> None:
    """Writes images and labels, and leaves ``poisoned`` out."""
    np.save(folder / IMAGES, train_set.images.numpy(), allow_pickle=False)
    if train_set.labels is not None:
        np.save(folder / LABELS, train_set.labels.numpy(), allow_pickle=False)


def load_suspected(folder: Path) -> TrainingSet:
    """What :func:`save_suspected` wrote, in memory of its own; ``poisoned`` is all False."""
    images = torch.from_numpy(np.load(folder / IMAGES, allow_pickle=False))
    labels = folder / LABELS
    return TrainingSet(
        images,
        torch.zeros(len(images), dtype=torch.bool),
        torch.from_numpy(np.load(labels, allow_pickle=False)) if labels.is_file() else None,
    )
