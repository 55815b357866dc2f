"""One cell of the matrix: a testbed, an attack, a sampler, a defense and a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bench.record import PluginSpec, Record, Status, cell_code
from bench.text import one_line, tail

#: :attr:`Cell.kind` of what is no cell of the matrix: a detector's scores of many models.
POPULATION = "population"
#: The attack of a population of the models of all attacks.
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """``probe``: for the no-attack row, the attack whose goal and calls the honest model is tried
    with. ``sampler``: ``None`` for the testbed's own. ``kind``: the column's family. ``stage``: key
    of the stage its record comes from, or ``None`` for a pair that makes no sense, ``reason``
    saying why. ``seeds``: of a population, all that its models were made with; ``seed`` is the
    first of them.
    """

    testbed: PluginSpec
    attack: PluginSpec
    defense: PluginSpec
    seed: int
    kind: str
    probe: PluginSpec | None = None
    sampler: PluginSpec | None = None
    protocol: str = ""
    stage: str | None = None
    reason: str = ""
    seeds: tuple[int, ...] = ()

    @property
    def specs(self) -> tuple[PluginSpec | None, ...]:
        """Testbed, attack, probe and defense, and the sampler unless it is the testbed's own."""
        specs = self.testbed, self.attack, self.probe, self.defense
        return specs if self.sampler is None else (*specs, self.sampler)

    @property
    def id(self) -> str:
        """Identifies this cell of a suite independently of the code: a partial run uses it to find
        the results it replaces. A population of other seeds has another id.
        """
        specs = [None if spec is None else [spec.name, spec.params] for spec in self.specs]
        return json.dumps([*specs, list(self.seeds) or self.seed], sort_keys=True)

    @property
    def code(self) -> str:
        """What ``--cells`` takes: the same for every seed."""
        specs = self.testbed, self.attack, self.probe, self.defense
        return cell_code(specs, self.sampler, population=self.kind == POPULATION)

    @property
    def title(self) -> str:
        """The cell in words, for people."""
        under = f" under {self.sampler.label}" if self.sampler else ""
        whose = "models of " if self.kind == POPULATION else ""
        return f"{whose}{self.attack.label} x {self.defense.label}{under}"

    def about(self) -> dict[str, Any]:
        """What a reader needs of a cell whose record has been lost."""
        labels = [None if spec is None else spec.label for spec in self.specs]
        return {"labels": labels, "kind": self.kind, "protocol": self.protocol}

    def without_result(
        self, status: Status, reason: str, trace: str = "", provenance: dict[str, Any] | None = None
    ) -> Record:
        """The record of a cell that was skipped or failed."""
        return Record(
            testbed=self.testbed,
            attack=self.attack,
            defense=self.defense,
            seed=self.seed,
            status=status,
            kind=self.kind,
            probe=self.probe,
            sampler=self.sampler,
            seeds=self.seeds,
            protocol=self.protocol,
            reason=one_line(reason),
            trace=tail(trace),
            provenance=provenance or {},
        )
