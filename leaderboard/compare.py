"""Two boards, or two of a board's entries, cell by cell: paired differences with their intervals.

Cells of one seed share their noise, so a difference is taken seed by seed, and sample by sample
where both sides' outcomes are known; intervals are the board's own. Numbers of two protocols are
not of one thing, and are not compared unless that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from lzma import LZMAError
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as BadStream

from bench.errors import UserError
from bench.names import nearest, unknown_name
from bench.record import Record, Run
from bench.results import read_source
from bench.text import one_line
from leaderboard import names
from leaderboard.aggregate import (
    Interval,
    paired_difference,
    sample_pairs,
    share_difference,
    significant,
)
from leaderboard.board import Board, Cell, Identity, boards, identity, under
from leaderboard.labels import label
from leaderboard.matrix import is_share, metric_names, summary
from leaderboard.scores import directed
from leaderboard.sources import compared

#: Bytes of a board's JSON.
MAX_BOARD = 256 * 2**20
#: What reading a broken archive raises.
_BROKEN = (BadZipFile, BadStream, LZMAError, EOFError)
#: Entries that an error lists.
MOST_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one pair of cells, ``second`` less ``first``. ``seeds``: those that both have;
    ``better``: whether the second is better for the defender beyond doubt (at least three seeds,
    and an interval without 0), ``None`` if that is not shown.
    """

    testbed: str
    attack: str
    defense: str
    metric: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    seeds: int
    higher_is_better: bool | None
    better: bool | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``differences``: in the order of the boards; ``alone``: cells that only one side has, and
    ``protocols``: boards that the sides have under different protocols, a line each; ``equal``:
    pairs of numbers that are the same to the last digit; ``problems``: what of a side could not be
    read or contradicts itself, a line each.
    """

    first: str
    second: str
    differences: tuple[Difference, ...]
    alone: tuple[str, ...]
    protocols: tuple[str, ...]
    equal: int
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": 1, **asdict(self)}


@dataclass(frozen=True)
class Side:
    """One of the two. ``entry``: the only defense that counts, empty for all; ``problems``: of its
    runs.
    """

    name: str
    boards: tuple[Board, ...]
    entry: str = ""
    problems: tuple[str, ...] = ()


def read_side(text: str, within: Sequence[Run] = ()) -> Side:
    """A store, a folder of results, the JSON beside a board or of a site, each also as
    ``SOURCE::ENTRY``, one defense or detector of it; or an entry of ``within`` alone. Raises
    :class:`UserError` for anything else.
    """
    source, _, entry = text.partition("::")
    path = Path(source)
    if path.suffix == ".html" and path.with_suffix(".json").is_file():
        path = path.with_suffix(".json")  # a board: its numbers lie beside it
    if path.exists():
        runs = compared(_board_json(path) if path.is_file() else read_source(path))
        side = Side(text, tuple(boards(runs)), entry)
        side = replace(side, problems=tuple(_problems(runs, _columns(side) if entry else None)))
    elif not entry and within:
        side = Side(text, tuple(boards(within)), text)
    else:
        raise UserError(f"there is no store, results or board at {one_line(source, 200)}")
    if side.entry and not _columns(side):
        known = sorted({label(column) for board in side.boards for column, _ in board.columns})
        hint = nearest(entry or source, known)
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        there = f"{', '.join(known[:MOST_NAMED])}{more}"
        raise UserError(
            f"{one_line(source, 200)} is no source and no entry{hint} (there are {there})"
            if not entry
            else f"{source} has no entry {one_line(entry, 80)}{hint} (it has {there})"
        )
    return side


def compare(
    first: Side, second: Side, metrics: Sequence[str] = (), across_protocols: bool = False
) -> Comparison:
    """``second`` less ``first``, for every cell that both have; of two entries, for every attack
    that both met. ``metrics``: these (a family's name stands for all of it), by default those that
    the board ranks by. Raises :class:`UserError` if the sides have nothing in common.
    """
    one, other = (_cells(side, across_protocols) for side in (first, second))
    known = metric_names([cell for side in (one, other) for _, cell in side.values()])
    for metric in metrics:
        if not any(_chosen(name, [metric]) for name in known):
            families = {names.split(name)[0] for name in known}
            raise unknown_name("metric", metric, families, "--metrics")
    common = [key for key in one if key in other]
    protocols = _other_protocols(first, second) if not across_protocols else ()
    if not common:
        reason = f": {'; '.join(protocols)}" if protocols else ""
        raise UserError(f"{first.name} and {second.name} have no cell in common{reason}")
    differences, equal = list[Difference](), 0
    for key in common:
        (board, mine), (_, theirs) = one[key], other[key]
        for metric in metric_names([mine]):
            if _chosen(metric, metrics) and theirs.values(metric):
                difference = _difference(board, mine, theirs, metric)
                if difference is not None:
                    equal += mine.values(metric) == theirs.values(metric)
                    differences.append(difference)
    return Comparison(
        first=first.name,
        second=second.name,
        differences=tuple(differences),
        alone=tuple(
            f"{side.name} alone has {_named(cells[key][1])}"
            for side, cells, others in ((first, one, other), (second, other, one))
            for key in cells
            if key not in others
        ),
        protocols=tuple(protocols),
        equal=equal,
        problems=tuple(
            f"{side.name}: {line}" for side in (first, second) for line in side.problems
        ),
    )


def lines(comparison: Comparison) -> list[str]:
    """For a terminal: a line each, marked by ``+`` where the second is better for the defender
    beyond doubt, ``-`` where it is worse, ``=`` where neither is shown.
    """
    words = names.RATE
    text = []
    for one in comparison.differences:
        ends = "" if one.low is None or one.high is None else f" [{one.low:+.4g}, {one.high:+.4g}]"
        mark = {True: "+", False: "-", None: "="}[one.better]
        what = f"{one.attack} x {one.defense} {one.metric}"
        text.append(
            f"{mark} {one.difference:+.4g}{ends}  {words.number(one.first, 4)} -> "
            f"{words.number(one.second, 4)}, {one.seeds} seeds  {one.testbed}: {what}"
        )
    count = len(comparison.differences)
    better = sum(one.better is True for one in comparison.differences)
    worse = sum(one.better is False for one in comparison.differences)
    text += [
        *comparison.protocols,
        *comparison.alone,
        f"{count} differences ({comparison.second} less {comparison.first}): {better} better for "
        f"the defender, {worse} worse, {comparison.equal} the same to the last digit",
    ]
    return [one_line(line, 600) for line in text]


def _problems(runs: Sequence[Run], columns: set[Identity] | None) -> Iterator[str]:
    """What could not be read, and how many cells failed, of which a difference has fewer seeds;
    ``columns``: of these alone.
    """
    yield from dict.fromkeys(line for run in runs for line in run.problems)
    failed = [
        one
        for run in runs
        for _, one in run.records
        if one.status == "failed" and (columns is None or identity(one.defense) in columns)
    ]
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        one = failed[0]
        what = f"{label(one.attack)} x {label(one.defense)} seed {one.seed}"
        yield f"{label(one.testbed)} {what} has no numbers: failed, {one.reason}{more}"


def _board_json(path: Path) -> list[Run]:
    """The runs in the JSON that a board's page has beside it."""
    try:
        document = json.loads(_text_of(path))
        if not isinstance(document, Mapping) or document.get("schema") != 1:
            raise ValueError("it is no board's JSON of schema 1")
        return [_run(one) for one in document["runs"]]
    # RuntimeError: JSON that is too deep, an archive with a password or of an unknown method.
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, *_BROKEN) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise UserError(
            f"{path} cannot be read as a board: {one_line(str(reason), 200)}"
        ) from error


