"""What an attack learnt beside the network in training, as a file beside the network's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

FILE = "learnt.safetensors"


def save_learnt(tensors: Mapping[str, Tensor], out: Path) -> None:
    """Writes float32 tensors by name."""
    save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, out / FILE)


def load_learnt(folder: Path) -> dict[str, Tensor]:
    """What :func:`save_learnt` wrote."""
    return load_file(folder / FILE)
