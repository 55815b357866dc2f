"""A page for each method: what it is, its row or column of the matrix, and its weaknesses as
measured. All of it is computed from the records.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.record import PluginSpec, Run
from leaderboard import methods
from leaderboard.board import Board, Cell, identity
from leaderboard.labels import label
from leaderboard.pictures import Picture, embedded
from leaderboard.sound import LABEL, cut, visible
from leaderboard.view import BoardView, papers
from leaderboard.weaknesses import Weakness, of_attack, of_defense
from leaderboard.whole import Column, Item, Line, Whole

#: Letters of a configuration's parameters on its page.
_PARAMS = 600
_PLAIN = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class Table:
    """``heads``: (name, parameters, column of the matrix, if it is one) of the columns; ``rows``:
    (board, name, its metric, cells, each with the matrix's column it is of).
    """

    heads: tuple[tuple[str, str, Column | None], ...]
    rows: tuple[tuple[str, str, str, tuple[tuple[Item, Column], ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """``id``: its address; ``method``: its name in the records, ``name``: as shown; ``kind``: of
    method, in words; ``configurations``: (label, parameters as JSON); ``drawn``: what is added to
    the start and what it makes, by configuration.
    """

    id: str
    method: str
    name: str
    kind: str
    acts_on: str
    needs: str
    alters: str
    calls: tuple[str, ...]
    sentences: tuple[str, ...]
    configurations: tuple[tuple[str, str], ...]
    drawn: tuple[tuple[str, tuple[Picture, ...]], ...]
    table: Table
    weaknesses: tuple[Weakness, ...]
    papers: tuple[Mapping[str, str], ...]


def pages(
    views: Sequence[BoardView], whole: Whole, names: Mapping[str, str], runs: Sequence[Run]
) -> tuple[Page, ...]:
    """The attacks by name, then the rest in the matrix's order. ``names``: of the boards."""
    cited = {methods.paper_anchor(paper): paper for paper in papers(runs)}
    lines = [(board, line) for board, some in whole.boards for line in some]
    attacks = sorted({line.row.attack.name for _, line in lines} - {"none"})
    columns = [column.spec.name for column in whole.columns if column.spec.name != "none"]
    words = methods.words_of(board for board, _ in whole.boards)
    source = _Source(views, whole, names, cited, words)
    made = [_of_attack(name, source) for name in attacks]
    made += [_of_column(name, source) for name in dict.fromkeys(columns) if name not in attacks]
    return tuple(made)


def address(name: str) -> str:
    """The HTML id and address of a method's page."""
    if _PLAIN.fullmatch(name):
        return f"method={name}"
    return f"method={hashlib.sha256(name.encode(errors='backslashreplace')).hexdigest()[:12]}"


Cited = Mapping[str, Mapping[str, str]]


class _Source(NamedTuple):
    """What every page is made from. ``names``: of the boards; ``cited``: papers by their anchor;
    ``words``: what is said of a method, by its name.
    """

    views: Sequence[BoardView]
    whole: Whole
    names: Mapping[str, str]
    cited: Cited
    words: methods.Described

    def sentences(self, name: str) -> tuple[str, ...]:
        """In its author's words."""
        return self.words[name].sentences if name in self.words else ()


def _of_attack(name: str, source: _Source) -> Page:
    mine = [
        (board, line)
        for board, lines in source.whole.boards
        for line in lines
        if line.row.attack.name == name
    ]
    specs = _distinct([line.row.attack for _, line in mine])
    return Page(
        id=address(name),
        method=name,
        name=cut(name, LABEL),
        kind="Attack",
        acts_on="",
        needs="",
        alters=methods.alters(name, source.words),
        calls=tuple(dict.fromkeys(call for _, line in mine for call in line.calls)),
        sentences=source.sentences(name),
        configurations=tuple((label(spec), _params(spec)) for spec in specs),
        drawn=_drawn(mine),
        table=_across(mine, source.whole, source.names),
        weaknesses=of_attack(name, source.views, source.whole),
        papers=_papers([paper.anchor for _, line in mine for paper in line.papers], source.cited),
    )


def _of_column(name: str, source: _Source) -> Page:
    mine = [(index, one) for index, one in enumerate(source.whole.columns) if one.spec.name == name]
    first = mine[0][1]
    rows = [
        (
            source.names[board.id],
            _row_name(line),
            "",
            tuple((line.items[index], column) for index, column in mine),
        )
        for board, lines in source.whole.boards
        for line in lines
        if any(line.items[index].table.cell for index, _ in mine)
    ]
    specs = _distinct([column.spec for _, column in mine])
    return Page(
        id=address(name),
        method=name,
        name=cut(name, LABEL),
        kind=_kind(first.family),
        acts_on=methods.acts_on(first.family),
        needs=first.needs,
        alters="",
        calls=(),
        sentences=source.sentences(name),
        configurations=tuple((label(spec), _params(spec)) for spec in specs),
        drawn=(),
        table=Table(tuple((one.metric, one.params, one) for _, one in mine), tuple(rows)),
        weaknesses=of_defense(name, source.views, source.whole),
        papers=_papers([paper.anchor for _, one in mine for paper in one.papers], source.cited),
    )


def _across(mine: Sequence[tuple[Board, Line]], whole: Whole, names: Mapping[str, str]) -> Table:
    """An attack's rows as columns, so that they can be read on a phone."""
    rows = tuple(
        (
            "",
            f"{column.head} {column.params}".strip(),
            column.metric,
            tuple((line.items[index], column) for _, line in mine),
        )
        for index, column in enumerate(whole.columns)
        if any(line.items[index].table.cell for _, line in mine)
    )
    several = len({board.id for board, _ in mine}) > 1
    heads = tuple(
        (names[board.id] if several else "", line.row.label.partition("(")[2].rstrip(")"), None)
        for board, line in mine
    )
    return Table(heads, rows)


def _kind(family: str) -> str:
    """``Sampler defense``; an inversion and a detector are called so already."""
    named = family.endswith(("detector", "inversion", "defense"))
    return (family if named else f"{family} defense").strip().capitalize()


def _row_name(line: Line) -> str:
    if not line.control:
        return line.row.label
    return f"no attack, tried with {label(line.row.probe)}" if line.row.probe else "no attack"


def _drawn(mine: Sequence[tuple[Board, Line]]) -> tuple[tuple[str, tuple[Picture, ...]], ...]:
    """Trigger and target of each configuration whose pictures differ from those before it."""
    every: dict[tuple[str, ...], tuple[str, tuple[Picture, ...]]] = {}
    for _, line in mine:
        pictures = _trigger_and_target([item.table.cell for item in line.items])
        key = tuple(picture.uri for picture in pictures)
        if key:
            every.setdefault(key, (line.row.label, pictures))
    return tuple(every.values())


def _trigger_and_target(cells: Sequence[Cell | None]) -> tuple[Picture, ...]:
    """Of an attack without either (a class is no image), real images that it has stamped."""
    drawn = (("trigger_image", "trigger"), ("target_image", "target"))
    entries = [entry for cell in cells if cell for entry in cell.with_status("ok")]
    for roles in (drawn, (("stamped", "stamped images"),)):
        for entry in entries:
            pictures = tuple(
                picture
                for role, name in roles
                if (path := entry.record.picture(role))
                and (picture := embedded(entry.folder, name, path)).uri
            )
            if pictures:
                return pictures
    return ()


def _distinct(specs: Sequence[PluginSpec]) -> list[PluginSpec]:
    return list({identity(spec): spec for spec in specs}.values())


def _params(spec: PluginSpec) -> str:
    text = visible(json.dumps(spec.params, sort_keys=True, indent=1, ensure_ascii=False))
    return text if len(text) <= _PARAMS else f"{text[:_PARAMS]}…"


def _papers(anchors: Sequence[str], cited: Cited) -> tuple[Mapping[str, str], ...]:
    counted = Counter(anchors)
    return tuple(cited[anchor] for anchor in counted if anchor in cited)
