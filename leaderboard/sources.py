"""Several stores, results folders and bundles on one board.

Numbers of other protocols stand on boards of their own. Where two sources hold one cell of one
protocol, the one named first is shown, bundles after all others, and if the other says something
else, a line of its run says so: nobody's numbers take another's place unseen. Where it says as good
as the same, as of two machines that round otherwise, its note does. A submitted column
that another source holds too, of other code or with other numbers, stands beside it under a name
with the bundle's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.record import Metric, PluginSpec, Record, Run, methods_of
from bench.results import Submitted, read_source
from bench.text import one_line
from bench.words import MethodWords
from leaderboard import methods
from leaderboard.board import by_weight, identity
from leaderboard.labels import label

#: Of a number's interval, or of the number if it has none: what two machines may differ by.
ROUNDING = 0.01, 1e-3

#: Of bundles, by folder, to which level somebody has verified them, or why they were refused.
Levels = Mapping[Path, int | str]


def read_sources(paths: Sequence[Path], levels: Levels | None = None) -> list[Run]:
    """The runs of all sources, the first one named counting most. ``levels``: of bundles; of one
    that was refused only the reason is kept. Raises ``UserError`` for a path that is no source.
    """
    named: dict[Path, Path] = {}
    for path in paths:
        named.setdefault(path.resolve(), path)
    different = list(named.values())
    own: list[Run] = []
    bundles: list[Run] = []
    for order, path in enumerate(different):
        source = one_line(str(path), 200) if len(different) > 1 else ""
        for run in read_source(path):
            run = dataclasses.replace(run, source=source, precedence=len(different) - order)
            if isinstance(run, Submitted):
                level = (levels or {}).get(run.folder.resolve(), 0)
                bundles.append(_of_level(run, level, -len(bundles)))
            else:
                own.append(run)
    return compared(_apart([*own, *bundles]))


def _of_level(run: Submitted, level: int | str, precedence: int) -> Run:
    """A bundle's run as it may be shown. What nobody has verified stands on a board of its own,
    whatever protocol it claims.
    """
    if isinstance(level, str):
        problem = f"bundle {run.bundle} is refused and not shown: {level}"
        return Run.unreadable(run.bundle, one_line(problem, 600))
    note = f"Submitted as the bundle {run.bundle}, verified to level {level} of 3. {run.note}"
    records = run.records
    if level == 0:
        records = [
            (folder, dataclasses.replace(record, protocol=f"level0-{record.protocol}"))
            for folder, record in records
        ]
    return dataclasses.replace(run, records=records, note=note, precedence=precedence, level=level)


def _apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, with every submitted column renamed that is not the one of its name before it."""
    cells = [{_cell(record): record for _, record in run.records} for run in runs]
    names = {record.defense.name for held in cells for record in held.values()}
    apart: list[Run] = []
    for number, run in enumerate(runs):
        if not isinstance(run, Submitted) or not any(
            _clash(run, cells[number], runs[before], cells[before]) for before in range(number)
        ):
            apart.append(run)
            continue
        stem = name = f"{run.column}@{run.bundle}".replace(" ", "")
        while name in names:
            name = f"{stem}.{len(names)}"
        names.add(name)
        records = [(folder, _renamed(record, run.column, name)) for folder, record in run.records]
        line = f"{run.column} of bundle {run.bundle} is shown as {name}, beside another of its name"
        apart.append(
            dataclasses.replace(
                run,
                records=records,
                methods=(*run.methods, *_words(run, name)),
                problems=(*run.problems, one_line(line, 400)),
            )
        )
    return apart


def _words(run: Submitted, name: str) -> tuple[MethodWords, ...]:
    """What the run says of its column, under the column's new ``name``."""
    words = methods.described([run])
    needs = methods.all_needs(run.column, words)
    if needs is None:
        return ()
    sentences = words[run.column].sentences if run.column in words else ()
    made = {"name": name, "sentences": [*sentences], "alters": [], "needs": sorted(needs)}
    return methods_of([made])


def _clash(
    run: Submitted, mine: Mapping[str, Record], other: Run, theirs: Mapping[str, Record]
) -> bool:
    """Whether a submitted column is not the one of its name in ``other``: of other code, or where
    the code is not known, or is the same, with other numbers.
    """
    column = {name: one for name, one in theirs.items() if one.defense.name == run.column}
    if not column:
        return False
    if isinstance(other, Submitted) and other.column == run.column and other.version != run.version:
        return True
    common = column.keys() & mine.keys()
    if any(_difference(mine[name], column[name]) for name in common):
        return True
    boards = {one.protocol for one in mine.values()} & {one.protocol for one in column.values()}
    return not isinstance(other, Submitted) and bool(boards) and not common


