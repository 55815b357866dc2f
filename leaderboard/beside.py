"""What the papers printed for what a cell measures, to stand beside its numbers. Nothing here is a
metric: no ranking, interval, colour or mean sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.papers import Published, agrees, published
from bench.record import PluginSpec, Record
from leaderboard.board import POPULATION, Cell
from leaderboard.names import split
from leaderboard.sound import cut

#: Letters of one of our own values in a difference.
VALUE = 60
#: Of what a paper's number was measured on, in a table's cell.
DATA = 24
OWN = "the paper’s own data and networks"
OTHER = "the paper’s, on other data and networks"


@dataclass(frozen=True)
class Beside:
    """``own``: whether the testbed is the paper's; ``differences``: a line for each thing that the
    paper did otherwise than this cell, and where its definition is not ours.
    """

    published: Published
    own: bool
    differences: tuple[str, ...]

    @property
    def whose(self) -> str:
        """In words, what the number was measured on."""
        return OWN if self.own else OTHER

    @property
    def text(self) -> str:
        """One line: number, source and whose it is."""
        return f"{self.published.text} ({self.published.citation}; {self.whose})"

    @property
    def short(self) -> str:
        """In a table's cell, under a head with the metric: ``paper 0.948, ImageNette``; with a star
        where the paper did something otherwise, which the cell's panel names.
        """
        data = cut(self.published.setting.data.partition(",")[0], DATA)
        star = "*" if self.differences else ""
        return f"paper {self.published.number}{star}, {data}"


def of_cell(cell: Cell) -> tuple[tuple[Beside, str], ...]:
    """Beside a cell, whose seeds differ in nothing that a paper's number depends on: each number
    with its sources, which are several where a paper prints it again.
    """
    sources: dict[object, list[Beside]] = {}
    for item in of_record(cell.entries[0].record):
        one = item.published
        same = (one.paper, one.metric, one.text, one.setting, item.whose, item.differences)
        sources.setdefault(same, []).append(item)
    return tuple(
        (items[0], "; ".join(item.published.citation for item in items))
        for items in sources.values()
    )


def of_record(record: Record) -> tuple[Beside, ...]:
    """Beside a record, in the order of the papers' tables."""
    if record.kind == POPULATION:
        return ()
    return _of_facts(json.dumps(_facts(record), sort_keys=True))


def of_metric(items: Iterable[Beside], metric: str) -> tuple[Beside, ...]:
    """Those of one of our metrics."""
    names = (metric, split(metric)[0])
    return tuple(item for item in items if item.published.metric in names)


def in_metric(cell: Cell, metric: str) -> tuple[Beside, ...]:
    """What papers printed for a cell in one of our metrics."""
    testbed = cell.entries[0].record.testbed.name
    if not any(one.metric in (metric, split(metric)[0]) for one in _numbers(testbed)):
        return ()  # of most metrics no paper has a number
    return of_metric(of_record(cell.entries[0].record), metric)


@lru_cache(maxsize=4096)
def _of_facts(text: str) -> tuple[Beside, ...]:
    """Of a record's facts as JSON, which its seeds and metrics have in common."""
    facts = json.loads(text)
    testbed = facts["testbed"]
    return tuple(
        Beside(one, testbed in one.own, tuple(_differences(one, facts)))
        for one in _numbers(testbed)
        if _matches(one, testbed, facts)
    )


@lru_cache(maxsize=64)
def _numbers(testbed: str) -> tuple[Published, ...]:
    return tuple(one for one in published() if testbed in (*one.own, *one.mirrors))


def _matches(one: Published, testbed: str, facts: dict[str, Any]) -> bool:
    """A condition on the testbed binds the paper's own alone: others have other parts, of which
    ``mirrored`` says what stands for the paper's.
    """
    own = testbed in one.own
    return all(
        name in facts and agrees(facts[name], wanted)
        for name, wanted in one.where.items()
        if own or not name.startswith("testbed.")
    ) and (own or all(agrees(facts.get(name), wanted) for name, wanted in one.mirrored.items()))


def _differences(one: Published, facts: dict[str, Any]) -> Iterable[str]:
    for name, wanted in one.also.items():
        if name in facts and not agrees(facts[name], wanted):
            what = name.partition(".")[2].replace("_", " ")
            yield f"{what}: {wanted} in the paper, {cut(str(facts[name]), VALUE)} here"
    if one.differs:
        yield one.differs


def _facts(record: Record) -> dict[str, Any]:
    """A record in the words of the papers' tables. Without a sampler of its own it has its
    testbed's.
    """
    testbed = record.testbed.params
    sampler = record.sampler or PluginSpec(name=str(testbed.get("sampler", "")), params=testbed)
    roles = [("defense", record.defense), ("sampler", sampler), ("testbed", record.testbed)]
    if record.kind == "anchor":
        facts: dict[str, Any] = {"anchor": record.attack.name}
    else:
        facts, roles = {}, [("attack", record.attack), *roles]
    for role, spec in roles:
        facts |= {f"{role}.{name}": value for name, value in spec.params.items()}
        facts[role] = spec.name
    return facts
