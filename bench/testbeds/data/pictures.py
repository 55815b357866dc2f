"""Photographs of any size and shape on disk, with a class each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, MultipleOf
from torch import Tensor

from bench.contracts.data import TrainingSet
from bench.errors import UserError
from bench.testbeds.data.images import (
    Encoded,
    damaged_images,
    decode_all,
    decoded_file,
    decoding_faults,
    expanded,
    faults_of,
    files_fingerprint,
    memory_mapped,
)
from bench.testbeds.parts.part import Composition, Data, outline

#: How the pixels come about; part of the key of the decoded copy.
RESIZING = "upright, on white, central square, area or bicubic, 2"


@dataclass(frozen=True)
class Rows:
    """A data set's files and their labels, those that are trained on first; the others are held
    out.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    train_count: int


def split_rows(files: list[Path], labels: list[int], held_out_share: float) -> Rows:
    """Holds out the last ``held_out_share`` of each class, in the order given; at least one row of
    a class that has two.
    """
    train: list[int] = []
    held_out: list[int] = []
    for label in sorted(set(labels)):
        rows = [row for row, own in enumerate(labels) if own == label]
        count = min(max(1, round(len(rows) * held_out_share)), len(rows) - 1)
        train += rows[: len(rows) - count]
        held_out += rows[len(rows) - count :]
    order = [*sorted(train), *sorted(held_out)]
    return Rows(tuple(files[row] for row in order), tuple(labels[row] for row in order), len(train))


@dataclass(frozen=True, kw_only=True)
class Pictures(Data):
    """``data``: folder of the data set. ``decoded``: folder for the copy of it at ``resolution``,
    one byte a value; ``None`` puts it beside ``data``.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"data", "decoded"})

    data: str
    decoded: str | None = None
    resolution: Annotated[int, Gt(0), MultipleOf(8)] = 512

    @property
    def size(self) -> int:
        return self.resolution

    @property
    def rows(self) -> int:
        return self._rows().train_count

    def fingerprint(self) -> str:
        return files_fingerprint(expanded(self.data), self.files())

    def missing(self) -> list[str]:
        return faults_of([self.files])

    def _rows(self) -> Rows:
        """The data set as it is on disk. Raises ``UserError`` saying what to download and where to
        put it.
        """
        raise NotImplementedError

    def files(self) -> list[Path]:
        return list(self._rows().files)

    def _decoded(self, rows: Rows) -> tuple[Path, str, tuple[int, int, int, int]]:
        """Where the decoded copy is kept, what it is made from, and its shape, as
        :func:`memory_mapped` takes them.
        """
        root, size = Path(os.path.abspath(expanded(self.data))), self.resolution
        folder = root.parent if self.decoded is None else expanded(self.decoded)
        key = f"{RESIZING}: {files_fingerprint(expanded(self.data), rows.files)}"
        return folder / f"{root.name}.{size}.npy", key, (len(rows.files), 3, size, size)

    def also_reads(self) -> tuple[str, ...]:
        return (str(decoded_file(*self._decoded(self._rows()))),)

    def faults(self, testbed: Composition) -> list[str]:
        return faults_of([self._look_at_data])

    def _look_at_data(self) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the data."""
        rows = self._rows()
        lines: list[str] = []
        try:
            writing = decoding_faults(*self._decoded(rows))
            if writing is None:  # All images have been decoded before.
                return
            lines += [f"{self.name}: {line}" for line in writing]
        except (
            UserError
        ) as error:  # A file that cannot be read; there may be more of them, and other faults.
            lines += str(error).splitlines()
        lines += damaged_images(
            (Encoded(str(path), path) for path in rows.files),
            self.resolution,
            shrink=True,
            crop=True,
        )
        if lines:
            raise UserError("\n".join(dict.fromkeys(lines)))

    def outline(self) -> TrainingSet:
        labels = self.train_labels()
        return outline(len(labels), self.resolution, labels)

    def _images(self) -> np.ndarray:
        """All images, those trained on first: uint8 (n, 3, resolution, resolution), on disk."""
        rows = self._rows()

        def batches() -> Iterator[np.ndarray]:
            encoded = (Encoded(str(path), path) for path in rows.files)
            return decode_all(
                encoded,
                self.resolution,
                shrink=True,
                crop=True,
                what=f"{self.name}, of {len(rows.files)}",
            )

        return memory_mapped(*self._decoded(rows), batches)

    def train_images(self) -> Tensor:
        return torch.from_numpy(self._images()[: self._rows().train_count])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(self._images()[self._rows().train_count :])

    def train_labels(self) -> Tensor:
        rows = self._rows()
        return torch.tensor(rows.labels[: rows.train_count])

    def held_out_labels(self) -> Tensor:
        rows = self._rows()
        return torch.tensor(rows.labels[rows.train_count :])