def _text_of(path: Path) -> str:
    """Of the file, or of the one that a site has packed in it; ``ValueError`` if it is large."""
    if path.suffix == ".zip":
        with ZipFile(path) as archive:
            names_in_it = archive.namelist()
            if len(names_in_it) != 1:
                raise ValueError(f"it must hold one file, got {len(names_in_it)}")
            with archive.open(names_in_it[0]) as file:
                content = file.read(MAX_BOARD + 1)
    else:
        with path.open("rb") as file:
            content = file.read(MAX_BOARD + 1)
    if len(content) > MAX_BOARD:
        raise ValueError(f"it has more than {MAX_BOARD} bytes")
    return content.decode("utf-8")


def _run(data: Mapping[str, Any]) -> Run:
    records = [(Path(), Record.from_values(one)) for one in data["records"]]
    return Run(
        suite=str(data["suite"]),
        description="",
        started=str(data["started"]),
        finished=str(data["finished"]) if data["finished"] else None,
        counts={},
        records=records,
    )


def _columns(side: Side) -> set[Identity]:
    """The identities of the side's entry: what is called so, by label or name."""
    return {
        identity(column)
        for board in side.boards
        for column, _ in board.columns
        if side.entry in (label(column), column.name)
    }


def _cells(side: Side, across_protocols: bool) -> dict[object, tuple[Board, Cell]]:
    """What is compared under one key: the same cell, or of an entry the same attack's."""
    chosen = _columns(side) if side.entry else None
    if chosen is not None and len(chosen) > 1:
        raise UserError(
            f"{side.entry} is the name of {len(chosen)} entries; say which, with its parameters"
        )
    cells: dict[object, tuple[Board, Cell]] = {}
    for board in side.boards:
        for cell in board.cells.values():
            if (chosen is None or identity(cell.defense) in chosen) and cell.with_status("ok"):
                parts = (cell.attack, cell.probe, cell.sampler)
                key = (
                    identity(board.testbed),
                    "" if across_protocols else board.protocol,
                    *(identity(part) if part else None for part in parts),
                    identity(cell.defense) if chosen is None else None,
                )
                cells[key] = board, cell
    return cells


