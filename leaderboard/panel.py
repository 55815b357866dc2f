"""What a cell's panel shows: pictures from the same noise, curves, every number per seed, cost,
what was not measured, the command that makes it anew, parameters, provenance, and why it failed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.record import Metric
from bench.words import COST
from leaderboard import beside
from leaderboard.beside import Beside
from leaderboard.board import Cell, Entry
from leaderboard.commands import Command, commands
from leaderboard.compositions import Composition
from leaderboard.contrasts import SeedPictures, pictures_by_seed
from leaderboard.detections import Detection
from leaderboard.flat import agreed, cut_block
from leaderboard.inversions import InversionLine
from leaderboard.matrix import interval_text, metric_names, summary
from leaderboard.names import Words
from leaderboard.sound import LABEL, cut

if TYPE_CHECKING:
    from leaderboard.view import BoardView


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The cell's line among the board's detectors, inversions and compositions, where it has
    one.
    """

    detection: Detection | None
    inversion: InversionLine | None
    composition: Composition | None


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """One metric: over the seeds, then per seed as (value, interval within the seed, samples)."""

    words: Words
    mean: str
    interval: str
    seeds: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """``pictures``: by seed; ``evidence``: what stands in a section of its own elsewhere, drawn
    here; ``published``: what papers printed for the same, with its sources; ``cost``: (name, mean
    over seeds, interval); ``absent``: (reason, metrics); ``problems``: (status, reason, seeds that
    have it); ``provenance``: (key, value) where all seeds agree, else the key once a seed.
    """

    cell: Cell
    pictures: tuple[SeedPictures, ...]
    evidence: Evidence
    cost: tuple[tuple[str, str, str], ...]
    absent: tuple[tuple[str, tuple[str, ...]], ...]
    commands: tuple[Command, ...]
    metrics: tuple[MetricLine, ...]
    params: tuple[tuple[str, str, str], ...]
    problems: tuple[tuple[str, str, tuple[Entry, ...]], ...]
    provenance: tuple[tuple[str, str], ...]
    published: tuple[tuple[Beside, str], ...]


def panel(cell: Cell, view: BoardView) -> Panel:
    """Everything a reader needs to check one cell of the board in ``view``."""
    sampler = cell.entries[0].record.sampler
    roles = (
        ("attack", cell.attack),
        ("probe", cell.probe),
        ("sampler", sampler),
        ("defense", cell.defense),
    )
    return Panel(
        cell=cell,
        pictures=pictures_by_seed(view.board, cell),
        evidence=_evidence(cell, view),
        cost=_cost(cell),
        absent=_absent(cell),
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
        provenance=tuple(
            agreed((entry.record.seed, entry.record.provenance) for entry in cell.entries)
        ),
        published=beside.of_cell(cell),
    )


def _evidence(cell: Cell, view: BoardView) -> Evidence:
    detections = (line for detector in view.detectors for line in detector.lines)
    composed = (line for _, lines in view.compositions for line in lines)
    return Evidence(
        detection=next((line for line in detections if line.cell.id == cell.id), None),
        inversion=next((line for line in view.inversions if line.cell.id == cell.id), None),
        composition=next((line for line in composed if line.cell.id == cell.id), None),
    )


def _cost(cell: Cell) -> tuple[tuple[str, str, str], ...]:
    lines = []
    for name in metric_names([cell]):
        words, interval = cell.words(name), summary(cell, name)
        if words.group == COST and interval:
            texts = words.number(interval.mean), interval_text(words, interval)
            lines.append((words.label, *texts))
    return tuple(lines)


def _absent(cell: Cell) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reason -> the metrics that no seed has for it, most of them first."""
    by_reason: dict[str, set[str]] = {}
    for record in cell.records():
        for name, reason in record.absent.items():
            by_reason.setdefault(reason, set()).add(name)
    lines = [(reason, tuple(sorted(names))) for reason, names in by_reason.items()]
    return tuple(sorted(lines, key=lambda line: (-len(line[1]), line[0])))


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
    interval, words = summary(cell, name), cell.words(name)
    metrics = (entry.numbers.get(name) for entry in cell.entries)
    return MetricLine(
        words=words,
        mean=words.number(interval.mean) if interval else "–",
        interval=interval_text(words, interval) if interval else "",
        seeds=tuple(_seed(words, metric) for metric in metrics),
    )


def _seed(words: Words, metric: Metric | None) -> tuple[str, str, str]:
    if metric is None or metric.value is None:
        return "–", "", ""
    interval = ""
    if metric.ci_low is not None and metric.ci_high is not None:
        places = words.decimals_for(metric.value)
        ends = (words.number(metric.ci_low, places), words.number(metric.ci_high, places))
        interval = f"[{', '.join(ends)}]"
    return words.number(metric.value), interval, "" if metric.n is None else f"n = {metric.n}"
