"""Fashion-MNIST from its four IDX files: 70,000 photographs of garments, grey, of ten classes.

Xiao et al. 2017, arXiv 1708.07747; MIT licence. An image is 28 x 28 of a garment, bright, on black;
here it lies in the middle of 32 x 32, with black around it, as is usual for MNIST too. The split is
the published one: 60,000 images are trained on, 10,000 are held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.contracts.data import TrainingSet
from bench.errors import UserError
from bench.testbeds.data.idx import PACKED, read_idx, rows_hash
from bench.testbeds.data.images import expanded, faults_of
from bench.testbeds.parts.part import Composition, Data

CHANNELS, SIZE = 1, 32
#: Height and width in the files.
STORED = 28
MARGIN = (SIZE - STORED) // 2
CLASS_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
#: What a split's files are called before ``-images-idx3-ubyte``.
SPLITS = {"train": "train", "held_out": "t10k"}
#: Where the files are looked for if no folder is named: in the folder in which castlewalls was
#: started, then where Debian's package has them.
PLACES = ("data/fashion-mnist", "data", "/usr/share/datasets/fashion-mnist")
#: Where torchvision keeps them below the folder it was given.
BELOW = ("", "FashionMNIST/raw")
ADVICE = (
    "install Debian's package dataset-fashion-mnist, or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist there, or set data to the folder that "
    "holds them, torchvision's too"
)


@dataclass(frozen=True)
class Source:
    """The files of the images and of the labels, by split."""

    images: dict[str, Path]
    labels: dict[str, Path]

    def files(self) -> list[tuple[Path, tuple[int, ...]]]:
        """All four, each with the shape of its rows."""
        return [
            one
            for split in SPLITS
            for one in ((self.images[split], (STORED, STORED)), (self.labels[split], ()))
        ]


def _in_folder(root: Path) -> Source | None:
    """The files in ``root``, packed or not; ``None`` without any. Raises ``UserError`` naming the
    first that is missing beside others.
    """
    names = [
        f"{prefix}-{what}"
        for prefix in SPLITS.values()
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    present = {
        name: path
        for name in names
        for path in (root / f"{name}{PACKED}", root / name)
        if path.exists()
    }
    if not present:
        return None
    if absent := [name for name in names if name not in present]:
        raise UserError(f"{root}: {absent[0]} is missing, packed ({PACKED}) or not; {ADVICE}")
    images, labels = (
        {split: present[name] for split, name in zip(SPLITS, names[first::2], strict=True)}
        for first in (0, 1)
    )
    return Source(images, labels)


def find(data: str | None, testbed: str) -> Source:
    """The files in the folder ``data``, or in the first of :data:`PLACES` that has any. Raises
    ``UserError`` saying how to get them.
    """
    places = PLACES if data is None else (data,)
    for folder in places:
        for below in BELOW:
            if source := _in_folder(expanded(folder) / below):
                return source
    raise UserError(f"{testbed}: no Fashion-MNIST in {', '.join(map(repr, places))}; {ADVICE}")


@lru_cache(maxsize=1)
def _read(
    images: tuple[Path, ...], labels: tuple[Path, ...], content: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images and the labels of each split. ``content``: of the files, so that changed ones are
    read again.
    """
    edges = ((0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))
    splits = []
    for of_images, of_labels in zip(images, labels, strict=True):
        pixels, numbers = read_idx(of_images, (STORED, STORED)), _numbers(of_labels)
        if len(pixels) != len(numbers):
            raise UserError(
                f"{of_labels} must hold a label for each of the {len(pixels):,} images in "
                f"{of_images.name}, got {len(numbers):,}"
            )
        padded = np.pad(pixels[:, None], edges)
        for shared in (padded, numbers):  # by every call in this process
            shared.setflags(write=False)
        splits.append((padded, numbers))
    return splits


def _numbers(file: Path) -> np.ndarray:
    """The labels in a file, int64 (n,)."""
    numbers = read_idx(file, ()).astype(np.int64)
    if int(numbers.max()) >= len(CLASS_NAMES):
        raise UserError(
            f"{file}: labels must be in 0..{len(CLASS_NAMES) - 1}, got {int(numbers.max())}"
        )
    return numbers


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Data):
    """``data``: folder of the four files; ``None``: the first of :data:`PLACES` that has them.
    ``train_count``, ``held_out_count``: how many images there must be; half a data set is an error,
    not a number.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"data"})

    data: str | None = None
    train_count: int = 60_000
    held_out_count: int = 10_000

    @property
    def size(self) -> int:
        return SIZE

    @property
    def rows(self) -> int:
        return self.train_count

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def _source(self) -> Source:
        return find(self.data, self.name)

    def fingerprint(self) -> str:
        """Of what is in the files: the same for packed ones."""
        return rows_hash(self._source().files())

    def also_reads(self) -> tuple[str, ...]:
        return () if self.data else (str(self._source().images["train"].parent),)

    def missing(self) -> list[str]:
        return faults_of([self._source])

    def faults(self, testbed: Composition) -> list[str]:
        checks = [partial(self._split, split) for split in SPLITS]
        # A file that is broken is broken for both.
        return self.missing() or list(dict.fromkeys(faults_of(checks)))

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        source = self._source()
        images, labels = tuple(source.images.values()), tuple(source.labels.values())
        splits = _read(images, labels, rows_hash(source.files()))
        rows = dict(zip(SPLITS, splits, strict=True))[split]
        self._count(split, len(rows[0]), source)
        return rows

    def _count(self, split: str, rows: int, source: Source) -> None:
        expected = {"train": self.train_count, "held_out": self.held_out_count}[split]
        if rows != expected:
            raise UserError(
                f"{self.name}: {split}_count must be the number of images in "
                f"{source.images[split]}: {rows}, got {expected}"
            )

    def outline(self) -> TrainingSet:
        source = self._source()
        labels = torch.tensor(_numbers(source.labels["train"]))
        self._count("train", len(labels), source)
        images = torch.empty((len(labels), CHANNELS, SIZE, SIZE), dtype=torch.uint8, device="meta")
        return TrainingSet(images, torch.zeros(len(labels), dtype=torch.bool), labels)

    def train_images(self) -> Tensor:
        return torch.tensor(self._split("train")[0])

    def train_labels(self) -> Tensor:
        return torch.tensor(self._split("train")[1])

    def held_out_images(self) -> Tensor:
        return torch.tensor(self._split("held_out")[0])

    def held_out_labels(self) -> Tensor:
        return torch.tensor(self._split("held_out")[1])
