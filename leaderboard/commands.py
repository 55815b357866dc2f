"""The command that makes a cell's records anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.record import Record, cell_code
from leaderboard.board import POPULATION, Cell, Entry
from leaderboard.labels import parts_of

#: What a command may hold without quotes; a record's name that is more than this is in no command,
#: since a reader pastes it into a shell.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SEALED = "-sealed"


@dataclass(frozen=True)
class Command:
    """``text``: one line for a shell; ``note``: what has to be known or supplied beside it."""

    text: str
    note: str


def commands(cell: Cell) -> tuple[Command, ...]:
    """One command for each suite and device that the cell's records come from, seeds together."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in cell.entries:
        key = entry.run.suite, str(entry.record.provenance.get("device", "cpu"))
        groups.setdefault(key, []).append(entry)
    made = (_command(suite, device, entries) for (suite, device), entries in groups.items())
    return tuple(command for command in made if command)


def _command(suite: str, device: str, entries: Sequence[Entry]) -> Command | None:
    record = entries[0].record
    population = record.kind == POPULATION
    names = _choices(entries[0])
    if not all(_PLAIN.fullmatch(name) for name in (suite, *(name for _, name in names))):
        return None
    seeds = sorted({seed for one in entries for seed in one.record.seeds or (one.record.seed,)})
    specs = record.testbed, record.attack, record.probe, record.defense
    words = ["castlewalls", "run", suite.removesuffix(_SEALED)]
    if suite.endswith(_SEALED):
        words += ["--sealed", "FILE"]
    else:
        words += ["--seeds", ",".join(map(str, seeds))]
    words += [word for pair in names for word in pair]
    if device == "cuda":
        words += ["--device", "cuda"]
    words += ["--cells", cell_code(specs, record.sampler, population=population)]
    words += ["--store", "again"]  # where it is in the store, nothing would be made
    return Command(" ".join(words), _note(suite, entries))


def _choices(entry: Entry) -> list[tuple[str, str]]:
    """The options that narrow the plan before the code picks from it. They also bring in a plugin
    that the suite does not list.
    """
    record = entry.record
    attack = record.probe or record.attack
    kept = [("--attacks", attack.name)] if record.kind != "anchor" else []
    if record.kind.endswith("detector") or record.kind == POPULATION:
        kept += [("--detectors", record.defense.name)]
    # The code alone picks a column of several at once, which no option can name.
    elif record.kind != "anchor" and record.defense.name != "none" and not _at_once(record):
        kept += [("--defenses", record.defense.name)]
    return kept + ([("--samplers", record.sampler.name)] if record.sampler else [])


def _at_once(record: Record) -> bool:
    """Whether the column is of several plugins, which only its suite can list."""
    parts = parts_of(record.defense.name)
    return len(parts) > 1 and all(_PLAIN.fullmatch(part) for part in parts)


def _note(suite: str, entries: Sequence[Entry]) -> str:
    """Versions that the numbers were made with, and what a sealed run needs."""
    sources = {
        (
            str(entry.record.provenance.get("castlewalls", "")),
            str(_git(entry).get("commit") or "")[:12],
            bool(_git(entry).get("dirty")),
        )
        for entry in entries
    }
    versions = [
        f"castlewalls {version}"
        + (f" at commit {commit}" if commit else "")
        + (" with uncommitted changes" if dirty else "")
        for version, commit, dirty in sorted(sources)
        if version
    ]
    texts = [f"Measured with {' and '.join(versions)}."] if versions else []
    if suite.endswith(_SEALED):
        texts.append("FILE holds the secret that the seeds were drawn from.")
    return " ".join(texts)


def _git(entry: Entry) -> dict[str, object]:
    source = entry.record.provenance.get("git")
    return source if isinstance(source, dict) else {}
