"""How scores and features lie in a stage's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCORES = "scores.npz"
FEATURES = "features.npz"


def save_scores(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays, (n,) each."""
    named: dict[str, Any] = dict(arrays)
    np.savez(folder / SCORES, **named)


def load_scores(folder: Path) -> dict[str, np.ndarray]:
    """Reads what :func:`save_scores` wrote."""
    with np.load(folder / SCORES) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save_features(folder: Path, features: Tensor) -> None:
    """Writes what an extractor saw, (n, d)."""
    np.savez(folder / FEATURES, features=features.cpu().numpy())


def load_features(folder: Path) -> Tensor:
    """Reads what :func:`save_features` wrote."""
    with np.load(folder / FEATURES) as arrays:
        return torch.from_numpy(arrays["features"])
