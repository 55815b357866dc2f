"""What a cell's panel shows: pictures from the same noise, curves, every number per seed, cost,
what was not measured, the command that makes it anew, parameters, provenance, and why it failed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.record import Metric
from bench.words import COST
from leaderboard import beside
from leaderboard.absent import by_reason
from leaderboard.aggregate import Interval
from leaderboard.beside import Beside
from leaderboard.board import Cell, Entry
from leaderboard.commands import Command, commands
from leaderboard.compositions import Composition
from leaderboard.contrasts import SeedPictures, pictures_by_seed
from leaderboard.detections import Detection
from leaderboard.flat import agreed, cut_block
from leaderboard.inversions import InversionLine
from leaderboard.matrix import metric_names, value_of
from leaderboard.names import Words
from leaderboard.sound import LABEL, cut
from leaderboard.values import NO_VALUE, Value, interval_text

if TYPE_CHECKING:
    from leaderboard.view import BoardView


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The cell's line among the board's detectors, inversions and compositions, where it has
    one.
    """

    detection: Detection | None
    inversions: Sequence[InversionLine]
    composition: Composition | None


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """One metric: over the seeds, then in each of them with the interval within the seed and its
    samples, which are left out where all seeds have as many.
    """

    words: Words
    mean: Value
    seeds: tuple[Value, ...]

    @property
    def cost(self) -> bool:
        """Whether it is a cost, and no result."""
        return self.words.group == COST


@dataclass(frozen=True, kw_only=True)
class Panel:
    """``board``: its id; ``pictures``: by seed; ``evidence``: what stands in a section of its own
    elsewhere, drawn here; ``published``: what papers printed for the same, with its sources;
    ``absent``: (reason, metrics), but for those, ``absent_everywhere`` in number, that no cell of
    the testbed has; ``problems``: (status, reason, seeds that have it); ``provenance``: (key,
    value) where all seeds agree, else the key once a seed; ``shared``: how many more there are,
    which all records of the page have alike.
    """

    cell: Cell
    board: str
    pictures: tuple[SeedPictures, ...]
    evidence: Evidence
    absent: tuple[tuple[str, tuple[str, ...]], ...]
    absent_everywhere: int
    commands: tuple[Command, ...]
    metrics: tuple[MetricLine, ...]
    params: tuple[tuple[str, str, str], ...]
    problems: tuple[tuple[str, str, tuple[Entry, ...]], ...]
    provenance: tuple[tuple[str, str], ...]
    shared: int
    published: tuple[tuple[Beside, str], ...]


def panel(cell: Cell, view: BoardView, shared: Collection[tuple[str, str]] = ()) -> Panel:
    """Everything a reader needs to check one cell of the board in ``view``. ``shared``: of the
    provenance, what stands once for the whole page.
    """
    lines = agreed((entry.record.seed, entry.record.provenance) for entry in cell.entries)
    own = tuple(line for line in lines if line not in shared)
    sampler = cell.entries[0].record.sampler
    roles = (
        ("attack", cell.attack),
        ("probe", cell.probe),
        ("sampler", sampler),
        ("defense", cell.defense),
    )
    own_absent = by_reason(cell.absences - view.absent)
    return Panel(
        cell=cell,
        board=view.board.id,
        pictures=pictures_by_seed(view.board, cell),
        evidence=_evidence(cell, view),
        absent=own_absent,
        commands=commands(cell),
        metrics=tuple(_line(cell, name) for name in metric_names([cell])),
        params=tuple(
            (
                role,
                cut(spec.name, LABEL),
                cut_block(json.dumps(spec.params, sort_keys=True, indent=1, ensure_ascii=False)),
            )
            for role, spec in roles
            if spec
        ),
        problems=_problems(cell),
        provenance=own,
        shared=len(lines) - len(own),
        absent_everywhere=len(cell.absences & view.absent),
        published=beside.of_cell(cell),
    )


def _evidence(cell: Cell, view: BoardView) -> Evidence:
    return Evidence(
        detection=view.detection_of.get(cell.id),
        inversions=view.inversions_of.get(cell.id, []),
        composition=view.composition_of.get(cell.id),
    )


def _problems(cell: Cell) -> tuple[tuple[str, str, tuple[Entry, ...]], ...]:
    by_problem: dict[tuple[str, str], list[Entry]] = {}
    for entry in cell.entries:
        if entry.record.status != "ok":
            by_problem.setdefault(
                (entry.record.status, entry.record.reason or "no reason recorded"), []
            ).append(entry)
    return tuple(
        (status, reason, tuple(entries)) for (status, reason), entries in by_problem.items()
    )


def _line(cell: Cell, name: str) -> MetricLine:
    words, mean = cell.words(name), value_of(cell, name, "")
    seeds = tuple(_seed(words, entry.numbers.get(name)) for entry in cell.entries)
    alike = len({one.n for one in seeds if one != NO_VALUE}) < 2
    return MetricLine(
        words=words,
        mean=mean if alike else mean._replace(n=mean.n.partition(" ")[0]),
        seeds=tuple(one._replace(n="") for one in seeds) if alike else seeds,
    )


def _seed(words: Words, metric: Metric | None) -> Value:
    if metric is None or metric.value is None:
        return NO_VALUE
    within = Interval(metric.value, metric.ci_low, metric.ci_high, 1)
    count = f"{metric.n:,}" if metric.n else ""
    return Value(words.number(metric.value), interval_text(words, within), count)
