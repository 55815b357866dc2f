"""The contract of a measurement: one file that declares what it needs, when it applies and what it
measures, and a pure function.

Every number of the board is made by one of them, as a stage of its own, so cells that share what is
measured share the number. A measurement reads artefacts only; it builds no plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench.artefacts.aims import Aim, read_aim
from bench.contracts.attack import Attack, can_stamp
from bench.contracts.goals import Goal, label_of
from bench.errors import ContractError
from bench.record import Flag, Metric
from bench.testbeds.testbed import PARTS, Testbed
from bench.words import MetricWords, split, whole_family
from bench.words import declaration_of as declaration

#: The anchor of real images against the other real images.
REAL_IMAGES = "real_images"
#: Among :attr:`Measurement.uses`: everything the cell has; of :attr:`Measured.absent`: all others.
EVERYTHING = "*"
#: What a number is of: one cell, or one detector's scores of many models.
Scope = Literal["cell", "population"]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known of a cell before anything of it is made.

    ``family``: the column's, e.g. ``control``, ``sampler``, ``sample detector``, or ``anchor``;
    ``anchor``: which one. ``invoked``: the attack whose goal and calls are measured, ``None`` for
    an anchor; ``honest``: whether the model knows nothing of it. ``roles``: the artefacts the cell
    has. ``scope``: whether it is a cell at all, or a population of models.
    """

    testbed: Testbed
    family: str
    invoked: Attack | None = None
    honest: bool = False
    anchor: str = ""
    roles: frozenset[str] = frozenset()
    scope: Scope = "cell"

    @property
    def has_trigger(self) -> bool:
        """Whether the attack can stamp an image."""
        return self.invoked is not None and can_stamp(self.invoked)

    @property
    def goal(self) -> Goal | None:
        """What the attack wants drawn."""
        return None if self.invoked is None else self.invoked.goal()

    @property
    def label(self) -> int | None:
        """The class the attack aims at."""
        return label_of(self.goal, self.testbed.prompts())


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a measurement is handed when it runs. ``inputs``: role -> folder of the artefact;
    ``options``: of this cell, as :attr:`Measurement.options` returned at planning.
    """

    testbed: Any
    seed: int
    inputs: Mapping[str, Path]
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def aim(self) -> Aim:
        """What the attack aims at."""
        return read_aim(self.inputs["aim"])


@dataclass(kw_only=True)
class Measured:
    """What came of it. ``metrics``, ``series``, ``flags``: as in a :class:`bench.record.Record`.
    ``absent``: metric -> why this cell has no such number, where only measuring could show it;
    :data:`EVERYTHING` stands for all that have neither a number nor a reason of their own.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; :meth:`from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """What :meth:`to_json` gave."""
        metrics = {name: Metric(**metric) for name, metric in data["metrics"].items()}
        flags = [Flag(**flag) for flag in data["flags"]]
        return cls(metrics=metrics, series=data["series"], flags=flags, absent=data["absent"])


def _always(situation: Situation) -> str:
    return ""


def _none(situation: Situation) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """``version``: raise it when the same artefacts give other numbers; numbers of two versions
    never share a table. ``metrics``: what it gives, each with its words, bounds and direction;
    ``borrows``: names that another measurement declares and this one gives as well. ``needs``,
    ``uses``: roles it cannot do without, or takes where the cell has them (:data:`EVERYTHING`, or a
    beginning followed by ``*``). ``scope``: of a population it gets every model's scores, in roles
    of :data:`~bench.artefacts.roles.ATTACKED` and :data:`~bench.artefacts.roles.HONEST`.
    ``parts``: of the testbed, those it uses; others are out of its reach and not in its key.

    ``why_not(situation)``: why a cell has no such numbers, empty if it has; the reason stands in
    its record. ``options(situation)``: JSON values of the cell that the function must know beside
    testbed and seed.
    """

    name: str
    metrics: tuple[MetricWords, ...]
    run: Callable[[Materials], Measured]
    borrows: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    parts: tuple[str, ...] = PARTS
    version: int = 1
    scope: Scope = "cell"
    why_not: Callable[[Situation], str] = _always
    options: Callable[[Situation], dict[str, Any]] = _none

    @property
    def names(self) -> tuple[str, ...]:
        """What its metrics are called; a family stands for those of it that have words of their
        own.
        """
        whole = {one.family for one in self.metrics if split(one.name)[1] == "*"}
        own = (
            whole_family(one.name) if one.family in whole and split(one.name)[1] else one.name
            for one in self.metrics
        )
        return tuple(dict.fromkeys(own))

    def measured(self, materials: Materials) -> Measured:
        """What :attr:`run` makes of ``materials``, with a reason for all that it leaves out. Raises
        :class:`ContractError` for a number that is not declared, or has another direction.
        """
        measured = self.run(materials)
        if why := measured.absent.pop(EVERYTHING, ""):
            measured.absent = {
                name: why for name in self.names if name not in measured.metrics
            } | measured.absent
        for name, metric in measured.metrics.items():
            words = declaration(self.metrics, name)
            if words is None and not {name, whole_family(name)} & set(self.borrows):
                raise ContractError(f"{self.name} gives {name}, which it does not declare")
            if words and words.higher_is_better is not metric.higher_is_better:
                raise ContractError(
                    f"{self.name} declares {name} with higher_is_better "
                    f"{words.higher_is_better}, and gives it with {metric.higher_is_better}"
                )
        return measured

    def reason(self, situation: Situation) -> str:
        """Why ``situation`` has no such numbers; empty if it has."""
        missing = [role for role in self.needs if role not in situation.roles]
        return self.why_not(situation) or (f"this cell has no {missing[0]}" if missing else "")

    def taken(self, roles: Mapping[str, str]) -> dict[str, str]:
        """Of a cell's ``roles``, those it reads."""
        wanted = (*self.needs, *self.uses)
        return {
            role: key
            for role, key in roles.items()
            if any(fnmatchcase(role, pattern) for pattern in wanted)
        }
