"""What is doubtful about a stage's result, kept beside it for the record of every cell that rests
on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bench.artefacts.roles import UNDEFENDED
from bench.record import Flag

FILE = "doubts.json"


def save(out: Path, doubts: list[Flag]) -> None:
    """Writes what is doubtful about a stage's result into its folder, for the record of every cell
    that rests on it.
    """
    if doubts:
        (out / FILE).write_text(json.dumps([asdict(one) for one in dict.fromkeys(doubts)]))


def load(folder: Path) -> list[Flag]:
    """What :func:`save` wrote; empty if there was nothing."""
    file = folder / FILE
    return [Flag(**doubt) for doubt in json.loads(file.read_text())] if file.is_file() else []


def of_inputs(inputs: Mapping[str, Path]) -> list[Flag]:
    """The doubts about all that a cell rests on; what it is only compared with does not count."""
    return [
        doubt
        for role, folder in inputs.items()
        if not role.startswith(UNDEFENDED)
        for doubt in load(folder)
    ]
