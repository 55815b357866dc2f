"""Checkpoints of a training, from which an interrupted one continues to the same bits on the same
device.

One safetensors file holds everything: tensors, and the rest as JSON in its header. It is replaced
atomically, so a complete one always exists, and for a moment two are on the disk.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "training.safetensors"


@dataclass(kw_only=True)
class Checkpoints:
    """``folder``: of the file, made when needed; ``every``: steps between two checkpoints.

    ``earlier_seconds``: the time spent on the steps that were resumed from.
    """

    folder: Path
    every: int
    earlier_seconds: float = 0.0
    started: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")

    def save(self, identity: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replaces the file. ``identity``: identifies the training; ``state``: JSON values."""
        self.folder.mkdir(parents=True, exist_ok=True)
        seconds = self.earlier_seconds + monotonic() - self.started
        header = {"identity": identity, "state": json.dumps(state), "seconds": json.dumps(seconds)}
        unfinished = self.folder / f"{FILE}.unfinished"
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            unfinished,
            header,
        )
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, self.folder / FILE)

    def load(self, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and state of the last :meth:`save`, or ``None`` if there is no readable file
        or it belongs to another training.
        """
        try:
            with safe_open(self.folder / FILE, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != identity:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            state: dict[str, Any] = json.loads(header["state"])
            self.earlier_seconds = float(json.loads(header["seconds"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state for every parameter, by ``optimizer.<number>.<name>``."""
    remembered = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": value
        for number, values in remembered.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`, in the parameters' own memory layout, in which
    their updates are fastest.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == "optimizer":
            number, _, name = rest.partition(".")
            parameter = parameters[int(number)].detach()
            like = value.shape == parameter.shape
            state.setdefault(int(number), {})[name] = (
                torch.empty_like(parameter).copy_(value) if like else value
            )
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
