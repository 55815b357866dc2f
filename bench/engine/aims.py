"""What an attack aims at, written down once by the stages that run it, so that what measures reads files and builds no plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import testbeds
from bench.engine import again, border
from bench.engine.building import plugin_of, poison_doubts, poisoned_set
from bench.engine.context import StageContext
from bench.plugin import Attack
from bench.testbeds.base import ConditionalTestbed

AIM = "aim.json"
IMAGES = "aim.npz"
STAMPED = "stamped.npy"
ROWS = "rows.npz"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """``target``: the image the backdoor should produce, ``trigger``: what the adversary adds, both (c, h, w) in [-1, 1];
    ``label``: the class aimed at; ``stamped``: all held-out images with the trigger, uint8 (n, c, h, w). ``None``: the attack has none.
    ``invocations``: the ways the adversary calls the backdoor, each of which is measured.
    """

    target: Tensor | None = None
    trigger: Tensor | None = None
    label: int | None = None
    stamped: Tensor | None = None
    invocations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PoisonedRows:
    """Of the set a generator was trained on: ``poisoned``, the rows the adversary touched, (n,) bool; ``labels`` after poisoning,
    (n,) int64, or ``None``."""

    poisoned: Tensor
    labels: Tensor | None = None


def aim(params: dict[str, Any], inputs: Mapping[str, Path], out: Path, context: StageContext) -> dict[str, float]:
    """Writes an attack's :class:`Aim` on a testbed; the same for all seeds."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    attack = plugin_of("attacks", params["attack"], Attack)
    held_out = testbed.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    images = {
        "target": border.picture(attack, "target_image", shape),
        "trigger": border.picture(attack, "trigger_image", shape),
    }
    arrays: dict[str, Any] = {name: image.numpy() for name, image in images.items() if image is not None}
    np.savez(out / IMAGES, **arrays)
    # Only who is asked for a class is measured on stamped images.
    stamped = border.stamped(attack, held_out) if testbed.kind != "unconditional" else None
    if stamped is not None:
        np.save(out / STAMPED, stamped.numpy())
    classes = len(testbed.class_names) if isinstance(testbed, ConditionalTestbed) else None
    said = {"label": border.target_label(attack, classes), "invocations": list(type(attack).invocations)}
    (out / AIM).write_text(json.dumps(said))
    return {}


def poisoned_rows(params: dict[str, Any], inputs: Mapping[str, Path], out: Path, context: StageContext) -> dict[str, float]:
    """Writes the :class:`PoisonedRows` of an attack and a seed: the truth that no defense is handed."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    suspected = poisoned_set(testbed, plugin_of("attacks", params["attack"], Attack), params["seed"])
    arrays: dict[str, Any] = {"poisoned": suspected.poisoned.numpy()}
    if suspected.labels is not None:
        arrays["labels"] = suspected.labels.numpy()
    np.savez(out / ROWS, **arrays)
    again.save(out, poison_doubts(testbed, suspected))
    return {}


def read_aim(folder: Path) -> Aim:
    """What :func:`aim` wrote."""
    with np.load(folder / IMAGES) as arrays:
        images = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    file = folder / STAMPED
    stamped = torch.from_numpy(np.load(file)) if file.is_file() else None
    said = json.loads((folder / AIM).read_text())
    return Aim(**images, stamped=stamped, label=said["label"], invocations=tuple(said["invocations"]))


def read_rows(folder: Path) -> PoisonedRows:
    """What :func:`poisoned_rows` wrote."""
    with np.load(folder / ROWS) as arrays:
        return PoisonedRows(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})
