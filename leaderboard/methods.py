"""What a reader wants to know of a method beside its numbers: its paper, what it acts on and needs,
how its adversary calls. Read off the records alone: the board imports no plugin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leaderboard import names
from leaderboard.board import Board, Cell, Identity, Row, identity, papers_of
from leaderboard.contenders import RATES
from leaderboard.matrix import metric_names
from leaderboard.sound import cut

#: What a family replaces or judges; its contract gives it no more to change.
_ACTS_ON: Mapping[str, str] = {
    "control": "",
    "sampler": "sampling steps",
    "model": "weights",
    "data": "training data",
    "classifier": "classification",
    "inversion": "weights",
    "sample detector": "images",
    "noise detector": "starting noise",
    "prompt detector": "prompts",
    "model detector": "weights",
}


def acts_on(family: str) -> str:
    """What a family replaces or judges; the family itself where that is not known."""
    return _ACTS_ON.get(family, family)


@dataclass(frozen=True, order=True)
class Paper:
    """A citation: ``short`` as beside a number, ``anchor`` where the page has all of it."""

    year: str
    short: str
    title: str
    anchor: str


def paper_anchor(paper: Mapping[str, str]) -> str:
    """The HTML id of a citation."""
    key = json.dumps([paper.get("year", ""), paper.get("title", "")])
    return f"paper-{hashlib.sha256(key.encode(errors='backslashreplace')).hexdigest()[:8]}"


def papers_of_attack(board: Board, row: Row) -> tuple[Paper, ...]:
    """What the attack is taken from; of the control, which is tried with a probe, nothing."""
    if row.attack.name == "none":
        return ()
    cell = board.undefended(row)
    return _papers(_cited(cell) if cell else [])


def papers_of_defense(boards: Iterable[Board], defense: Identity) -> tuple[Paper, ...]:
    """What a defense or detector is taken from: what each of its cells cites beyond the same
    attack's cell without a defense. Nothing where the two cite the same.
    """
    beyond: list[list[str]] = []
    for board in boards:
        columns = {identity(column): column for column, _ in board.columns}
        none = next((column for column in columns.values() if column.name == "none"), None)
        if none is None or defense not in columns or defense == identity(none):
            continue
        for row in board.rows:
            cell, control = board.cell(row, columns[defense]), board.cell(row, none)
            if cell and control and cell.records() and control.records():
                known = set(_cited(control))
                beyond.append([paper for paper in _cited(cell) if paper not in known])
    common = [paper for paper in (beyond or [[]])[0] if all(paper in one for one in beyond)]
    return _papers(common)


def calls(board: Board, row: Row) -> tuple[str, ...]:
    """The adversary's ways in, as the rates of this row name them: ``noise``, ``prompt``."""
    cells = [cell for column, _ in board.columns if (cell := board.cell(row, column))]
    pairs = (names.split(metric) for metric in metric_names(cells))
    ways = [call for family, call in pairs if family in RATES and call not in ("clean", "")]
    return tuple(dict.fromkeys(ways))


def _cited(cell: Cell) -> list[str]:
    """The citations of a cell's records as JSON, each once, in their order."""
    listed: dict[str, None] = {}
    for record in cell.records():
        for paper in papers_of(record):
            listed[json.dumps(dict(paper), sort_keys=True, default=str)] = None
    return list(listed)


def _papers(cited: Sequence[str]) -> tuple[Paper, ...]:
    papers = {}
    for text in cited:
        entry = {key: str(value) for key, value in json.loads(text).items()}
        title, year = entry.get("title", ""), entry.get("year", "")
        people = [name.strip() for name in entry.get("authors", "").split(",") if name.strip()]
        surname = people[0].split()[-1] if people else title
        short = f"{surname} et al. {year}" if len(people) > 1 else f"{surname} {year}"
        anchor = paper_anchor(entry)
        papers[anchor] = Paper(cut(year, 12), cut(short, 40), cut(title, 200), anchor)
    return tuple(sorted(papers.values()))
