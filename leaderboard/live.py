"""What the page of a run that goes on has beside the records: how far it is, and what is still
coming. A finished page has none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from markupsafe import Markup

from bench.record import PluginSpec
from leaderboard.board import (
    POPULATION,
    Awaited,
    Board,
    CellKey,
    Identity,
    Row,
    board_id,
    cell_key,
    identity,
    own_sampler,
    under,
)
from leaderboard.labels import label
from leaderboard.sound import LABEL, cut

TEMPLATES = Path(__file__).parent / "templates"
#: So many lines of what is still coming are listed.
MOST_LINES = 200
#: :attr:`Coming.kind` of a reference line of a testbed.
ANCHOR = "anchor"
#: An attack on a testbed against a defense.
Pair = tuple[object, ...]


class Coming(Protocol):
    """A cell of a run, as :class:`bench.cells.Cell` has it."""

    @property
    def testbed(self) -> PluginSpec: ...
    @property
    def attack(self) -> PluginSpec: ...
    @property
    def probe(self) -> PluginSpec | None: ...
    @property
    def sampler(self) -> PluginSpec | None: ...
    @property
    def defense(self) -> PluginSpec: ...
    @property
    def kind(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def protocol(self) -> str: ...


@dataclass(frozen=True)
class Line:
    """What is coming of a pair: its seeds, and when the first and the last are expected."""

    testbed: PluginSpec
    attack: str
    defense: str
    seeds: str
    when: str


@dataclass(frozen=True, kw_only=True)
class Going:
    """How far a run is. ``written``: seconds since 1970, now; ``every``: seconds until the page is
    written again, if there is news; ``done``, ``left``: stages; ``seconds``: until all is there;
    ``coming``: the cells that are not, each with the seconds until it is expected, the next one
    first; ``running``: the stages at work, in words. ``ended``: the run was ended before it had
    anything to show.
    """

    written: float
    every: float
    done: int = 0
    left: int = 0
    seconds: float = 0.0
    coming: Sequence[tuple[Coming, float]] = ()
    running: Sequence[str] = ()
    ended: bool = False

    @cached_property
    def script(self) -> Markup:
        """What the page runs beside its own script."""
        return Markup((TEMPLATES / "live.js").read_text(encoding="utf-8"))

    @property
    def share(self) -> int:
        """Percent of the stages that are done."""
        return 100 * self.done // max(self.done + self.left, 1)

    @property
    def time_left(self) -> str:
        """Until all is there, in words."""
        return in_words(self.seconds)

    @cached_property
    def lines(self) -> list[Line]:
        """What is coming, a line for each pair, in the order of their first seeds."""
        pairs: dict[Pair, list[tuple[Coming, float]]] = {}
        for cell, seconds in self.coming:
            pairs.setdefault(_pair(cell), []).append((cell, seconds))
        return [_line(cells) for cells in pairs.values()]

    @cached_property
    def _waiting(self) -> dict[tuple[Identity, str], list[tuple[Coming, float]]]:
        """What is coming, by testbed."""
        waiting: dict[tuple[Identity, str], list[tuple[Coming, float]]] = {}
        for cell, seconds in self.coming:
            waiting.setdefault(_testbed(cell), []).append((cell, seconds))
        return waiting

    def onto(self, boards: Sequence[Board]) -> tuple[list[Board], list[Board]]:
        """The boards with what is still to come of them, and those that nothing is there of yet."""
        known = [_testbed(board) for board in boards]
        begun = [
            _awaiting(board, self._waiting.get(key, ()))
            for board, key in zip(boards, known, strict=True)
        ]
        others = [
            _awaiting(_empty(cells[0][0]), cells)
            for key, cells in self._waiting.items()
            if key not in known
        ]
        return begun, others

    def news(self, board: Board) -> str:
        """How much of a testbed is there, and when the rest is expected; empty once all is."""
        seconds = [seconds for _, seconds in self._waiting.get(_testbed(board), ())]
        if not seconds:
            return ""
        made = sum(len(cell.entries) for cell in board.all_cells())
        last = in_words(seconds[-1])
        if not made:
            return f"nothing yet, the first in about {in_words(seconds[0])}, all in about {last}"
        return f"{made} of {made + len(seconds)} cells, all in about {last}"


def _testbed(one: Board | Coming) -> tuple[Identity, str]:
    """Which board it is, or is of."""
    return identity(one.testbed), one.protocol


def _empty(cell: Coming) -> Board:
    testbed = _named(cell.testbed)
    return Board(
        id=board_id(testbed, cell.protocol),
        testbed=testbed,
        protocol=cell.protocol,
        rows=(),
        columns=(),
        cells={},
        anchors=(),
    )


def _awaiting(board: Board, waiting: Sequence[tuple[Coming, float]]) -> Board:
    """The board, whose cells know which seeds are still to come, as it knows which cells are."""
    own = own_sampler(board.testbed) if any(row.sampler for row in board.rows) else None
    seeds: dict[CellKey, set[int]] = {}
    awaited: dict[tuple[CellKey, bool], Awaited] = {}
    for cell, seconds in waiting:
        if cell.kind == ANCHOR:
            continue
        attack, defense = _named(cell.attack), _named(cell.defense)
        probe, sampler = (spec and _named(spec) for spec in (cell.probe, cell.sampler or own))
        row, population = Row(attack, probe, sampler), cell.kind == POPULATION
        key = cell_key(row, defense)
        if key in board.cells and not population:
            seeds.setdefault(key, set()).add(cell.seed)
        else:
            one = Awaited(row=row, defense=defense, family=cell.kind, seconds=seconds)
            awaited.setdefault((key, population), one)
    cells = {
        key: replace(cell, coming=frozenset(seeds[key]) - cell.seeds) if key in seeds else cell
        for key, cell in board.cells.items()
    }
    return replace(board, cells=cells, awaited=awaited)


def _named(spec: PluginSpec) -> PluginSpec:
    """By a label of a length that a reader can take in; a plan may come from a stranger's file."""
    return replace(spec, label=cut(label(spec), LABEL))