def _other_protocols(first: Side, second: Side) -> tuple[str, ...]:
    one, other = (
        {(identity(board.testbed), board.protocol): board for board in side.boards}
        for side in (first, second)
    )
    return tuple(
        f"{label(board.testbed)} is under protocol {board.protocol[:12]} in {first.name} and under "
        f"{', '.join(sorted(protocol[:12] for name, protocol in other if name == testbed))} in "
        f"{second.name}: not compared"
        for (testbed, protocol), board in one.items()
        if (testbed, protocol) not in other and testbed in {name for name, _ in other}
    )


def _chosen(metric: str, metrics: Sequence[str]) -> bool:
    if not metrics:
        return names.ranked(metric)
    return metric in metrics or names.split(metric)[0] in metrics


def _difference(board: Board, mine: Cell, theirs: Cell, metric: str) -> Difference | None:
    interval = paired(theirs, mine, metric)
    one, other = _only(mine, theirs, metric), _only(theirs, mine, metric)
    before, after = summary(one, metric), summary(other, metric)
    if interval is None or before is None or after is None:
        return None
    better = directed(board, mine, metric)
    beyond_doubt = significant(interval) and better is not None
    return Difference(
        testbed=label(board.testbed),
        attack=_attack(mine),
        defense=_pair(mine, theirs),
        metric=metric,
        first=before.mean,
        second=after.mean,
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        seeds=interval.n,
        higher_is_better=better,
        better=(interval.mean > 0) == better if beyond_doubt else None,
    )


def paired(one: Cell, other: Cell, metric: str) -> Interval | None:
    """``one`` less ``other`` over the seeds of both; ``None`` if they share none."""
    if not (is_share(one, metric) and is_share(other, metric)):
        return paired_difference(one.values(metric), other.values(metric))
    pairs = sample_pairs(one.outcomes(metric), other.outcomes(metric))
    return share_difference(one.shares(metric), other.shares(metric), pairs)


def _only(cell: Cell, other: Cell, metric: str) -> Cell:
    """The cell with the seeds in which both have the metric."""
    seeds = cell.values(metric).keys() & other.values(metric).keys()
    entries = tuple(entry for entry in cell.entries if entry.record.seed in seeds)
    return replace(cell, entries=entries)


def _attack(cell: Cell) -> str:
    tried = f", tried with {label(cell.probe)}" if cell.probe else ""
    attack = "no attack" if cell.attack.name == "none" else label(cell.attack)
    return f"{attack}{tried}{under(cell.sampler)}"


def _pair(mine: Cell, theirs: Cell) -> str:
    one, other = label(mine.defense), label(theirs.defense)
    return one if one == other else f"{other} less {one}"


def _named(cell: Cell) -> str:
    return f"{_attack(cell)} x {label(cell.defense)}"
