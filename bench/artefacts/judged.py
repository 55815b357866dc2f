"""What a defender's plugin judges, in sets of one subject each; all rows are judged together.

A plugin sees a pool: the rows of all sets in an order that follows from their content, so that it
cannot be known without knowing which set is which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FILE = "judged.npz"
POOL = "pool"
#: Begins the name of an array that says which rows of a larger set were taken.
ROWS = "rows:"
#: The sets of images that are nobody's (:mod:`bench.stages.judged_images`), by what a flag calls
#: them.
STRANGERS = ("altered", "patched", "blended")


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

    def pool(self) -> Judged:
        """All of them as one set, in :meth:`order`."""
        rows, order = self.all(), self.order()
        if isinstance(rows, Tensor):
            return Judged(sets={POOL: rows[torch.from_numpy(order)]}, rows={})
        return Judged(sets={POOL: tuple(rows[row] for row in order)}, rows={})

    def order(self) -> npt.NDArray[np.int64]:
        """Which row of :meth:`all` each row of the pool is, (n,)."""
        digest = hashlib.sha256()
        for name, values in self.sets.items():
            array = values.numpy() if isinstance(values, Tensor) else np.array(values)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        count = sum(len(values) for values in self.sets.values())
        stream = np.random.default_rng(int.from_bytes(digest.digest()[:16], "big"))
        return stream.permutation(count).astype(np.int64)

    def of_pool(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """What the rows of the pool got, by set."""
        ordered = np.empty_like(scores)
        ordered[self.order()] = scores
        ends = np.cumsum([len(values) for values in self.sets.values()])[:-1]
        return dict(zip(self.sets, np.split(ordered, ends), strict=True))


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
