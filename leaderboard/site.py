"""The static site: the board, its methods and the pages of a folder of Markdown, under one
navigation. A pure function of the records and of those files.

Every page is one file that loads nothing, by its own policy: pictures and styles are part of it.
So each testbed's cells have a page of their own, and the records as data are compressed: the board
that comes with castlewalls would be one page of 50 MB beside tables of 90, more than some hosts of
pages take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from bench.errors import UserError
from bench.record import Run
from leaderboard import export, methods
from leaderboard.board import Board, boards, identity
from leaderboard.front import board_names
from leaderboard.labels import label
from leaderboard.links import joined
from leaderboard.methods import Paper, calls, papers_of_attack, papers_of_defense
from leaderboard.pages import address
from leaderboard.prose import Prose, read_prose
from leaderboard.red_flags import flagged, with_flags
from leaderboard.report import TEMPLATES, environment, render_apart, write_files
from leaderboard.view import papers as all_papers

#: The board's file, and what the first places of the navigation are called.
HOME = "index.html"
_FIRST = ((HOME, "Board"), ("methods.html", "Methods"))
#: Pages that stand before the others, and what the navigation calls them.
_EARLY = {"submit": "How to submit"}
#: The records as data.
DATA = {"csv": "board.csv.zip", "json": "board.json.zip"}
Nav = Sequence[tuple[str, str]]
_STYLES = ("board.css", "site.css")


@dataclass(frozen=True)
class Method:
    """A line of the page of methods. ``id``: of its own page on the board; ``what``: what an attack
    is called by, or what a method acts on; ``access``: what the attack alters, or what the method
    needs; ``tested``: the boards, each as (id, name).
    """

    name: str
    id: str
    family: str
    what: str
    access: str
    papers: tuple[Paper, ...]
    tested: tuple[tuple[str, str], ...]


def build_site(runs: Sequence[Run], docs: Path | None, output: Path) -> list[Path]:
    """Writes the site below ``output`` and returns its files. ``docs``: a folder of Markdown files,
    each a page; ``None`` for none. Other files below ``output`` stay. Raises :class:`UserError` if
    there are no records, or for what cannot be read or written.
    """
    runs = [run for run in runs if run.records]
    if not runs:
        raise UserError("there are no records for a site yet; `castlewalls run SUITE` makes some")
    page_boards = flagged(boards(runs))
    files = sorted(docs.glob("*.md")) if docs is not None else []
    names = sorted((path.stem for path in files), key=lambda name: (name not in _EARLY, name))
    clash = [name for name in names if f"{name}.html" in dict(_FIRST)]
    if clash:
        raise UserError(f"{docs}/{clash[0]}.md would take the place of a page of the site")
    prose = {path.stem: read_prose(path, names) for path in files}
    nav = [*_FIRST, *((f"{name}.html", _EARLY.get(name, _words(name))) for name in names)]
    with_all = with_flags(runs, page_boards)
    pages = joined(
        {
            **render_apart(runs, page_boards, nav, DATA),
            "methods.html": _methods_page(runs, page_boards, nav),
            **{f"{name}.html": _page(one, nav) for name, one in prose.items()},
        }
    )
    data = {
        DATA["csv"]: export.packed("board.csv", export.to_csv(with_all)),
        DATA["json"]: export.packed("board.json", export.to_json(with_all)),
    }
    made = {output / name: content for name, content in (pages | data).items()}
    write_files(made, f"the site to {output}")
    return list(made)


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").capitalize()


def _methods_page(runs: Sequence[Run], page_boards: Sequence[Board], nav: Nav) -> str:
    body = (
        environment()
        .get_template("methods.html.j2")
        .render(
            attacks=_attacks(page_boards), methods=_methods(page_boards), papers=all_papers(runs)
        )
    )
    return _page(Prose("methods", "Methods", Markup(body)), nav)


def _attacks(page_boards: Sequence[Board]) -> list[Method]:
    names, made = board_names(page_boards), dict[object, list[Method]]()
    words = methods.words_of(page_boards)
    for board in page_boards:
        for row in (row for row in board.rows if row.attack.name != "none"):
            method = Method(
                name=label(row.attack),
                id=address(row.attack.name),
                family="attack",
                what=", ".join(calls(board, row)),
                access=methods.alters(row.attack.name, words),
                papers=papers_of_attack(board, row),
                tested=((board.id, names[board.id]),),
            )
            made.setdefault(identity(row.attack), []).append(method)
    return [_together(every) for every in made.values()]


def _methods(page_boards: Sequence[Board]) -> list[Method]:
    names, made = board_names(page_boards), dict[object, list[Method]]()
    words = methods.words_of(page_boards)
    for board in page_boards:
        for column, family in board.columns:
            if column.name != "none":
                method = Method(
                    name=label(column),
                    id=address(column.name),
                    family=family,
                    what=methods.acts_on(family),
                    access=methods.needs(column.name, words),
                    papers=papers_of_defense(page_boards, identity(column)),
                    tested=((board.id, names[board.id]),),
                )
                made.setdefault(identity(column), []).append(method)
    return [_together(every) for every in made.values()]


def _together(every: Sequence[Method]) -> Method:
    """One method on several boards."""
    one = every[0]
    whats = dict.fromkeys(what for method in every for what in method.what.split(", ") if what)
    cited = dict.fromkeys(paper for method in every for paper in method.papers)
    tested = dict.fromkeys(board for method in every for board in method.tested)
    return replace(one, what=", ".join(whats), papers=tuple(cited), tested=tuple(tested))


def _page(prose: Prose, nav: Nav) -> str:
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in _STYLES)
    return (
        environment()
        .get_template("site.html.j2")
        .render(
            prose=prose,
            nav=nav,
            here=f"{prose.name}.html",
            style=Markup(style),
        )
    )
