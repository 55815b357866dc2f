"""The record of one cell: every number the board shows, and what is needed to believe it. Knows no torch.

A record is one JSON object. Absent is ``null``, never 0.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1
Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number. ``ci_low``/``ci_high``: 95 % interval within the seed (bootstrap), ``None`` if none was computed; ``n``:
    samples behind it.

    ``higher_is_better`` is from the **defender's** side; ``None`` for a number without a direction.
    """

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    unit: str = ""
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        for name in ("value", "ci_low", "ci_high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"a metric's {name} must be finite or None, got {number!r}")


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """``(name, params)`` rebuilds the plugin; ``label`` is what a reader sees."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One (testbed, attack, defense, seed).

    ``probe``: for the no-attack row, the attack whose invocation and target the clean generator was tried with; ``None``
    elsewhere. ``kind``: the defense's family, which decides the metrics (``control``, ``sampler``, ``model``, ``inversion``).
    ``series``: named sequences for plots, e.g. ``{"inversion_mse": [...], "epoch": [...]}``. ``cost``: ``seconds``,
    ``peak_memory_bytes``, ``generator_calls`` (images through the network), each of this cell alone, and ``attack_seconds``.
    ``pictures``: name -> path relative to the record's folder. ``reason``: why it failed or was skipped, one line. ``trace``:
    the traceback of a failure, for the plugin's author.
    """

    testbed: PluginSpec
    attack: PluginSpec
    defense: PluginSpec
    seed: int
    status: Status
    kind: str = ""
    probe: PluginSpec | None = None
    protocol: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    cost: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    trace: str = ""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Canonical: sorted keys, no NaN."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` on another schema."""
        data = json.loads(text)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"a record's schema must be {SCHEMA}, got {data.get('schema')!r}")
        for name in ("testbed", "attack", "defense"):
            data[name] = PluginSpec(**data[name])
        if data["probe"] is not None:
            data["probe"] = PluginSpec(**data["probe"])
        data["metrics"] = {name: Metric(**metric) for name, metric in data["metrics"].items()}
        data["flags"] = tuple(data["flags"])
        return cls(**data)


def read_records(folder: Path) -> list[tuple[Path, Record]]:
    """Every ``record.json`` below ``folder`` with its folder, in path order. The store writes them whole, so each one
    parses."""
    return [(path.parent, Record.from_json(path.read_text())) for path in sorted(folder.rglob("record.json"))]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The last run of a suite. ``started``, ``finished``: ISO 8601 in UTC; ``finished`` is ``None`` while it goes on or if it
    was ended.

    ``counts``: cells by status, ``pending`` among them. ``records``: the cells that have a result, in the suite's order, each
    with the folder its pictures are in (a failed or skipped cell has no pictures; its folder is the store).
    """

    suite: str
    description: str
    started: str
    finished: str | None
    counts: dict[str, int]
    records: list[tuple[Path, Record]]


def read_runs(store: Path) -> list[Run]:
    """Every suite that was run into ``store``, in the order of their names. A record that was removed from the store is left
    out."""
    runs = []
    for path in sorted((store / "runs").glob("[!.]*.json")):
        data = json.loads(path.read_text())
        records = []
        for cell in data["cells"]:
            file = store / cell["record"] if "record" in cell else None
            if file is not None and file.is_file():
                records.append((file.parent, Record.from_json(file.read_text())))
            elif "inline" in cell:
                records.append((store, Record.from_json(json.dumps(cell["inline"]))))
        runs.append(
            Run(
                suite=data["suite"],
                description=data["description"],
                started=data["started"],
                finished=data["finished"],
                counts=data["counts"],
                records=records,
            )
        )
    return runs
