"""CIFAR-10 from disk: the binary version, a parquet export, or folders of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.contracts.data import TrainingSet
from bench.errors import UserError
from bench.testbeds.data.images import (
    CIFAR_SIZE,
    Encoded,
    cifar_labels,
    damaged_images,
    decode_all,
    expanded,
    faults_of,
    files_fingerprint,
    image_files,
    parquet_columns,
    parquet_files,
    parquet_labels,
    read_cifar_binary,
    read_folder,
    read_parquet,
    unread_note,
)
from bench.testbeds.parts.part import GUIDE, Composition, Data, fixed, outline

CLASSES = 10
CLASS_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
#: What else the classes' folders are called.
SYNONYMS = {
    "airplane": "plane aeroplane aircraft airliner jet",
    "automobile": "car auto",
    "bird": "",
    "cat": "kitten",
    "deer": "",
    "dog": "puppy",
    "frog": "toad",
    "horse": "",
    "ship": "boat vessel",
    "truck": "lorry",
}
_MOST_LISTED = 12
TRAIN_RECORDS = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_RECORDS = ("test_batch.bin",)
ADVICE = (
    "download the binary version, cifar-10-binary.tar.gz, from "
    "https://www.cs.toronto.edu/~kriz/cifar.html and unpack it "
    f"there, or set data ({GUIDE})"
)


@dataclass(frozen=True)
class Source:
    """``layout``: how the files are to be read."""

    layout: Literal["binary", "parquet", "folder"]
    root: Path
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def _find(data: Path, testbed: str) -> Source:
    """What stands below ``data``: the first of binary records, parquet, and folders train/ and
    test/ of images.
    """
    for root in (data, data / "cifar-10-batches-bin"):
        absent = [name for name in TRAIN_RECORDS + TEST_RECORDS if not (root / name).is_file()]
        if absent and len(absent) < len(TRAIN_RECORDS + TEST_RECORDS):
            raise UserError(
                f"{root}: {absent[0]} is missing; unpack cifar-10-binary.tar.gz there again"
            )
        if not absent:
            return Source(
                "binary",
                root,
                tuple(root / name for name in TRAIN_RECORDS),
                (root / TEST_RECORDS[0],),
            )
    tables = parquet_files(data)
    if tables:
        train, test = (
            [path for path in tables if path.name.startswith(split)] for split in ("train", "test")
        )
        if not train or not test:
            got = ", ".join(path.name for path in tables)
            raise UserError(f"{data} must hold parquet files named train* and test*, got {got}")
        return Source("parquet", data, tuple(train), tuple(test))
    folders = [image_files(data / split) for split in ("train", "test")]
    if all(folders):
        return Source("folder", data, tuple(folders[0]), tuple(folders[1]))
    if any(folders):
        empty = ("train", "test")[bool(folders[0])]
        raise UserError(
            f"{testbed}: {data} must hold images in train/ and in test/, got none in {empty}/"
        )
    if any((root / "data_batch_1").is_file() for root in (data, data / "cifar-10-batches-py")):
        raise UserError(
            f"{testbed}: {data} holds CIFAR-10's pickled python version, which is never loaded; "
            f"instead, {ADVICE}"
        )
    raise UserError(f"{testbed}: no CIFAR-10 in {str(data)!r}; {ADVICE}")


def class_numbers(folders: list[str], where: str) -> dict[str, int]:
    """The class of each folder: CIFAR-10's names or usual synonyms of them, in any order, or the
    numbers 0 to 9.

    Raises ``UserError`` for any other name, for two folders of one class and for classes without
    one: numbered by their order, other names would be other classes.
    """
    known = dict(zip(CLASS_NAMES, range(CLASSES), strict=True))
    known |= {word: known[name] for name, synonyms in SYNONYMS.items() for word in synonyms.split()}
    if all(folder.isascii() and folder.isdigit() for folder in folders):
        known = {folder: int(folder) for folder in folders if int(folder) < CLASSES}
    named = {
        folder: known.get(folder.lower(), known.get(folder.lower().removesuffix("s")))
        for folder in folders
    }
    accepted = f"CIFAR-10's ({', '.join(CLASS_NAMES)}) or 0 to {CLASSES - 1}"
    if strange := [folder for folder, number in named.items() if number is None]:
        raise UserError(
            f"{where}: class folders must be named as {accepted}, got "
            f"{', '.join(strange[:_MOST_LISTED])}"
        )
    owners: dict[int, str] = {}
    for folder, number in named.items():
        assert number is not None
        if number in owners:
            raise UserError(
                f"{where}: the folders {owners[number]} and {folder} are the same class, "
                f"{CLASS_NAMES[number]}"
            )
        owners[number] = folder
    if absent := [name for number, name in enumerate(CLASS_NAMES) if number not in owners]:
        raise UserError(
            f"{where}: every class must have a folder with images, none has {', '.join(absent)}"
        )
    return {folder: number for number, folder in owners.items()}


def _folder(source: Source, split: str) -> list[Encoded]:
    """The images of a split, labelled if both splits are folders of classes."""
    splits = {}
    for name in ("train", "test"):
        where = source.root / name
        splits[name] = read_folder(where, partial(class_numbers, where=str(where)))
    if bool(splits["train"][1]) != bool(splits["test"][1]):
        with_classes, without = ("train", "test") if splits["train"][1] else ("test", "train")
        raise UserError(
            f"{source.root}: train/ and test/ must both hold class folders, or none; got them in "
            f"{with_classes}/, not in {without}/"
        )
    return splits["test" if split == "held_out" else "train"][0]


def _checked(labels: list[Any], rows: int, what: str) -> np.ndarray | None:
    """The labels of ``rows`` rows (n,) int64, ``None`` if no row has one."""
    present = [label for label in labels if label is not None]
    if present and (len(present) < rows or not 0 <= min(present) <= max(present) < CLASSES):
        got = ", ".join(sorted({str(label) for label in labels})[:_MOST_LISTED])
        raise UserError(f"{what}: every label must be in 0..{CLASSES - 1}, got {got}")
    return np.asarray(present, dtype=np.int64) if present else None


def _encoded(source: Source, split: str) -> Iterable[Encoded]:
    files = source.held_out if split == "held_out" else source.train
    return read_parquet(files) if source.layout == "parquet" else _folder(source, split)


def _pixels(images: list[Encoded], what: str) -> tuple[np.ndarray, np.ndarray | None]:
    labels = _checked([image.label for image in images], len(images), what)
    return np.concatenate(list(decode_all(images, CIFAR_SIZE, shrink=False, what=what))), labels


@lru_cache(maxsize=1)
def _read(source: Source, fingerprint: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """``{"train": (images, labels), "held_out": ...}``. ``fingerprint`` is there so that changed
    files are read again.
    """
    splits = {"train": source.train, "held_out": source.held_out}
    if source.layout == "binary":
        return {split: read_cifar_binary(files, CLASSES) for split, files in splits.items()}
    return {
        split: _pixels(list(_encoded(source, split)), f"{source.root} ({split})")
        for split in splits
    }


def _rows(source: Source, split: str) -> tuple[int, np.ndarray | None]:
    """How many rows a split has, and their labels, without the images."""
    files, what = (
        (source.held_out if split == "held_out" else source.train),
        f"{source.root} ({split})",
    )
    if source.layout == "binary":
        labels = cifar_labels(files, CLASSES)
        return len(labels), labels
    if source.layout == "parquet":
        rows, raw_labels = parquet_labels(files)
    else:
        images = _folder(source, split)
        rows, raw_labels = len(images), [image.label for image in images]
    return rows, _checked(raw_labels, rows, what)


@dataclass(frozen=True, kw_only=True)
class Cifar10(Data):
    """``data``: folder of the data set. ``train_count``, ``held_out_count``: how many images there
    must be; half a data set is an error, not a number.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"data"})

    #: Whether every row must have its class.
    labelled: bool = fixed(False)
    data: str = "data/cifar10"
    train_count: int = 50_000
    held_out_count: int = 10_000

    @property
    def size(self) -> int:
        return CIFAR_SIZE

    @property
    def rows(self) -> int:
        return self.train_count

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def fingerprint(self) -> str:
        return files_fingerprint(expanded(self.data), self.files())

    def missing(self) -> list[str]:
        return faults_of([self.files])

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        root, source = expanded(self.data), self._source()
        images, labels = _read(source, files_fingerprint(root, source.train + source.held_out))[
            split
        ]
        self._count(split, len(images), root)
        for shared in (images, labels):  # by every call in this process
            if shared is not None:
                shared.setflags(write=False)
        return images, labels

    def _count(self, split: str, rows: int, root: Path) -> None:
        expected = {"train": self.train_count, "held_out": self.held_out_count}[split]
        if rows != expected:
            raise UserError(
                f"{self.name}: {split}_count must be the number of images in {root}: {rows}, got "
                f"{expected}{unread_note(root)}"
            )

    def _source(self) -> Source:
        return _find(expanded(self.data), self.name)

    def files(self) -> list[Path]:
        source = self._source()
        return [*source.train, *source.held_out]

    def faults(self, testbed: Composition) -> list[str]:
        lines = faults_of([self._source])
        if lines:
            return lines
        source = self._source()
        for split in ("train", "held_out"):
            lines += faults_of([partial(self._look_at, source, split)])
        # Folders of classes are compared with each other, so both splits may say the same.
        return list(dict.fromkeys(lines))

    def _look_at(self, source: Source, split: str) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with a split."""
        self._count(split, self._labelled(source, split)[0], expanded(self.data))
        if source.layout != "binary":
            damaged = damaged_images(_encoded(source, split), CIFAR_SIZE, shrink=False)
            if damaged:
                raise UserError("\n".join(damaged))

    def _labelled(self, source: Source, split: str) -> tuple[int, np.ndarray | None]:
        """:func:`_rows`; rows without a class are refused where they must have one."""
        rows, labels = _rows(source, split)
        columns = parquet_columns(source.train[0]) if source.layout == "parquet" else []
        return rows, self._checked_labels(
            labels, f"only the columns {', '.join(columns)}" if columns else "none"
        )

    def _checked_labels(self, labels: np.ndarray | None, got: str) -> np.ndarray | None:
        if labels is None and self.labelled:
            raise UserError(
                f"{self.name}: every image in {self.data} must have its class, got {got}; use "
                f"the binary version, a parquet export with "
                f"the column label, or one folder a class in train/ and test/ ({GUIDE})"
            )
        return labels

    def outline(self) -> TrainingSet:
        rows, labels = self._labelled(self._source(), "train")
        return outline(rows, CIFAR_SIZE, None if labels is None else torch.tensor(labels))

    def train_images(self) -> Tensor:
        return torch.tensor(self._split("train")[0])

    def train_labels(self) -> Tensor | None:
        return self._labels("train")

    def held_out_labels(self) -> Tensor | None:
        return self._labels("held_out")

    def _labels(self, split: str) -> Tensor | None:
        labels = self._checked_labels(self._split(split)[1], "none")
        return None if labels is None else torch.tensor(labels)

    def held_out_images(self) -> Tensor:
        return torch.tensor(self._split("held_out")[0])
