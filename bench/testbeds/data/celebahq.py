"""CelebA-HQ from disk, 256 x 256. The last tenth by file name is held out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from bench.constraints import Note
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
    image_files,
    memory_mapped,
    parquet_files,
    parquet_labels,
    read_parquet,
    unread_note,
)
from bench.testbeds.parts.part import GUIDE, Composition, Data, outline

SIZE = 256
HELD_OUT = 0.1
#: How the pixels come about; part of the key of the decoded copy.
REDUCTION = "upright, on white, area or bicubic, 2"
ADVICE = (
    f"put CelebA-HQ's 30,000 images (PNG or JPEG, 256 x 256 or larger) or its parquet "
    f"export there, or set data ({GUIDE})"
)


@dataclass(frozen=True, kw_only=True)
class CelebAHQ(Data):
    """``data``: folder of the data set. ``image_count``: how many images there must be.
    ``decoded``: folder for the 256 x 256 copy of the data set, one byte a value (5.9 GB for 30,000
    images); ``None`` puts it beside ``data``.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"data", "decoded"})

    data: str = "data/celebahq"
    decoded: str | None = None
    image_count: Annotated[int, Ge(10), Note("to hold a tenth out")] = 30_000

    @property
    def size(self) -> int:
        return SIZE

    @property
    def rows(self) -> int:
        return self.train_count

    def fingerprint(self) -> str:
        return files_fingerprint(expanded(self.data), self.files())

    def missing(self) -> list[str]:
        return faults_of([self.files])

    @property
    def train_count(self) -> int:
        """How many images are trained on; the rest is held out."""
        return self.image_count - int(self.image_count * HELD_OUT)

    def files(self) -> list[Path]:
        root = expanded(self.data)
        files = parquet_files(root) or image_files(root)
        if not files:
            raise UserError(f"{self.name}: no CelebA-HQ in {str(root)!r}; {ADVICE}")
        if files[0].suffix != ".parquet" and len(files) != self.image_count:
            raise UserError(
                f"{self.name}: image_count must be the number of images in {root}: "
                f"{len(files)}, got {self.image_count}"
                f"{unread_note(root)}"
            )
        return files

    def _decoded(self, files: list[Path]) -> tuple[Path, str, tuple[int, int, int, int]]:
        """Where the decoded copy is kept, what it is made from, and its shape, as
        :func:`memory_mapped` takes them.
        """
        root = Path(os.path.abspath(expanded(self.data)))
        folder = root.parent if self.decoded is None else expanded(self.decoded)
        key = f"{REDUCTION}: {files_fingerprint(expanded(self.data), files)}"
        return folder / f"{root.name}.{SIZE}.npy", key, (self.image_count, 3, SIZE, SIZE)

    def _encoded(self, files: list[Path]) -> Iterable[Encoded]:
        return (
            read_parquet(files)
            if files[0].suffix == ".parquet"
            else (Encoded(str(path), path) for path in files)
        )

    def also_reads(self) -> tuple[str, ...]:
        return (str(decoded_file(*self._decoded(self.files()))),)

    def faults(self, testbed: Composition) -> list[str]:
        return faults_of([self._look_at_data])

    def _look_at_data(self) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the data."""
        files = self.files()
        lines: list[str] = []
        if files[0].suffix == ".parquet" and (rows := parquet_labels(files)[0]) != self.image_count:
            lines.append(
                f"{self.name}: image_count must be the number of rows in {self.data}: {rows}, "
                f"got {self.image_count}"
            )
        writing = decoding_faults(*self._decoded(files))
        if writing is not None:  # Else all images have been decoded before.
            lines += [f"{self.name}: {line}" for line in writing]
            lines += damaged_images(self._encoded(files), SIZE, shrink=True)
        if lines:
            raise UserError("\n".join(lines))

    def outline(self) -> TrainingSet:
        return outline(self.train_count, SIZE, None)

    def _images(self) -> np.ndarray:
        """All images by file name (parquet: by file, then row), uint8 (n, 3, 256, 256), on disk."""
        files = self.files()

        def batches() -> Iterator[np.ndarray]:
            return decode_all(
                self._encoded(files),
                SIZE,
                shrink=True,
                what=f"{self.name}, of {self.image_count}",
            )

        return memory_mapped(*self._decoded(files), batches)

    def train_images(self) -> Tensor:
        return torch.from_numpy(self._images()[: self.train_count])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(self._images()[self.train_count :])
