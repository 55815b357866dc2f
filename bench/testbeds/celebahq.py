"""``celebahq-ddpm``: BadDiffusion's second testbed, at paper scale (Chou et al. 2023, arXiv 2212.05400). Needs a GPU.

Deviation: the paper trains on all 30,000 images; here the last tenth by file name is held out. The published weights may have
seen those; the attack's training has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds._images import (
    Encoded,
    decode_all,
    files_fingerprint,
    image_files,
    memory_mapped,
    parquet_files,
    read_parquet,
)
from bench.testbeds._paper import GUIDE, PaperTestbed

SIZE = 256
HELD_OUT = 0.1
HUB_ID = "google/ddpm-ema-celebahq-256"
#: ``main`` of the repository since November 2022. It holds the weights as a pickle only.
REVISION = "4cb6117472e6e4f45c5afe606b101858c27c3802"
#: How the pixels come about; part of the key of the decoded copy.
REDUCTION = "area or bicubic, 1"
ADVICE = f"put CelebA-HQ's 30,000 images (PNG or JPEG, 256 x 256 or larger) or its parquet export there, or set data ({GUIDE})"


@dataclass(frozen=True, kw_only=True)
class CelebAHQDDPM(PaperTestbed):
    """``image_count``: how many images there must be. ``decoded``: folder for the 256 x 256 copy of the data set, one byte a
    value (5.9 GB for 30,000 images); ``None`` puts it beside ``data``.
    """

    name: ClassVar[str] = "celebahq-ddpm"
    summary: ClassVar[str] = "google/ddpm-ema-celebahq-256 on CelebA-HQ, 256 x 256, at paper scale; needs downloads and a GPU"
    image_size: ClassVar[int] = SIZE
    weights_advice: ClassVar[str] = (
        f"{HUB_ID} is published as a pickle, which is never loaded: turn it into safetensors once, as {GUIDE} says, and set "
        "weights to the folder"
    )
    locations: ClassVar[frozenset[str]] = PaperTestbed.locations | {"decoded"}

    data: str = "data/celebahq"
    weights: str = "weights/ddpm-ema-celebahq-256"
    decoded: str | None = None
    finetune_epochs: int = 100
    scratch_epochs: int = 100
    image_count: int = 30_000
    #: The number in the authors' code; the paper's 2,048 images of 1000 steps an epoch is 16 times that.

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.image_count >= 10, "image_count", "at least 10, to hold a tenth out")

    @property
    def train_count(self) -> int:
        """How many images are trained on; the rest is held out."""
        return self.image_count - int(self.image_count * HELD_OUT)

    def data_files(self) -> list[Path]:
        root = Path(self.data).expanduser()
        files = parquet_files(root) or image_files(root)
        if not files:
            raise UserError(f"celebahq-ddpm: no CelebA-HQ in {str(root)!r}; {ADVICE}")
        if files[0].suffix != ".parquet" and len(files) != self.image_count:
            raise UserError(
                f"celebahq-ddpm: image_count must be the number of images in {root}: {len(files)}, got {self.image_count}"
            )
        return files

    def _images(self) -> np.ndarray:
        """All images by file name (parquet: by file, then row), uint8 (n, 3, 256, 256), on disk."""
        root, files = Path(self.data).expanduser(), self.data_files()
        folder = root.resolve().parent if self.decoded is None else Path(self.decoded).expanduser()

        def batches() -> Iterator[np.ndarray]:
            encoded: Iterable[Encoded] = (Encoded(str(path), path) for path in files)
            if files[0].suffix == ".parquet":
                encoded = read_parquet(files)
            return decode_all(encoded, SIZE, shrink=True, what=f"celebahq-ddpm, of {self.image_count}")

        key = f"{REDUCTION}: {files_fingerprint(root, files)}"
        return memory_mapped(folder / f"{root.resolve().name}.{SIZE}.npy", key, (self.image_count, 3, SIZE, SIZE), batches)

    def train_images(self) -> Tensor:
        return torch.from_numpy(self._images()[: self.train_count])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(self._images()[self.train_count :])

    def training_settings(self, scheme: str) -> TrainingSettings:
        """BadDiffusion's to fine-tune. From scratch the paper trains on CIFAR-10 alone; 2e-5 is the authors' code's."""
        scratch = scheme == "scratch"
        return TrainingSettings(
            steps=self._steps(self.train_count, 64, self.scratch_epochs if scratch else self.finetune_epochs),
            batch_size=64,
            learning_rate=2e-5 if scratch else 8e-5,
            warmup_steps=500,
            schedule="cosine",
            optimizer="adam",
            gradient_clip=1.0,
            precision="float16",
            horizontal_flip=True,
        )
