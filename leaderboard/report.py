"""Writes the board: one self-contained HTML file, and beside it the records as CSV and JSON. A pure
function of the records.

The page loads nothing: its Content-Security-Policy forbids every request, and every script and
style but its own, which it names by their hashes. All text from records is escaped by jinja2.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape
from threadpoolctl import threadpool_limits

from bench.errors import UserError
from bench.record import Run
from leaderboard import aggregate, export, names, palette, plots
from leaderboard.apart import apart
from leaderboard.board import Board, boards
from leaderboard.cards import Cards
from leaderboard.definitions import glossary, metric_anchor
from leaderboard.figures import figures
from leaderboard.finders import finder_standing
from leaderboard.front import foremost, front
from leaderboard.labels import label
from leaderboard.live import MOST_LINES, Going
from leaderboard.methods import paper_anchor
from leaderboard.names import Words
from leaderboard.pages import pages
from leaderboard.panel import panel
from leaderboard.pictures import Album
from leaderboard.ranking import BUDGET, standing
from leaderboard.red_flags import flagged, with_flags
from leaderboard.sound import cut
from leaderboard.sources import read_sources
from leaderboard.values import amount, count_text, difference, percent, value
from leaderboard.view import board_view, failures, overview, papers, provenance

TEMPLATES = Path(__file__).parent / "templates"
STYLES, SCRIPTS = ("board.css", "front.css", "cell.css"), ("board.js", "save.js", "reload.js")
#: Of the navigation, where the board is a page of a site.
SITE_STYLE = "site.css"
#: More suites than these are shown when asked for: their cards are half a screen each.
MOST_RUNS = 6
#: So many records make it worth a second process that writes them as data.
MANY = 1000


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector: nearly all that is made stays until the files are written, and
    it would walk through millions of objects again and again to find nothing. And with one thread
    for matrices, which are small here: others would wait in a loop, at the cost of a core.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        # All that there is counts as old: it is looked at once there is much more.
        gc.freeze()
        gc.unfreeze()
        if collecting:
            gc.enable()


@_undisturbed()
def build(source: Path | Sequence[Run], output: Path, suites: list[str] | None = None) -> Path:
    """Writes ``output`` (HTML), ``<stem>.csv`` and ``<stem>.json`` of all runs of a source, or of
    runs already read; returns ``output``.

    ``suites``: only these. Raises ``UserError`` if there is nothing to show or the files cannot be
    written.
    """
    where = f"{source}" if isinstance(source, Path) else "the board’s source"
    runs = read_sources([source]) if isinstance(source, Path) else source
    known = sorted({run.suite for run in runs})
    unknown = sorted(set(suites or []) - set(known))
    if unknown:
        raise UserError(
            f"{where} holds no run of {', '.join(unknown)}; it holds {', '.join(known) or 'none'}"
        )
    runs = [run for run in runs if run.records and (suites is None or run.suite in suites)]
    if not runs:
        raise UserError(f"{where} holds no records yet; `castlewalls run SUITE` makes them")
    output = _file(Path(output))
    paths = [output, output.with_suffix(".csv"), output.with_suffix(".json")]
    if len(set(paths)) < 3:
        raise UserError(f"the board must not be named like the files beside it, got {output.name}")
    _refuse_strangers(output, paths[1:])
    page_boards = flagged(boards(runs))
    seen = with_flags(runs, page_boards)
    many = sum(len(run.records) for run in runs) >= MANY
    with apart(lambda: (export.to_csv(seen), export.to_json(seen)), worth_it=many) as beside:
        texts = (render(runs, output.stem, page_boards), *beside())
    write_files(dict(zip(paths, texts, strict=True)), f"the board to {output}")
    return output


def _refuse_strangers(output: Path, twins: Sequence[Path]) -> None:
    """The files beside the board take its name; what has that name and is no board's stays."""
    if output.exists():
        return
    for twin in twins:
        if os.path.lexists(twin) and not _of_a_board(twin):
            raise UserError(
                f"{output.name} would bring {twin.name} with it, which is there and not this "
                f"board's; name another --output, or remove it"
            )


def _of_a_board(file: Path) -> bool:
    """Whether a file begins as those beside a board do, whose page somebody may have removed."""
    start = (export.to_csv([]) if file.suffix == ".csv" else export.JSON_START).encode()
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(start)) == start


def _file(output: Path) -> Path:
    """``output``, if a file can have that name; asked before the page is made."""
    if not output.name or output.is_dir():
        raise UserError(f"the board must be written to a file, got {str(output)!r}")
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise UserError(f"the board's name must be text, got {str(output)!a}") from None
    return output


