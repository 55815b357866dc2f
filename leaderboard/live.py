"""What the page of a run that goes on has beside the records: how far it is, and what is still
coming. A finished page has none of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from markupsafe import Markup

from bench.record import PluginSpec
from leaderboard.board import Board, Row, identity, under
from leaderboard.labels import label

TEMPLATES = Path(__file__).parent / "templates"
#: So many lines of what is still coming are listed.
MOST_LINES = 200
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
    def script_hash(self) -> str:
        """For the page's policy."""
        return base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode("ascii")

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

    def expected(self, board: Board, row: Row, defense: PluginSpec) -> str | None:
        """When the first result of a pair is expected, in words; ``None`` if none is coming."""
        wanted = (
            identity(board.testbed),
            board.protocol,
            *_row(row.attack, row.probe, row.sampler),
            identity(defense),
        )
        seconds = self._first.get(wanted)
        if seconds is None and row.sampler is not None:  # the testbed's own has no name in a suite
            unnamed = (*wanted[:2], *_row(row.attack, row.probe, None), wanted[-1])
            seconds = self._first.get(unnamed)
        return None if seconds is None else in_words(seconds)

    @cached_property
    def _first(self) -> dict[Pair, float]:
        return {_pair(cell): seconds for cell, seconds in reversed(self.coming)}


def in_words(seconds: float) -> str:
    """``45 s``, ``4 min``, ``1.5 h``: no more exact than an estimate is."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


def _row(attack: PluginSpec, probe: PluginSpec | None, sampler: PluginSpec | None) -> Pair:
    return identity(attack), probe and identity(probe), sampler and identity(sampler)


def _pair(cell: Coming) -> Pair:
    row = _row(cell.attack, cell.probe, cell.sampler)
    return identity(cell.testbed), cell.protocol, *row, identity(cell.defense)


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
