"""A board's cells as Hugging Face evaluation results: one YAML file a cell, for the folder
``.eval_results`` of a model's repository (huggingface.co/docs/hub/eval-results).

They name a data set of the hub that is registered as this benchmark; whoever exports says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from bench.errors import UserError
from leaderboard import names
from leaderboard.board import Board, Cell
from leaderboard.scores import Score, finished, named, scored

_DATASET = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def files(boards: Iterable[Board], dataset: str) -> dict[str, str]:
    """``<cell>/.eval_results/castlewalls.yaml`` -> YAML, of the metrics that the board ranks by.
    ``dataset``: ``owner/name``. Raises :class:`UserError` for another form.
    """
    if not _DATASET.fullmatch(dataset):
        raise UserError(f"--dataset must be owner/name of a data set of the hub, got {dataset!r}")
    made = {}
    for board in boards:
        for cell, scores in scored(board):
            entries = [
                _entry(board, cell, score, dataset)
                for score in scores
                if names.ranked(score.metric)
            ]
            if entries:
                text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
                folder = f"{board.id.removeprefix('board-')}/{cell.id}"
                made[f"{folder}/.eval_results/castlewalls.yaml"] = text
    return made


def _entry(board: Board, cell: Cell, score: Score, dataset: str) -> dict[str, object]:
    interval = score.interval
    ends = (
        f"95 % interval {interval.low:.6g} to {interval.high:.6g}"
        if interval.low is not None and interval.high is not None
        else "no interval"
    )
    direction = "higher" if score.higher_is_better else "lower"
    notes = [
        named(board, cell),
        f"mean over {interval.n} seeds, {ends}",
        f"{direction} is better for the defender",
        f"protocol {board.protocol[:16] or 'not recorded'}",
        *score.flags,
    ]
    entry: dict[str, object] = {
        "dataset": {"id": dataset, "task_id": _task(board, score.metric)},
        "value": interval.mean,
    }
    if when := finished(cell):
        entry["date"] = when
    return entry | {"notes": "; ".join(notes)}


def _task(board: Board, metric: str) -> str:
    """The testbed and the metric, in the letters that a task's name may have."""
    return re.sub(r"[^a-z0-9_]+", "-", f"{board.testbed.name}-{metric}".lower()).strip("-")
