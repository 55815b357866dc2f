"""What an inversion recovered, as files."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.artefacts.images import load_images, save_images
from bench.contracts.data import Recovered
from bench.diffusion.images import to_uint8, to_unit_range

FILE = "recovered.json"
ROLES = ("targets", "triggers")


def save_recovered(recovered: Recovered, folder: Path) -> None:
    """Writes the candidates as 8-bit images, what they are, and the notes."""
    for role in ROLES:
        if candidates := getattr(recovered, role):
            save_images(folder, to_uint8(torch.stack(list(candidates))), role)
    labels, notes = list(recovered.labels), dict(recovered.notes)
    (folder / FILE).write_text(json.dumps({"labels": labels, "notes": notes}))


def labels_of(folder: Path) -> list[str]:
    """What each entry is."""
    return [str(label) for label in json.loads((folder / FILE).read_text())["labels"]]


def load_recovered(folder: Path) -> Recovered:
    """What :func:`save_recovered` wrote, to the nearest of 256 grey levels."""
    written = json.loads((folder / FILE).read_text())
    candidates = {
        role: tuple(to_unit_range(load_images(folder, role)))
        for role in ROLES
        if (folder / f"{role}.npz").is_file()
    }
    return Recovered(labels=written["labels"], notes=written["notes"], **candidates)
