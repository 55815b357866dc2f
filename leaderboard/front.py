"""What the template needs of the page's first part: the questions with their rankings and pictures,
the whole matrix, the definitions behind the columns' heads, and what can be filtered by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard import definitions, methods
from leaderboard.board import Board, identity
from leaderboard.definitions import Definition
from leaderboard.labels import label, short_label, without
from leaderboard.questions import Question, questions
from leaderboard.ranking import STATUSES
from leaderboard.scenes import Scene, scenes
from leaderboard.view import BoardView
from leaderboard.whole import Whole, whole

#: (key of a link, what it is called).
FACETS = (
    ("testbed", "Testbed"),
    ("calls", "Called by"),
    ("alters", "Alters at most"),
    ("needs", "Needs at most"),
    ("family", "Family"),
    ("year", "Year"),
    ("status", "Status"),
)
#: Parameters that are tried together to tell testbeds apart; letters of a value.
MOST_TELLING, LONGEST_VALUE = 4, 24


@dataclass(frozen=True)
class Asked:
    """A question with the definitions of its columns, by key, and what stands beside it."""

    question: Question
    definitions: Mapping[str, Definition]
    scenes: tuple[Scene, ...]


def front(views: Sequence[BoardView], others: Sequence[Board] = ()) -> dict[str, Any]:
    """The template's variables. ``others``: boards that nothing is there of yet."""
    boards = [*(view.board for view in views), *others]
    called = board_names(boards)
    asked = tuple(
        Asked(one, definitions.of_question(one, called), scenes(one, views))
        for one in questions(views)
    )
    matrix = whole(boards)
    statuses = _statuses(asked, matrix)
    explained = [definitions.of_column(column, boards, called) for column in matrix.columns]
    words = methods.words_of(boards)
    facets = _facets(asked, matrix, boards, statuses, words)
    offered = {key: values for key, _, values in facets}

    def attackers(names: Iterable[str]) -> list[str]:
        """Those of the menu who can make one of these attacks."""
        every = [methods.within(methods.alters(one, words), offered["alters"]) for one in names]
        return [one for one in offered["alters"] if any(one in able for able in every)]

    return {
        "asked": asked,
        "whole": matrix,
        "column_definitions": explained,
        "definition_of": {
            column.key: one for column, one in zip(matrix.columns, explained, strict=True)
        },
        "column_statuses": statuses,
        "board_names": called,
        "beside_alike": beside_alike(boards, {one.id: label(one.testbed) for one in boards}),
        "facets": facets,
        "attackers": attackers,
        "defenders": lambda needs: methods.within(needs, offered["needs"]),
        "planned": boards,
        "tally": _tally([view.board for view in views], matrix),
    }


def board_names(boards: Sequence[Board]) -> dict[str, str]:
    """Id -> the testbed in a word, with as many of its parameters as set it apart from the first
    board of that name, which has the most records, and from the testbed's own, where that is on no
    board; where that does not, see :func:`beside_alike`.
    """
    named: dict[str, str] = {}
    for word, those in _by_word(boards).items():
        names = _telling([board.testbed.params for board in those])
        usual = {
            name: value
            for name, value in those[0].testbed.params.items()
            if any(without(label(board.testbed), name) == label(board.testbed) for board in those)
        }
        texts = {board.id: _apart(word, board, usual, names) for board in those}
        added = beside_alike(those, texts)
        named |= {board.id: f"{texts[board.id]} {added[board.id]}".strip() for board in those}
    return {board.id: named[board.id] for board in boards}


def foremost(boards: Sequence[Board]) -> set[str]:
    """The ids of the first board of each name, which has the most records of it."""
    return {those[0].id for those in _by_word(boards).values()}


def _by_word(boards: Sequence[Board]) -> dict[str, list[Board]]:
    """The testbed in a word -> its boards, in their order."""
    alike: dict[str, list[Board]] = {}
    for board in boards:
        alike.setdefault(short_label(board.testbed).strip(), []).append(board)
    return alike


