"""What a detector judges, in sets of one subject each: the rows of all sets are judged together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILE = "judged.npz"
#: Begins the name of an array that says which rows of a larger set were taken.
ROWS = "rows:"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """``sets``: name -> (n, ...) tensor, or n texts; ``rows``: name -> (n,) int64, which rows of a
    larger set they are, where they are of one.
    """

    sets: Mapping[str, Tensor | Sequence[str]]
    rows: Mapping[str, Tensor]

    def all(self) -> Tensor | tuple[str, ...]:
        """One after the other."""
        values = list(self.sets.values())
        if all(isinstance(value, Tensor) for value in values):
            return torch.cat([value for value in values if isinstance(value, Tensor)])
        return tuple(str(text) for value in values for text in value)

    def split(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """What :meth:`all` got, by set."""
        ends = np.cumsum([len(values) for values in self.sets.values()])[:-1]
        return dict(zip(self.sets, np.split(scores, ends), strict=True))


def save_judged(judged: Judged, folder: Path) -> None:
    """Writes ``judged``."""
    arrays: dict[str, Any] = {
        name: values.numpy() if isinstance(values, Tensor) else np.array(values, dtype=np.str_)
        for name, values in judged.sets.items()
    }
    arrays |= {f"{ROWS}{name}": rows.numpy() for name, rows in judged.rows.items()}
    np.savez(folder / FILE, **arrays)


def load_judged(folder: Path) -> Judged:
    """What :func:`save_judged` wrote."""
    sets: dict[str, Tensor | Sequence[str]] = {}
    rows: dict[str, Tensor] = {}
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        for name in arrays.files:
            values = arrays[name]
            if name.startswith(ROWS):
                rows[name.removeprefix(ROWS)] = torch.from_numpy(values)
            elif values.dtype.kind == "U":
                sets[name] = tuple(str(text) for text in values)
            else:
                sets[name] = torch.from_numpy(values)
    return Judged(sets=sets, rows=rows)