def build_live(source: Path, output: Path, **progress: Any) -> Path:
    """Writes ``output`` of the records that are there while a run goes on, which says what is still
    coming and loads itself again. ``progress``: the fields of :class:`Going`.

    Only the page: the records as data are written at the end. Raises ``UserError`` as
    :func:`build`, but not where there are no records yet.
    """
    runs = [run for run in read_sources([source]) if run.records]
    write_files(
        {output: render(runs, output.stem, going=Going(**progress))}, f"the board to {output}"
    )
    return output


def write_files(files: Mapping[Path, str | bytes], what: str) -> None:
    """All of them beside their final paths first, then each by one rename: a reader or a full disk
    never meets half a file. Raises ``UserError``: ``what`` cannot be written.
    """
    # Where a link leads to. A lone surrogate (a file's name in an error message) has no UTF-8.
    contents = {
        path.resolve(): one if isinstance(one, bytes) else one.encode("utf-8", "backslashreplace")
        for path, one in files.items()
    }
    for path in contents:
        # A rename would put a file in the place of a device or a pipe.
        if path.exists() and not path.is_file():
            raise UserError(f"cannot write {what}: {path} must be a plain file, or not be there")
    made = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            made[path].write_bytes(content)
        for path, beside in made.items():
            os.replace(beside, path)
    except OSError as error:
        raise UserError(f"cannot write {what}: {error.strerror}") from error
    finally:
        for beside in made.values():
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def render(
    runs: Sequence[Run],
    stem: str = "leaderboard",
    page_boards: Sequence[Board] | None = None,
    going: Going | None = None,
) -> str:
    """The page. Same records, same bytes: no clock, no order of reading; dates are the runs'
    own. ``page_boards``: of these runs, if they are made already; ``going``: of a run that goes on.
    """
    return _page("board.html.j2", _variables(runs, stem, page_boards, going))


def render_apart(
    runs: Sequence[Run],
    page_boards: Sequence[Board],
    nav: Sequence[tuple[str, str]],
    data: Mapping[str, str],
) -> dict[str, str]:
    """The same for a site, by file: the first screen, the matrix and the methods on the first page
    of ``nav``, (file, name) of its pages, and each testbed with its cells on one of its own, so
    that nobody fetches all of them to see one. ``data``: the files with the records, by ending.
    """
    home = nav[0][0]
    variables = _variables(runs, "", page_boards)
    files = {view.board.id: f"{view.board.id}.html" for view in variables["boards"]}
    variables |= {"nav": nav, "files": data, "files_of": files}
    variables["style"] = Markup(variables["style"] + _text([SITE_STYLE]))
    pages_of = {home: _page("board.html.j2", {**variables, "panels": ()})}
    for view in variables["boards"]:
        mine = [one for one in variables["panels"] if one.board == view.board.id]
        own = {**variables, "view": view, "panels": mine}
        pages_of[files[view.board.id]] = _page("testbed.html.j2", own)
    return pages_of


def _page(template: str, variables: Mapping[str, Any]) -> str:
    """What a page shows of pictures and definitions is written in that page."""
    asked = {one.question.title: one.definitions for one in variables["asked"]}
    return environment().get_template(template).render(variables, album=Album(), cards=Cards(asked))


def _variables(
    runs: Sequence[Run],
    stem: str,
    page_boards: Sequence[Board] | None = None,
    going: Going | None = None,
) -> dict[str, Any]:
    runs = sorted(
        runs, key=lambda run: (run.suite, run.started, run.finished or "", run.precedence)
    )
    if page_boards is None:
        page_boards = flagged(boards(runs))
    page_boards, others = going.onto(page_boards) if going else (page_boards, [])
    views = [board_view(board) for board in page_boards]
    made_by = provenance(runs)
    alike = _alike(made_by, sum(len(run.records) for run in runs))
    panels = [panel(cell, view, alike) for view in views for cell in view.board.all_cells()]
    opening = front(views, others)
    described = pages(views, opening["whole"], opening["board_names"], runs)
    asked = [one.question for one in opening["asked"]]
    style = _text((*STYLES, *(["live.css"] if going else [])))
    return {
        **opening,
        "nav": (),
        "figures": figures(asked, views, opening["whole"], opening["board_names"]),
        "foremost": {"", *foremost(page_boards)},
        "pages": described,
        "addresses": {page.method: page.id for page in described},
        "flag_mark": Markup('<sup aria-hidden="true">⚑</sup>'),
        "overviews": [overview(run) for run in runs],
        "boards": views,
        "panels": panels,
        "glossary": glossary(panels),
        "failures": failures(page_boards),
        "provenance": made_by,
        "papers": papers(runs),
        "rate": names.RATE,
        "seconds": names.SECONDS,
        "part_steps": plots.PART_STEPS,
        "min_seeds": aggregate.MIN_SEEDS,
        "budget": f"{100 * BUDGET:g}",
        # While a run goes on those of the last one may be there.
        "files": {} if going else {end: quote(f"{stem}.{end}") for end in ("csv", "json")},
        "files_of": {},
        "live": going,
        "most_lines": MOST_LINES,
        "most_runs": MOST_RUNS,
        "style": Markup(style + _scale_style()),
        "script": Markup(_text(SCRIPTS)),
    }


