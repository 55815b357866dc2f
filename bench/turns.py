"""Which cells come first: a run shows a number of every family early, then one seed of every attack
against everything, then of the controls, then the other seeds.

What comes first decides no number and no key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

from bench.cells import POPULATION, Cell
from bench.engine.graph import Stage, Turn
from bench.engine.schedule import UNKNOWN_SECONDS

#: Declared seconds of all the work of a cell that is done at once.
AT_ONCE = 30.0
#: Declared seconds from which on a stage is long.
LONG = 10.0
#: The turns; the first seed has the last of them and the next one, and each seed more two others.
QUICK, TESTBED, FAMILY, SEEDS = range(4)


def turns(cells: Sequence[Cell], stages: Mapping[str, Stage]) -> dict[str, Turn]:
    """The turn of each cell, by its stage's key: 0 for those of the first seed that take seconds,
    1 for the first complete attack x defense cell of a testbed, 2 for the first of each family of
    each testbed, 3 for the first seed's other attacked models, 4 for its controls and anchors, 5
    and 6 for the second seed's, and so on. A population comes with its last seed's controls. Behind
    it the cell's position: one is finished before the next is begun, except that the testbeds'
    first are made together. Of one attack in the first seed what takes longest comes first, so that
    no slot is left with it at the end.

    The first of several is the one that needs least beyond what others of these need anyway.
    """
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    order = [
        SEEDS + 2 * max(map(seeds.index, cell.seeds or (cell.seed,))) + _honest(cell)
        for cell in cells
    ]
    at_hand: set[str] = set()
    work = {
        index: _Work(cell.stage, stages)
        for index, cell in enumerate(cells)
        if cell.stage and cell.seed == seeds[0] and not cell.seeds
    }
    position = _longest_first(cells, work)
    for index, one in work.items():
        if one.effort()[1] <= AT_ONCE:
            order[index] = QUICK
    for turn, named in ((TESTBED, _testbed), (FAMILY, _family)):
        groups: dict[object, list[int]] = {}
        for index in work:
            if name := named(cells[index]):
                groups.setdefault(name, []).append(index)
        for indices in groups.values():
            first = min(indices, key=lambda index: (*work[index].effort(at_hand), index))
            order[first] = min(order[first], turn)
            at_hand |= work[first].keys
    return {
        cell.stage: (turn, 0 if turn <= TESTBED else position.get(index, index))
        for index, (cell, turn) in enumerate(zip(cells, order, strict=True))
        if cell.stage
    }


def _longest_first(cells: Sequence[Cell], work: Mapping[int, _Work]) -> dict[int, int]:
    """The position of each cell of ``work``: attack by attack, as they stand, and of each attack
    the one that takes longest first.
    """
    rows: dict[object, int] = {}
    keys = []
    for index, one in work.items():
        cell = cells[index]
        specs = cell.testbed, cell.attack, cell.probe, cell.sampler
        row = tuple(spec and spec.identity for spec in specs)
        keys.append((rows.setdefault(row, index), -one.effort()[1], index))
    return {index: position for position, (*_, index) in enumerate(sorted(keys))}


class _Work:
    """The stages behind a record, it included."""

    def __init__(self, record: str, stages: Mapping[str, Stage]) -> None:
        self.stages, self.keys = stages, set[str]()
        waiting = [record]
        while waiting:
            key = waiting.pop()
            if key not in self.keys:
                self.keys.add(key)
                waiting += stages[key].inputs.values()

    def effort(self, without: Set[str] = frozenset()) -> tuple[int, float]:
        """How many long stages, and declared seconds, ``without`` some stages. Declared durations
        are off by up to ten times, so that the number is the better guess.
        """
        left = [self.stages[key].seconds or UNKNOWN_SECONDS for key in self.keys - without]
        return sum(one >= LONG for one in left), math.fsum(left)  # in whatever order


def _honest(cell: Cell) -> bool:
    """Whether it says nothing of an attacked model by itself, so that it can wait for those."""
    return cell.probe is not None or cell.kind in ("anchor", POPULATION)


def _testbed(cell: Cell) -> object:
    """What a cell of an attack against a defense is the first of; ``None`` for any other."""
    attacked = cell.probe is None and cell.kind not in ("anchor", "control", POPULATION)
    return cell.testbed.identity if attacked and not cell.kind.endswith("detector") else None


def _family(cell: Cell) -> object:
    """What it is the first of; ``None`` for what is of no family, or of an honest model."""
    attacked = cell.probe is None and cell.kind not in ("anchor", POPULATION)
    return (cell.testbed.identity, cell.kind) if attacked else None
