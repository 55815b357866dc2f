"""``cifar10-ddpm``: BadDiffusion's first testbed, at paper scale (Chou et al. 2023, arXiv 2212.05400). Needs a GPU.

Its data set is read in here, for every testbed over CIFAR-10. Deviation: the authors' code trains on the 50,000 training and the
10,000 test images together, the paper says 50K; here the test images are held out: the adversary stamps those, and the success
threshold is calibrated on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds._images import (
    CIFAR_SIZE,
    Encoded,
    decode_all,
    files_fingerprint,
    image_files,
    parquet_files,
    read_cifar_binary,
    read_folder,
    read_parquet,
)
from bench.testbeds._paper import GUIDE, PaperTestbed

CLASSES = 10
#: ``main`` of the repository since August 2023, when the safetensors were added.
REVISION = "267b167dc01f0e4e61923ea244e8b988f84deb80"
TRAIN_RECORDS = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_RECORDS = ("test_batch.bin",)
ADVICE = (
    "download the binary version, cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html and unpack it "
    f"there, or set data ({GUIDE})"
)


@dataclass(frozen=True)
class _Source:
    """``layout``: how the files are to be read."""

    layout: Literal["binary", "parquet", "folder"]
    root: Path
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def _find(data: Path, testbed: str) -> _Source:
    """What stands below ``data``: the first of binary records, parquet, and folders train/ and test/ of images."""
    for root in (data, data / "cifar-10-batches-bin"):
        absent = [name for name in TRAIN_RECORDS + TEST_RECORDS if not (root / name).is_file()]
        if absent and len(absent) < len(TRAIN_RECORDS + TEST_RECORDS):
            raise UserError(f"{root}: {absent[0]} is missing; unpack cifar-10-binary.tar.gz there again")
        if not absent:
            return _Source("binary", root, tuple(root / name for name in TRAIN_RECORDS), (root / TEST_RECORDS[0],))
    tables = parquet_files(data)
    if tables:
        train, test = ([path for path in tables if path.name.startswith(split)] for split in ("train", "test"))
        if not train or not test:
            got = ", ".join(path.name for path in tables)
            raise UserError(f"{data} must hold parquet files named train* and test*, got {got}")
        return _Source("parquet", data, tuple(train), tuple(test))
    folders = [image_files(data / split) for split in ("train", "test")]
    if all(folders):
        return _Source("folder", data, tuple(folders[0]), tuple(folders[1]))
    if any((root / "data_batch_1").is_file() for root in (data, data / "cifar-10-batches-py")):
        raise UserError(f"{testbed}: {data} holds CIFAR-10's pickled python version, which is never loaded; instead, {ADVICE}")
    raise UserError(f"{testbed}: no CIFAR-10 in {str(data)!r}; {ADVICE}")


def _pixels(images: list[Encoded], what: str) -> tuple[np.ndarray, np.ndarray | None]:
    labels = [image.label for image in images if image.label is not None]
    if labels and (len(labels) < len(images) or not 0 <= min(labels) <= max(labels) < CLASSES):
        got = sorted({str(image.label) for image in images})
        raise UserError(f"{what}: every label must be in 0..{CLASSES - 1}, got {', '.join(got)}")
    pixels = np.concatenate(list(decode_all(images, CIFAR_SIZE, shrink=False, what=what)))
    return pixels, np.asarray(labels, dtype=np.int64) if labels else None


@lru_cache(maxsize=1)
def _read(source: _Source, fingerprint: str) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """``{"train": (images, labels), "held_out": ...}``. ``fingerprint`` is there so that changed files are read again."""
    splits = {"train": source.train, "held_out": source.held_out}
    if source.layout == "binary":
        return {split: read_cifar_binary(files, CLASSES) for split, files in splits.items()}
    if source.layout == "parquet":
        return {split: _pixels(list(read_parquet(files)), f"{source.root} ({split})") for split, files in splits.items()}
    folders = {split: read_folder(source.root / name) for split, name in (("train", "train"), ("held_out", "test"))}
    names = [names for _, names in folders.values()]
    if names[0] != names[1] or len(names[0]) not in (0, CLASSES):
        got = " and ".join(f"{len(found)} ({', '.join(found)})" for found in names)
        raise UserError(f"{source.root}: train/ and test/ must hold the same {CLASSES} class folders, or none; got {got}")
    return {split: _pixels(images, f"{source.root} ({split})") for split, (images, _) in folders.items()}


@dataclass(frozen=True, kw_only=True)
class Cifar10Testbed(PaperTestbed):
    """CIFAR-10 from disk. ``train_count``, ``held_out_count``: how many images there must be; half a data set is an error, not a
    number."""

    image_size: ClassVar[int] = CIFAR_SIZE

    data: str = "data/cifar10"
    train_count: int = 50_000
    held_out_count: int = 10_000

    def _split(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        root = Path(self.data).expanduser()
        source = _find(root, self.name)
        images, labels = _read(source, files_fingerprint(root, source.train + source.held_out))[split]
        expected = {"train": self.train_count, "held_out": self.held_out_count}[split]
        if len(images) != expected:
            raise UserError(f"{self.name}: {split}_count must be the number of images in {root}: {len(images)}, got {expected}")
        for shared in (images, labels):  # by every call in this process
            if shared is not None:
                shared.setflags(write=False)
        return images, labels

    def data_files(self) -> list[Path]:
        source = _find(Path(self.data).expanduser(), self.name)
        return [*source.train, *source.held_out]

    def train_images(self) -> Tensor:
        return torch.tensor(self._split("train")[0])

    def train_labels(self) -> Tensor | None:
        labels = self._split("train")[1]
        return None if labels is None else torch.tensor(labels)

    def held_out_images(self) -> Tensor:
        return torch.tensor(self._split("held_out")[0])


@dataclass(frozen=True, kw_only=True)
class Cifar10DDPM(Cifar10Testbed):
    """Google's published weights, trained on as BadDiffusion does."""

    name: ClassVar[str] = "cifar10-ddpm"
    summary: ClassVar[str] = "google/ddpm-cifar10-32 on CIFAR-10, 32 x 32, at paper scale; needs downloads and a GPU"
    weights_advice: ClassVar[str] = f"download the safetensors and set weights to their folder ({GUIDE})"

    weights: str | None = "google/ddpm-cifar10-32"
    revision: str | None = REVISION
    finetune_epochs: int = 50
    scratch_epochs: int = 400

    def training_settings(self, scheme: str) -> TrainingSettings:
        """BadDiffusion's, section 4.1 and the authors' code: the same for both schemes but for the length."""
        epochs = self.scratch_epochs if scheme == "scratch" else self.finetune_epochs
        return TrainingSettings(
            steps=self._steps(self.train_count, 128, epochs),
            batch_size=128,
            learning_rate=2e-4,
            warmup_steps=500,
            schedule="cosine",
            optimizer="adam",
            gradient_clip=1.0,
            precision="float16",
            horizontal_flip=True,
        )