def beside_alike(boards: Sequence[Board], texts: Mapping[str, str]) -> dict[str, str]:
    """Id -> what is added to the board's name in ``texts`` where others have the same: its suites,
    and nothing to the first one's, if that tells all apart; else the protocol.
    """
    alike: dict[str, list[Board]] = {}
    for board in boards:
        alike.setdefault(texts[board.id], []).append(board)
    added = dict.fromkeys(texts, "")
    for those in alike.values():
        if len(those) == 1:
            continue
        suites = {board.id: ", ".join(board.suites()) for board in those}
        if len(set(suites.values())) == len(those):
            added |= {
                board.id: f"in {suites[board.id]}" if suites[board.id] else board.protocol[:8]
                for board in those[1:]
            }
        else:
            added |= {board.id: board.protocol[:8] for board in those}
    return added


def _apart(word: str, board: Board, usual: Mapping[str, Any], names: Sequence[str]) -> str:
    own = board.testbed.params
    changed = [
        f"{name}={_brief(own.get(name))}" for name in names if own.get(name) != usual.get(name)
    ]
    return " ".join([word, ", ".join(changed)]).strip()


def _telling(values: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fewest parameters that no two have alike, the first ones if there are several; all that
    vary if even they do not tell all apart.
    """
    names = dict.fromkeys(name for one in values for name in one)
    vary = [name for name in names if len({repr(one.get(name)) for one in values}) > 1]
    most = len({repr([one.get(name) for name in vary]) for one in values})
    for size in range(min(len(vary), MOST_TELLING) + 1):
        for some in itertools.combinations(vary, size):
            if len({repr([one.get(name) for name in some]) for one in values}) == most:
                return some
    return tuple(vary)


def _brief(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _statuses(asked: Sequence[Asked], matrix: Whole) -> list[list[str]]:
    """Of each column of the matrix, the standings in the rankings, and what its cells met with."""
    ranked: dict[object, set[str]] = {}
    for one in asked:
        for group in one.question.groups:
            for entry in group.entries:
                ranked.setdefault(identity(entry.cell.defense), set()).add(entry.status)
    every = []
    for index, column in enumerate(matrix.columns):
        cells = [line.items[index].table.cell for _, lines in matrix.boards for line in lines]
        met = {s for s in ("failed", "skipped") if any(c and c.with_status(s) for c in cells)}
        every.append(_in_order(ranked.get(identity(column.spec), set()) | met))
    return every


def _in_order(statuses: Iterable[str]) -> list[str]:
    order = [*STATUSES.values(), "failed", "skipped"]
    return sorted(statuses, key=order.index)


def _facets(
    asked: Sequence[Asked],
    matrix: Whole,
    boards: Sequence[Board],
    statuses: Sequence[list[str]],
    words: methods.Described,
) -> list[tuple[str, str, list[str]]]:
    """(key, name, values) of what there is to choose from."""
    lines = [line for _, board_lines in matrix.boards for line in board_lines]
    columns = [column for column in matrix.columns if not column.control]
    every = [one.papers for one in lines] + [one.papers for one in columns]
    cited = [paper for papers in every for paper in papers]
    values: dict[str, list[str]] = {
        "testbed": list(board_names(boards).values()),
        "calls": sorted({call for line in lines for call in line.calls}),
        "alters": methods.fewest_first(methods.alters(one.row.attack.name, words) for one in lines),
        "needs": methods.fewest_first(column.needs for column in columns),
        "family": list(dict.fromkeys(column.family for column in columns)),
        "year": sorted({paper.year for paper in cited if paper.year}, reverse=True),
        "status": _in_order({s for one in statuses for s in one} - {STATUSES["none"]}),
    }
    return [(key, text, [value for value in values[key] if value]) for key, text in FACETS]


def _tally(boards: Sequence[Board], matrix: Whole) -> str:
    rows = [row for board in boards for row in board.rows]
    attacks = {identity(row.attack) for row in rows if row.attack.name != "none"}
    columns = [column for board in boards for column in board.columns]
    methods = {identity(spec) for spec, family in columns if family != "control"}
    seeds = max((len(cell.entries) for board in boards for cell in board.cells.values()), default=0)

    def count(number: int, what: str) -> str:
        return f"{number} {what}{'' if number == 1 else 's'}"

    return (
        f"{count(len(attacks), 'attack')} against {len(methods)} defenses and detectors on "
        f"{count(len(boards), 'testbed')}; {count(matrix.cells(), 'cell')} of up to "
        f"{count(seeds, 'seed')}, all measured alike, beside their controls."
    )