def _alike(
    made_by: Sequence[tuple[str, Sequence[tuple[str, int]]]], records: int
) -> set[tuple[str, str]]:
    """What of the provenance all ``records`` have, with the same value."""
    return {
        (key, value)
        for key, ((value, count), *others) in made_by
        if not others and count == records
    }


def _digest(text: str) -> str:
    """As a policy names what stands between the tags of a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _text(names_of_files: Sequence[str]) -> str:
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names_of_files)


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """One per process: compiling the templates takes longer than filling them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        label=label,
        amount=amount,
        value=value,
        difference=difference,
        number=_number,
        plain=_plain,
        soft=_soft,
        when=_when,
        anchor=names.anchor,
        count=lambda counted: count_text(*counted),
        standing=standing,
        finder_standing=finder_standing,
        percent=percent,
        span=_span,
        cut=cut,
        in_text=_in_text,
        digest=_digest,
        paper_anchor=paper_anchor,
        metric_anchor=metric_anchor,
    )
    return environment


def _in_text(text: str) -> Markup:
    """Escaped for between two tags, where quotes are letters: a cell's parameters are full of them.
    Not for an attribute.
    """
    return Markup(str(escape(text)).replace("&#34;", '"'))


def _scale_style() -> str:
    """One class per step of the colour scale, and the gradient of the legend."""
    pairs = list(zip(palette.scale("light"), palette.scale("dark"), strict=True))
    steps = [
        f".swatch.q{step},.matrix tbody td.q{step}{{background:light-dark({light},{dark})}}"
        f".stacked .q{step},.rate .s{step}{{fill:light-dark({light},{dark})}}"
        for step, (light, dark) in enumerate(pairs)
    ]
    gradient = ",".join(f"light-dark({light},{dark})" for light, dark in pairs)
    text = f":root{{--on-scale:light-dark({palette.TEXT['light']},{palette.TEXT['dark']})}}"
    return "\n".join(
        [text, *steps, f".ramp{{background:linear-gradient(to right,{gradient})}}", ""]
    )


def _number(words: Words, value: float, places: int | None = None) -> str:
    return words.number(value, places)


def _span(ranks: tuple[int, int] | None) -> Markup:
    """A rank's interval, below the rank."""
    if ranks is None:
        return Markup("")
    text = str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"
    return Markup(' <i title="95 % of resampled seeds and samples">{}</i>').format(text)


def _when(started: str, finished: str | None) -> str:
    """``2026-11-21 09:00 to 09:11 UTC``; what is no ISO time is left unchanged."""
    try:
        begin = datetime.fromisoformat(started)
        end = datetime.fromisoformat(finished) if finished else None
    except ValueError:
        return f"{started} to {finished}" if finished else f"{started} (not finished)"
    zone = f" {begin.tzname()}" if begin.tzinfo else ""
    if end is None:
        return f"{begin:%Y-%m-%d %H:%M}{zone} (not finished)"
    return (
        f"{begin:%Y-%m-%d %H:%M} to {end:%H:%M}{zone}"
        if begin.date() == end.date()
        else f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}{zone}"
    )


@lru_cache(maxsize=4096, typed=True)  # markup is no text
def _plain(text: str) -> Markup:
    """A plugin's label as name and parameters, so that the parameters can be set smaller and
    wrap.
    """
    name, bracket, rest = text.partition("(")
    if not bracket or not rest.endswith(")"):
        return Markup('<span class="plugin">{}</span>').format(_soft(text))
    return Markup('<span class="plugin">{}</span> <span class="params">{}</span>').format(
        _soft(name), _soft(rest[:-1])
    )


@lru_cache(maxsize=4096, typed=True)  # markup is no text
def _soft(text: str) -> Markup:
    """Lets a long label break after its punctuation instead of inside a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[(_=])", text))
