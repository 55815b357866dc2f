"""What an attack aims at and which rows it poisons, as files: what measures reads them and builds
no plugin.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.goals import Call

AIM = "aim.json"
IMAGES = "aim.npz"
STAMPED = "stamped.npy"
ROWS = "rows.npz"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """``target``: the image the backdoor should produce, ``trigger``: what the adversary adds, both
    (c, h, w) in [-1, 1]; ``label``: the class aimed at; ``examples``: of the set of pictures aimed
    at, uint8 (n, c, h, w); ``stamped``: all held-out images with the
    trigger, uint8 (n, c, h, w). ``None``: the attack has none. ``calls``: the ways the
    adversary calls the backdoor, each of which is measured.
    """

    target: Tensor | None = None
    trigger: Tensor | None = None
    label: int | None = None
    examples: Tensor | None = None
    stamped: Tensor | None = None
    calls: tuple[Call, ...] = ()
    goal: str = ""


@dataclass(frozen=True, kw_only=True)
class PoisonedRows:
    """Of the set a generator was trained on: ``poisoned``, the rows the adversary touched, (n,)
    bool; ``labels`` after poisoning, (n,) int64, or ``None``.
    """

    poisoned: Tensor
    labels: Tensor | None = None


def save_aim(aim: Aim, folder: Path) -> None:
    """Writes ``aim``."""
    images = {"target": aim.target, "trigger": aim.trigger, "examples": aim.examples}
    arrays: dict[str, Any] = {
        name: image.numpy() for name, image in images.items() if image is not None
    }
    np.savez(folder / IMAGES, **arrays)
    if aim.stamped is not None:
        np.save(folder / STAMPED, aim.stamped.numpy())
    calls = [asdict(call) for call in aim.calls]
    (folder / AIM).write_text(json.dumps({"label": aim.label, "goal": aim.goal, "calls": calls}))


def save_rows(rows: PoisonedRows, folder: Path) -> None:
    """Writes ``rows``."""
    arrays: dict[str, Any] = {"poisoned": rows.poisoned.numpy()}
    if rows.labels is not None:
        arrays["labels"] = rows.labels.numpy()
    np.savez(folder / ROWS, **arrays)


def read_aim(folder: Path) -> Aim:
    """What :func:`save_aim` wrote. The stamped images, which can be gigabytes, are read from the
    file where they are looked at.
    """
    with np.load(folder / IMAGES) as arrays:
        images: dict[str, Any] = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    file = folder / STAMPED
    stamped = torch.from_numpy(np.load(file, mmap_mode="c")) if file.is_file() else None
    written: dict[str, Any] = json.loads((folder / AIM).read_text())
    calls = tuple(Call(**call) for call in written.pop("calls"))
    return Aim(**images, **written, stamped=stamped, calls=calls)


def read_rows(folder: Path) -> PoisonedRows:
    """What :func:`save_rows` wrote."""
    with np.load(folder / ROWS) as arrays:
        return PoisonedRows(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})
