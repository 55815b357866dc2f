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
from leaderboard.names import Words, split
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


#: What says how much was found: good when there is something to find.
_DETECTION = frozenset({"auroc", "tpr_at_1_fpr", "tpr_at_5_fpr", "tpr_fixed_threshold"})
_RECOVERED = frozenset(
    f"{what}_mse_{epoch}" for what in ("trigger", "inversion") for epoch in ("best", "last")
) | {"trigger_cosine"}
#: What an honest model leaves without a trigger; starting noise has it whatever the model.
_OF_THE_MODEL = ("training set", "generated")


def directed(board: Board, cell: Cell, metric: str) -> bool | None:
    """Whether higher is better for the defender in this cell; ``None`` if neither is, or nobody
    says. A control has nothing to find or to recover.
    """
    family, subject = split(metric)
    honest = cell.attack.name == "none"
    if family in _DETECTION and (subject == "clean" or (honest and subject in _OF_THE_MODEL)):
        return None
    if family in _RECOVERED and honest:
        return None
    better = board.names.rule(metric)[2]
    return direction([cell], metric) if better is None else better


def scored(board: Board) -> Iterator[tuple[Cell, list[Score]]]:
    """Every cell of the matrix that has a number with a direction, controls among them."""
    for cell in board.cells.values():
        scores = [score for name in metric_names([cell]) if (score := _score(board, cell, name))]
        if scores:
            yield cell, scores


def _score(board: Board, cell: Cell, metric: str) -> Score | None:
    interval, (low, high, _) = summary(cell, metric), board.names.rule(metric)
    better = directed(board, cell, metric)
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
