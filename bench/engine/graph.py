"""The graph a suite becomes: stages, which share what they can, and cells, which end in one. Knows
nothing of what they are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from bench.engine.closure import Closure
from bench.engine.fingerprint import digest
from bench.plugin_file import Source
from bench.record import Record, Status


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One memoised unit of work. ``params``: JSON values; ``inputs``: role -> key of the stage that
    makes it.

    ``key`` names the result: the same key is never computed twice. ``keyed``: the parameters as
    they enter the key, where they hold what decides nothing (where a file lies); ``None`` for all
    as they are. ``title``: a line for people; ``alike``: names of groups of stages that take about
    the same time, the narrowest first. ``seconds``: what such a stage is declared to take;
    ``plugins``: third parties' that it runs, which is why it gets a worker of its own; their code
    is in the fingerprint. ``notes``: what goes into the provenance of what it makes, and decides no
    number. ``charged``: inputs whose cost, with that of all they needed, is charged to it.
    ``code``: what its fingerprint covers.
    """

    name: str
    params: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    keyed: Mapping[str, Any] | None = None
    title: str = ""
    alike: tuple[str, ...] = ()
    seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    charged: frozenset[str] = frozenset()
    code: Closure = Closure()
    plugins: tuple[Source, ...] = ()

    @cached_property
    def key(self) -> str:
        """SHA-256 over name, parameters, input keys and fingerprint."""
        keyed = self.params if self.keyed is None else self.keyed
        return digest([self.name, dict(keyed), self.inputs, self.fingerprint])

    def describe(self) -> str:
        """A line for people: what is done to what."""
        return self.title or self.name


class Cell(Protocol):
    """What a run has to account for. ``stage``: key of the one its record comes from, ``None`` if
    it has none, ``reason`` saying why.
    """

    @property
    def stage(self) -> str | None: ...

    @property
    def reason(self) -> str: ...

    @property
    def id(self) -> str:
        """Which cell of a suite this is, whatever code made it: how a partial run finds what it
        replaces.
        """

    @property
    def title(self) -> str:
        """What meets what, for people."""

    def about(self) -> dict[str, Any]:
        """What a reader needs of a cell whose record has been lost."""

    def without_result(
        self, status: Status, reason: str, trace: str = "", provenance: dict[str, Any] | None = None
    ) -> Record:
        """The record of a cell that was skipped or failed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``cells`` in the order they are reported; ``stages`` by key, inputs before what needs them.
    ``filtered``: only a part of the suite. ``metrics``: what the numbers mean, for who reads the
    account: JSON objects with a ``name``, carried as they are. ``warnings``: what a person should
    know of it before it runs, a line each.
    """

    suite: str
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]
    description: str = ""
    filtered: bool = False
    metrics: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def limited(self, limit: int) -> Plan:
        """Only the first ``limit`` cells, and the stages they need."""
        cells = self.cells[:limit]
        needed = set(self.closure(cell.stage for cell in cells if cell.stage))
        stages = {key: stage for key, stage in self.stages.items() if key in needed}
        return replace(
            self, cells=cells, stages=stages, filtered=self.filtered or len(cells) < len(self.cells)
        )

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
