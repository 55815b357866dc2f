"""What a reader wants to know of a method beside its numbers: its paper, what it acts on and needs,
what its adversary alters and how he calls. Read off the records and the runs' own words alone: the
board imports no plugin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.record import Run
from bench.words import MethodWords
from leaderboard import names
from leaderboard.board import Board, Cell, Identity, Row, by_weight, identity, papers_of
from leaderboard.contenders import RATES
from leaderboard.labels import parts_of
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


#: What a method needs that has been handed nothing, as a reader sees it.
NOTHING = "nothing"
#: Who has the weights draws with them as often as he likes.
_FREE = frozenset({"queries"})
Described = Mapping[str, MethodWords]


def described(runs: Iterable[Run]) -> Described:
    """What the runs say of their methods, by name; of several, the one that is shown first."""
    return {one.name: one for run in sorted(runs, key=by_weight) for one in run.methods}


def words_of(boards: Iterable[Board]) -> Described:
    """What the runs that the boards' numbers are from say of their methods, by name."""
    entries = (entry for board in boards for cell in board.all_cells() for entry in cell.entries)
    return described({id(entry.run): entry.run for entry in entries}.values())


def all_needs(name: str, words: Described) -> frozenset[str] | None:
    """What a method needs, and several at once together; ``None`` where a run did not say, and for
    the controls.
    """
    parts = [words.get(part) for part in ([name] if name in words else parts_of(name))]
    each = [frozenset(part.needs) for part in parts if part]
    return frozenset().union(*each) if len(each) == len(parts) else None


def needs(name: str, words: Described) -> str:
    """What the user of a method must have, :data:`NOTHING`, or empty where that is not known."""
    mine = all_needs(name, words)
    if mine is None:
        return ""
    return ", ".join(sorted(mine - _FREE if "weights" in mine else mine)) or NOTHING


def alters(name: str, words: Described) -> str:
    """What the adversary changes; empty where that is not known, and of the control."""
    return ", ".join(words[name].alters) if name in words else ""


def within(things: str, offers: Iterable[str]) -> list[str]:
    """Which of the texts that a menu offers hold all of ``things``: a method can be used, or an
    attack be made, by whoever has no more than they say.
    """
    mine = _set(things)
    owned = ((offer, _set(offer)) for offer in offers if things)
    return [offer for offer, has in owned if mine <= (has | _FREE if "weights" in has else has)]


def fewest_first(texts: Iterable[str]) -> list[str]:
    """Each once, in the order of a menu."""
    return sorted({*texts} - {""}, key=lambda text: (len(_set(text)), text))


def _set(text: str) -> set[str]:
    return {*text.split(", ")} - {NOTHING}


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
