"""What other formats take from a board: of each cell, the numbers that have a direction, as means
over seeds with the board's own intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leaderboard.aggregate import Interval
from leaderboard.board import Board, Cell, under
from leaderboard.labels import label
from leaderboard.matrix import concerning, direction, metric_names, summary
from leaderboard.names import Words
from leaderboard.values import samples_of


@dataclass(frozen=True)
class Score:
    """One metric of one cell. ``values``: by seed; ``samples``: behind the smallest of them, 0 if
    no record says; ``flags``: about it.
    """

    metric: str
    words: Words
    interval: Interval
    higher_is_better: bool
    low: float
    high: float
    values: dict[int, float]
    samples: int
    flags: tuple[str, ...]


def scored(board: Board) -> Iterator[tuple[Cell, list[Score]]]:
    """Every cell of the matrix that has a number with a direction, controls among them."""
    for cell in board.cells.values():
        scores = [score for name in metric_names([cell]) if (score := _score(board, cell, name))]
        if scores:
            yield cell, scores


def _score(board: Board, cell: Cell, metric: str) -> Score | None:
    interval, (low, high, better) = summary(cell, metric), board.names.rule(metric)
    better = direction([cell], metric) if better is None else better
    if interval is None or better is None or metric.startswith("cost["):
        return None
    return Score(
        metric=metric,
        words=cell.words(metric),
        interval=interval,
        higher_is_better=better,
        low=low,
        high=high,
        values=cell.values(metric),
        samples=samples_of(cell, metric),
        flags=tuple(sorted({flag.line for flag in concerning(cell, metric)})),
    )


def named(board: Board, cell: Cell) -> str:
    """What was measured, in a line."""
    attack = label(cell.attack)
    if cell.probe is not None:
        attack = f"no attack, tried with {label(cell.probe)}"
    defense = "no defense" if cell.defense.name == "none" else label(cell.defense)
    return f"{label(board.testbed)}{under(cell.sampler)}: {attack} against {defense}"


def finished(cell: Cell) -> str:
    """When the last run of its records ended, ISO 8601; empty if nobody says."""
    return max(entry.run.finished or entry.run.started for entry in cell.entries)
