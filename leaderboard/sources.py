"""Several stores and results folders on one board.

Numbers of other protocols stand on boards of their own. Where two sources hold one cell of one
protocol, the one named first is shown, and if the other says something else, a line of its run says
so: nobody's numbers take another's place unseen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from bench.record import Metric, PluginSpec, Record, Run
from bench.results import read_source
from bench.text import one_line
from leaderboard.board import by_weight, identity, label


def read_sources(paths: Sequence[Path]) -> list[Run]:
    """The runs of all sources, the first one named counting most. Raises ``UserError`` for a path
    that is neither a store nor results.
    """
    different = list({path.resolve(): path for path in reversed(paths)}.values())[::-1]
    runs = [
        dataclasses.replace(
            run,
            source=one_line(str(path), 200) if len(different) > 1 else "",
            precedence=len(different) - order,
        )
        for order, path in enumerate(different)
        for run in read_source(path)
    ]
    return compared(runs)


def compared(runs: Sequence[Run]) -> list[Run]:
    """The runs, each with a line among its problems for every other run that holds other numbers
    for some of its cells and is shown in its place.
    """
    winners: dict[str, tuple[Run, Record]] = {}
    lines: dict[int, list[str]] = {}
    for run in sorted(runs, key=by_weight, reverse=True):
        differing: dict[int, tuple[Run, list[tuple[Record, str]]]] = {}
        for _, record in run.records:
            winner, other = winners.setdefault(_cell(record), (run, record))
            if text := _difference(record, other):
                _, records = differing.setdefault(id(winner), (winner, []))
                records.append((record, text))
        lines[id(run)] = [_line(run, *one) for one in differing.values()]
    return [
        dataclasses.replace(run, problems=(*run.problems, *lines[id(run)]))
        if lines[id(run)]
        else run
        for run in runs
    ]


def _cell(record: Record) -> str:
    specs = (record.testbed, record.attack, record.probe, record.sampler, record.defense)
    names = [identity(spec) if spec else None for spec in specs]
    return json.dumps([record.protocol, names, list(record.seeds) or record.seed])


def _difference(record: Record, other: Record) -> str:
    """The first number, by name, that two records of a cell do not agree in; empty if there is
    none.
    """
    if record.status != other.status:
        return f"{record.status}, there {other.status}"
    for name in sorted(record.metrics.keys() | other.metrics.keys()):
        mine, theirs = record.metrics.get(name), other.metrics.get(name)
        if _numbers(mine) != _numbers(theirs):
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
