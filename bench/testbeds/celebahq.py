"""``celebahq-ddpm``: BadDiffusion's second testbed, at paper scale (Chou et al. 2023, arXiv
2212.05400). Needs a GPU.

Deviation: the paper trains on all 30,000 images; here the last tenth by file name is held out. The
published weights may have seen those; the attack's training has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.contracts.data import TrainingSet
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds._images import (
    Encoded,
    damaged_images,
    decode_all,
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
from bench.testbeds._paper import GUIDE, PaperTestbed
from bench.testbeds.base import outline

SIZE = 256
HELD_OUT = 0.1
HUB_ID = "google/ddpm-ema-celebahq-256"
#: ``main`` of the repository since November 2022. It holds the weights as a pickle only.
REVISION = "4cb6117472e6e4f45c5afe606b101858c27c3802"
#: How the pixels come about; part of the key of the decoded copy.
REDUCTION = "upright, on white, area or bicubic, 2"
ADVICE = (
    f"put CelebA-HQ's 30,000 images (PNG or JPEG, 256 x 256 or larger) or its parquet "
    f"export there, or set data ({GUIDE})"
)


@dataclass(frozen=True, kw_only=True)
class CelebAHQDDPM(PaperTestbed):
    """``image_count``: how many images there must be. ``decoded``: folder for the 256 x 256 copy of
    the data set, one byte a value (5.9 GB for 30,000 images); ``None`` puts it beside ``data``.
    """

    name: ClassVar[str] = "celebahq-ddpm"
    summary: ClassVar[str] = (
        "google/ddpm-ema-celebahq-256 on CelebA-HQ, 256 x 256, at paper scale; needs downloads "
        "and a GPU"
    )
    image_size: ClassVar[int] = SIZE
    batch: ClassVar[int] = 64
    weights_advice: ClassVar[str] = (
        f"{HUB_ID} is published as a pickle, which is never loaded: turn it into safetensors "
        f"once, as {GUIDE} says, and set "
        "weights to the folder"
    )
    locations: ClassVar[frozenset[str]] = PaperTestbed.locations | {"decoded"}

    data: str = "data/celebahq"
    weights: str = "weights/ddpm-ema-celebahq-256"
    decoded: str | None = None
    finetune_epochs: int = 100
    scratch_epochs: int = 100
    accumulation_steps: int = 4  # 16 images at once; all 64 do not fit into 80 GB
    image_count: int = 30_000
    #: The number in the authors' code; the paper's 2,048 images of 1000 steps an epoch is 16 times
    #: that.

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.image_count >= 10, "image_count", "at least 10, to hold a tenth out")

    @property
    def train_count(self) -> int:
        """How many images are trained on; the rest is held out."""
        return self.image_count - int(self.image_count * HELD_OUT)

    def data_files(self) -> list[Path]:
        root = expanded(self.data)
        files = parquet_files(root) or image_files(root)
        if not files:
            raise UserError(f"celebahq-ddpm: no CelebA-HQ in {str(root)!r}; {ADVICE}")
        if files[0].suffix != ".parquet" and len(files) != self.image_count:
            raise UserError(
                f"celebahq-ddpm: image_count must be the number of images in {root}: "
                f"{len(files)}, got {self.image_count}"
                f"{unread_note(root)}"
            )
        return files

    def _decoded(self, files: list[Path]) -> tuple[Path, str, tuple[int, int, int, int]]:
        """Where the decoded copy is kept, what it is made from, and its shape, as
        :func:`memory_mapped` takes them.
        """
        root = expanded(self.data)
        folder = root.resolve().parent if self.decoded is None else expanded(self.decoded)
        key = f"{REDUCTION}: {files_fingerprint(root, files)}"
        return folder / f"{root.resolve().name}.{SIZE}.npy", key, (self.image_count, 3, SIZE, SIZE)

    def _encoded(self, files: list[Path]) -> Iterable[Encoded]:
        return (
            read_parquet(files)
            if files[0].suffix == ".parquet"
            else (Encoded(str(path), path) for path in files)
        )

    def data_faults(self) -> list[str]:
        return faults_of([self._look_at_data])

    def _look_at_data(self) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the data."""
        files = self.data_files()
        lines: list[str] = []
        if files[0].suffix == ".parquet" and (rows := parquet_labels(files)[0]) != self.image_count:
            lines.append(
                f"celebahq-ddpm: image_count must be the number of rows in {self.data}: {rows}, "
                f"got {self.image_count}"
            )
        writing = decoding_faults(*self._decoded(files))
        if writing is not None:  # Else all images have been decoded before.
            lines += [f"celebahq-ddpm: {line}" for line in writing]
            lines += damaged_images(self._encoded(files), SIZE, shrink=True)
        if lines:
            raise UserError("\n".join(lines))

    def training_outline(self) -> TrainingSet:
        return outline(self.train_count, SIZE, None)

    def _images(self) -> np.ndarray:
        """All images by file name (parquet: by file, then row), uint8 (n, 3, 256, 256), on disk."""
        files = self.data_files()

        def batches() -> Iterator[np.ndarray]:
            return decode_all(
                self._encoded(files),
                SIZE,
                shrink=True,
                what=f"celebahq-ddpm, of {self.image_count}",
            )

        return memory_mapped(*self._decoded(files), batches)

    def train_images(self) -> Tensor:
        return torch.from_numpy(self._images()[: self.train_count])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(self._images()[self.train_count :])

    def training_settings(self, scheme: str) -> TrainingSettings:
        """BadDiffusion's to fine-tune. From scratch the paper trains on CIFAR-10 alone; 2e-5 is the
        authors' code's.
        """
        scratch = scheme == "scratch"
        return TrainingSettings(
            steps=self._steps(
                self.train_count,
                self.batch,
                self.scratch_epochs if scratch else self.finetune_epochs,
            ),
            batch_size=self.batch,
            accumulation_steps=self.accumulation_steps,
            gradient_checkpointing=self.gradient_checkpointing,
            learning_rate=2e-5 if scratch else 8e-5,
            warmup_steps=500,
            schedule="cosine",
            optimizer="adam",
            gradient_clip=1.0,
            precision="float16",
            horizontal_flip=True,
        )
