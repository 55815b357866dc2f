"""The graph a suite becomes: stages, which share what they can, and cells, which end in one. Knows no plugin and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bench.engine.closure import Closure
from bench.engine.fingerprint import digest
from bench.plugin_file import Source
from bench.record import PluginSpec, Record, Status
from bench.text import one_line, tail


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One memoised unit of work. ``params``: JSON values; ``inputs``: role -> key of the stage that makes it.

    ``key`` names the result: the same key is never computed twice. ``seconds``: what the testbed declares such a stage takes;
    ``plugins``: third parties' that it runs, which is why it gets a worker of its own; their code is in the fingerprint.
    ``notes``: what goes into the provenance of what it makes, and decides no number. ``charged``: inputs whose cost, with that of
    all they needed, is charged to it. ``code``: what its fingerprint covers.
    """

    name: str
    params: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: float | None = None
    locations: frozenset[str] = frozenset()
    notes: dict[str, Any] = field(default_factory=dict)
    charged: frozenset[str] = frozenset()
    code: Closure = Closure()
    plugins: tuple[Source, ...] = ()

    @cached_property
    def key(self) -> str:
        """SHA-256 over name, params, input keys and fingerprint; a testbed's files may move (``locations``) without changing
        it."""
        testbed = without(self.params["testbed"], self.locations)
        return digest([self.name, self.params | {"testbed": testbed}, self.inputs, self.fingerprint])

    def describe(self) -> str:
        """A line for people: what is done to what."""
        parts = [spec["name"] for role in ("testbed", "attack", "probe", "defense") if (spec := self.params.get(role))]
        extra = [str(self.params[role]) for role in ("what",) if role in self.params]
        seed = [f"seed {self.params['seed']}"] if "seed" in self.params else []
        return " ".join([self.name, *extra, *dict.fromkeys(parts), *seed])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (testbed, attack, defense, seed). ``stage``: key of its ``measure`` stage, or ``None`` for a pair that makes no
    sense, ``reason`` saying why."""

    testbed: PluginSpec
    attack: PluginSpec
    defense: PluginSpec
    seed: int
    kind: str
    probe: PluginSpec | None = None
    protocol: str = ""
    stage: str | None = None
    reason: str = ""

    def without_result(self, status: Status, reason: str, trace: str = "", provenance: dict[str, Any] | None = None) -> Record:
        """The record of a cell that was skipped or failed."""
        return Record(
            testbed=self.testbed,
            attack=self.attack,
            defense=self.defense,
            seed=self.seed,
            status=status,
            kind=self.kind,
            probe=self.probe,
            protocol=self.protocol,
            reason=one_line(reason),
            trace=tail(trace),
            provenance=provenance or {},
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``cells`` in the order they are reported; ``stages`` by key, inputs before what needs them. ``filtered``: only a part of
    the suite."""

    suite: str
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]
    description: str = ""
    filtered: bool = False

    def limited(self, limit: int) -> Plan:
        """Only the first ``limit`` cells, and the stages they need."""
        cells = self.cells[:limit]
        needed = set(self.closure(cell.stage for cell in cells if cell.stage))
        stages = {key: stage for key, stage in self.stages.items() if key in needed}
        return replace(self, cells=cells, stages=stages, filtered=self.filtered or len(cells) < len(self.cells))

    def closure(self, keys: Iterable[str]) -> list[str]:
        """The keys and all they depend on, directly or not."""
        found: dict[str, None] = {}
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in found:
                found[key] = None
                waiting += self.stages[key].inputs.values()
        return list(found)


def without(testbed: Mapping[str, Any], locations: frozenset[str]) -> dict[str, Any]:
    """A testbed's name and parameters, less those that say where its files are: its fingerprint stands for what is in them."""
    params = {name: value for name, value in testbed["params"].items() if name not in locations}
    return {"name": testbed["name"], "params": params}