def so_far(board: Board, defenses: Sequence[PluginSpec], others: str = "") -> str:
    """How much of the numbers of these columns on attacks is there while a run goes on: ``1 of 3
    seeds, 1 of 2 attacks so far``; empty once all is. ``others``: what such columns are, to count
    those of their families too of which nothing is there yet.
    """
    mine = {identity(spec) for spec in defenses}
    rows = [row for row in board.rows if row.attack.name != "none"]
    cells = [cell for row in rows for spec in defenses if (cell := board.cell(row, spec))]
    awaited = [
        one
        for (_, population), one in board.awaited.items()
        if not population and one.row.attack.name != "none"
    ]
    parts = []
    if any(cell.coming for cell in cells):
        least = min(cells, key=lambda cell: len(cell.seeds) / len(cell.seeds | cell.coming))
        parts.append(least.so_far.removesuffix(" so far"))
    lacking = {
        cell_key(one.row, one.row.attack) for one in awaited if identity(one.defense) in mine
    }
    if lacking:
        met = {cell_key(cell.row, cell.attack) for cell in cells}
        what = "rows" if any(row.sampler for row in rows) else "attacks"
        parts.append(f"{len(met - lacking)} of {len(met | lacking)} {what}")
    families = {family for spec, family in board.columns if identity(spec) in mine} - {"control"}
    more = {identity(one.defense) for one in awaited if one.family in families} - mine
    if others and more:
        count = sum(spec.name != "none" for spec in defenses)
        parts.append(f"{count} of {count + len(more)} {others}")
    return f"{', '.join(parts)} so far" if parts else ""


def in_words(seconds: float) -> str:
    """``45 s``, ``4 min``, ``1.5 h``: no more exact than an estimate is."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


def _pair(cell: Coming) -> Pair:
    key = cell_key(Row(cell.attack, cell.probe, cell.sampler), cell.defense)
    return *_testbed(cell), *key


def _line(cells: Sequence[tuple[Coming, float]]) -> Line:
    cell, first = cells[0]
    last = in_words(cells[-1][1])
    attack = "no attack" if cell.attack.name == "none" else label(cell.attack)
    tried = f", tried with {label(cell.probe)}" if cell.probe else ""
    seeds = sorted({seed for one, _ in cells for seed in one.seeds or (one.seed,)})
    return Line(
        testbed=cell.testbed,
        attack=f"{attack}{tried}{under(cell.sampler)}",
        defense="no defense" if cell.defense.name == "none" else label(cell.defense),
        seeds=", ".join(map(str, seeds)),
        when=in_words(first) + ("" if last == in_words(first) else f" to {last}"),
    )
