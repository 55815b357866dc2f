"""Handwritten digits over photographs: real pixels that ship with scikit-learn, so nothing is
downloaded.

The MNIST-M recipe (Ganin et al. 2016, arXiv 1505.07818, section 5.2) with what scikit-learn
carries: its 1,797 8 x 8 digits, enlarged to 16 x 16, and its two photographs; a digit image is
``|crop - digit|`` in every colour channel. Several crops a digit. Plain black backgrounds would be
easier, but several detectors assume natural images and break on them.

The split is by digit, before cropping: two crops of one digit never stand on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contracts.data import TrainingSet
from bench.testbeds.parts.part import Data, outline

SIZE = 16
CROPS = 4
HELD_OUT = 0.2
CROP_SIDES = (32, 96)
DATA_SEED = 20_260_101
CLASS_NAMES = tuple("zero one two three four five six seven eight nine".split())
#: How many training rows each digit has, known without drawing them.
CLASS_ROWS = (568, 580, 568, 584, 580, 584, 580, 572, 556, 576)


def _enlarge(digit: np.ndarray) -> np.ndarray:
    """An 8 x 8 digit in 0..16 as 16 x 16 float32 in [0, 1], bicubic."""
    image = Image.fromarray((digit * (255 / 16)).round().astype(np.uint8))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _crop(photo: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A random square of the photograph, area-averaged to 16 x 16 x 3, float32 in [0, 1]."""
    side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1] + 1))
    left = int(rng.integers(0, photo.width - side + 1))
    top = int(rng.integers(0, photo.height - side + 1))
    square = photo.crop((left, top, left + side, top + side)).resize(
        (SIZE, SIZE), Image.Resampling.BOX
    )
    return np.asarray(square, dtype=np.float32) / 255


@lru_cache(maxsize=1)
def digits_over_photographs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """``{"train": (images, labels), "held_out": (images, labels)}``.

    images: (n, 3, 16, 16) uint8; labels: (n,) int64 in 0..9. The same on every call and every
    machine; read-only, for every call in a process shares them.
    """
    from sklearn.datasets import load_digits, load_sample_images
    from sklearn.model_selection import train_test_split

    digits, labels = load_digits(return_X_y=True)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    enlarged = np.stack([_enlarge(digit) for digit in digits.reshape(-1, 8, 8)])
    train, held_out = train_test_split(
        np.arange(len(digits)), test_size=HELD_OUT, stratify=labels, random_state=DATA_SEED % 2**32
    )
    rng = np.random.default_rng(DATA_SEED)
    splits = {}
    for name, chosen in (("train", train), ("held_out", held_out)):
        images, image_labels = [], []
        for index in chosen:
            for _ in range(CROPS):
                photograph = photographs[int(rng.integers(len(photographs)))]
                blended = np.abs(_crop(photograph, rng) - enlarged[index][..., None])
                images.append((blended * 255).round().astype(np.uint8).transpose(2, 0, 1))
                image_labels.append(labels[index])
        splits[name] = (np.stack(images), np.asarray(image_labels, dtype=np.int64))
        for array in splits[name]:
            array.setflags(write=False)
    return splits


@dataclass(frozen=True, kw_only=True)
class Digits(Data):
    """:func:`digits_over_photographs`; crops of one digit are a group."""

    @property
    def size(self) -> int:
        return SIZE

    @property
    def rows(self) -> int:
        return sum(CLASS_ROWS)

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def train_images(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["train"][0])

    def held_out_images(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["held_out"][0])

    def train_labels(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["train"][1])

    def held_out_labels(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["held_out"][1])

    def train_groups(self) -> Tensor:
        return torch.arange(len(self.train_images())) // CROPS

    def held_out_groups(self) -> Tensor:
        return torch.arange(len(self.held_out_images())) // CROPS

    def outline(self) -> TrainingSet:
        labels = torch.arange(len(CLASS_ROWS)).repeat_interleave(torch.tensor(CLASS_ROWS))
        return outline(self.rows, SIZE, labels)