def _renamed(record: Record, column: str, name: str) -> Record:
    if record.defense.name != column:
        return record
    spec, label_ = record.defense, record.defense.label
    label_ = name + label_[len(column) :] if label_.startswith(f"{column}(") else name
    pictures = tuple(
        dataclasses.replace(one, treatment=name) if one.treatment == column else one
        for one in record.pictures
    )
    renamed = dataclasses.replace(spec, name=name, label=label_)
    return dataclasses.replace(record, defense=renamed, pictures=pictures)


def compared(runs: Sequence[Run]) -> list[Run]:
    """The runs, each with a line among its problems for every other run that holds other numbers
    for some of its cells and is shown in its place, and with a sentence in its note on all that
    hold as good as the same ones.
    """
    winners: dict[str, tuple[Run, Record]] = {}
    after: dict[int, Run] = {}
    for run in sorted(runs, key=by_weight, reverse=True):
        differing: dict[int, tuple[Run, list[tuple[Record, str]]]] = {}
        alike: dict[str, int] = {}
        for _, record in run.records:
            winner, other = winners.setdefault(_cell(record), (run, record))
            if not _difference(record, other):
                continue
            if text := _difference(record, other, rounded=True):
                _, records = differing.setdefault(id(winner), (winner, []))
                records.append((record, text))
            else:
                alike[_where(winner)] = alike.get(_where(winner), 0) + 1
        lines = [_line(run, *one) for one in differing.values()]
        after[id(run)] = dataclasses.replace(
            run, problems=(*run.problems, *lines), note=f"{run.note} {_note(alike)}".strip()
        )
    return [after[id(run)] for run in runs]


def _note(alike: Mapping[str, int]) -> str:
    """``alike``: how many cells are shown as another has them, by its name."""
    if not alike:
        return ""
    shares = ", ".join(f"{count} of {where}" for where, count in alike.items())
    return (
        f"Cells shown as others hold them, {shares}: within a hundredth of the intervals, as "
        "another machine rounds, or with numbers that only one has."
    )


def _alike(mine: Metric | None, theirs: Metric | None) -> bool:
    """Whether two numbers differ by no more than :data:`ROUNDING`, or only one is there."""
    if mine is None or theirs is None:
        return True
    share, relative = ROUNDING
    spread = max(_width(mine), _width(theirs))
    for one, two in zip(_numbers(mine), _numbers(theirs), strict=True):
        if one != two:
            if one is None or two is None:
                return False
            if not abs(one - two) <= (share * spread or relative * max(abs(one), abs(two))):
                return False
    return True


def _width(metric: Metric) -> float:
    if metric.ci_low is None or metric.ci_high is None:
        return 0.0
    return metric.ci_high - metric.ci_low


def _cell(record: Record) -> str:
    specs = (record.testbed, record.attack, record.probe, record.sampler, record.defense)
    names = [identity(spec) if spec else None for spec in specs]
    return json.dumps([record.protocol, names, list(record.seeds) or record.seed])


def _difference(record: Record, other: Record, *, rounded: bool = False) -> str:
    """The first number, by name, that two records of a cell do not agree in; empty if there is
    none. ``rounded``: of those that are not :func:`_alike`.
    """
    if record.status != other.status:
        return f"{record.status}, there {other.status}"
    for name in sorted(record.metrics.keys() | other.metrics.keys()):
        mine, theirs = record.metrics.get(name), other.metrics.get(name)
        if _numbers(mine) != _numbers(theirs) and not (rounded and _alike(mine, theirs)):
            values = [
                "absent" if metric is None or metric.value is None else f"{metric.value:.6g}"
                for metric in (mine, theirs)
            ]
            words = (
                f"{values[0]}, there {values[1]}"
                if values[0] != values[1]
                else f"{values[0]} with other digits or another interval"
            )
            return f"{name} {words}"
    return ""


def _numbers(metric: Metric | None) -> tuple[float | None, ...]:
    return (metric.value, metric.ci_low, metric.ci_high) if metric else ()


def _line(run: Run, winner: Run, records: Sequence[tuple[Record, str]]) -> str:
    record, text = records[0]
    what = " x ".join(label(spec) for spec in _named(record))
    cells = "1 cell has" if len(records) == 1 else f"{len(records)} cells have"
    return one_line(
        f"{run.suite}: {cells} other numbers than in {_where(winner)}, which is shown; "
        f"the first: {what}, seed {record.seed}: {text}",
        600,
    )


def _named(record: Record) -> list[PluginSpec]:
    specs = (record.testbed, record.attack, record.sampler, record.defense)
    return [spec for spec in specs if spec]


def _where(run: Run) -> str:
    return f"{run.suite} of {run.source}" if run.source else run.suite
