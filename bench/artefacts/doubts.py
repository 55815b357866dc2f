"""What is doubtful about a stage's result, kept beside it for the record of every cell that rests
on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.artefacts.roles import UNDEFENDED

FILE = "doubts.json"


def save(out: Path, doubts: list[str]) -> None:
    """Writes what is doubtful about a stage's result into its folder, for the record of every cell
    that rests on it.
    """
    if doubts:
        (out / FILE).write_text(json.dumps(list(dict.fromkeys(doubts))))


def load(folder: Path) -> list[str]:
    """What :func:`save` wrote; empty if there was nothing."""
    file = folder / FILE
    return [str(doubt) for doubt in json.loads(file.read_text())] if file.is_file() else []


def of_inputs(inputs: Mapping[str, Path]) -> list[str]:
    """The doubts about all that a cell rests on; what it is only compared with does not count."""
    return [
        doubt
        for role, folder in inputs.items()
        if not role.startswith(UNDEFENDED)
        for doubt in load(folder)
    ]
