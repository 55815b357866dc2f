"""What the generator is handed, as files: the same for every model and defense it is put to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.data import Query

FILE = "queries.npz"


def save_query(query: Query, folder: Path) -> None:
    """Writes all but the images that an adversary may draw on."""
    arrays: dict[str, Any] = {}
    for name, value in vars(query).items():
        if name == "images" or value is None:
            continue
        arrays[name] = value.numpy() if isinstance(value, Tensor) else np.array(value, np.str_)
    np.savez(folder / FILE, **arrays)


def load_query(folder: Path) -> Query:
    """What :func:`save_query` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        fields: dict[str, Any] = {
            name: tuple(str(text) for text in arrays[name])
            if name == "prompts"
            else torch.from_numpy(arrays[name])
            for name in arrays.files
        }
    return Query(**fields)
