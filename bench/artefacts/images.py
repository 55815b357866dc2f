"""How images and remarks lie in a stage's folder: what one stage writes and another reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.errors import ContractError
from bench.record import Flag
from bench.words import REMARK

REMARKS = "remarks.json"
#: A flag is read in a table: longer or more of them would hide the rest.
LONGEST_REMARK, MOST_REMARKS = 200, 5


def save_images(folder: Path, images: Tensor, name: str = "images") -> None:
    """Writes uint8 (n, c, h, w) as ``<name>.npz``."""
    np.savez_compressed(folder / f"{name}.npz", images=images.numpy())


def load_images(folder: Path, name: str = "images") -> Tensor:
    """Reads what :func:`save_images` wrote."""
    with np.load(folder / f"{name}.npz") as arrays:
        images: Tensor = torch.from_numpy(arrays["images"])
        return images


def ignore_remark(text: str) -> None:
    """Drops a remark: those on the few rows that are scored again."""


class Remarks:
    """What a plugin has to say about its own result, as ``access.remark`` and ``evidence.remark``;
    once each.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        if (
            not isinstance(text, str)
            or not text.isascii()
            or not text.isprintable()
            or not 0 < len(text) <= LONGEST_REMARK
        ):
            raise ContractError(
                (
                    f"a remark must be one line of 1 to {LONGEST_REMARK} ASCII characters, got "
                    f"{text!r}"
                )[:300]
            )
        if text not in self.lines:
            self.lines.append(text)
        if len(self.lines) > MOST_REMARKS:
            raise ContractError(f"a plugin may make {MOST_REMARKS} remarks on one result, got more")

    def flags(self) -> list[Flag]:
        """As a record carries them."""
        return [Flag(REMARK, "", line) for line in self.lines]

    def save(self, folder: Path) -> None:
        """Beside what the stage made."""
        (folder / REMARKS).write_text(json.dumps(self.lines))


def read_remarks(folder: Path) -> list[str]:
    """The lines that :class:`Remarks` wrote; none where a stage was made before there were any."""
    path = folder / REMARKS
    return [str(line) for line in json.loads(path.read_text())] if path.is_file() else []
