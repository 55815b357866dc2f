"""The graph of a suite: stages, which cells share where they can, and cells, each of which ends in
one stage. Independent of the domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from bench.engine.closure import Closure
from bench.engine.fingerprint import canonical, canonical_mapping, sha256
from bench.plugin_file import Source
from bench.record import Record, Status
from bench.resources import Resources

#: When a cell's turn is; the smaller comes first.
Turn = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One memoised unit of work. ``params``: JSON values; ``inputs``: role -> key of the stage that
    makes it.

    ``key`` names the result: the same key is never computed twice. ``keyed``: the parameters that
    enter the key, if some of them (such as a file's path) do not affect the result; ``None``: all
    of them. ``title``: a line for people. ``alike``: names of groups of stages that take about the
    same time, the narrowest first. ``seconds``: the declared duration. ``plugins``: the third-party
    plugins that it runs, which require a worker of its own; their code is in the fingerprint.
    ``notes``: added to the provenance of the result; decides no number. ``charged``: inputs whose
    cost, including that of their own inputs, is charged to it. ``code``: what its fingerprint
    covers. ``locations``: paths outside the store that it reads, as its parameters have them.
    ``resources``: what it needs of a machine, as declared.
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
    locations: tuple[str, ...] = ()
    resources: Resources = Resources()

    @cached_property
    def key(self) -> str:
        """SHA-256 over name, parameters, input keys and fingerprint."""
        keyed = canonical_mapping(self.params if self.keyed is None else self.keyed)
        rest = canonical(self.inputs), canonical(self.fingerprint)
        return sha256(f"[{canonical(self.name)},{keyed},{rest[0]},{rest[1]}]")

    def describe(self) -> str:
        """A line for people that says what the stage does."""
        return self.title or self.name


class Cell(Protocol):
    """One result that a run must account for. ``stage``: key of the stage that makes its record, or
    ``None``, with the ``reason``.
    """

    @property
    def stage(self) -> str | None: ...

    @property
    def reason(self) -> str: ...

    @property
    def id(self) -> str:
        """Identifies this cell of the suite independently of the code: a partial run uses it to
        find the results it replaces.
        """

    @property
    def title(self) -> str:
        """The cell in words, for people."""

    def about(self) -> dict[str, Any]:
        """What a reader needs to know of a cell whose record was lost."""

    def without_result(
        self, status: Status, reason: str, trace: str = "", provenance: dict[str, Any] | None = None
    ) -> Record:
        """The record of a cell that was skipped or failed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``cells`` in the order of the report; ``stages`` by key, inputs before the stages that need
    them. ``filtered``: only a part of the suite. ``metrics``: what the numbers mean, for readers of
    the account: JSON objects with a ``name``, passed on unchanged; ``methods``: likewise, what the
    plugins are. ``warnings``: lines for the user to read before it runs. ``turns``: of the cells by
    their stage's key, which of them are to be there first; none: all alike.
    """

    suite: str
    cells: tuple[Cell, ...]
    stages: dict[str, Stage]
    description: str = ""
    filtered: bool = False
    metrics: tuple[Mapping[str, Any], ...] = ()
    methods: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    turns: Mapping[str, Turn] = field(default_factory=dict)

    def limited(self, limit: int) -> Plan:
        """Only the first ``limit`` cells, and the stages they need."""
        return self.of(self.cells[:limit])

    def of(self, cells: tuple[Cell, ...]) -> Plan:
        """Only these of its cells, and the stages they need."""
        needed = set(self.closure(cell.stage for cell in cells if cell.stage))
        stages = {key: stage for key, stage in self.stages.items() if key in needed}
        return replace(
            self, cells=cells, stages=stages, filtered=self.filtered or len(cells) < len(self.cells)
        )

    def closure(self, keys: Iterable[str]) -> list[str]:
        """The keys and all their direct and indirect inputs."""
        reached: dict[str, None] = {}
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in reached:
                reached[key] = None
                waiting += self.stages[key].inputs.values()
        return list(reached)
