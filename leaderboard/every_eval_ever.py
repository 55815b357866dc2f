"""A board's cells as records of Every Eval Ever, the shared schema for results of evaluations
(github.com/evaleval/every_eval_ever, schema 0.3.0, MIT): one JSON file a cell.

The model that is evaluated is the generator under an attack and a defense. It is not published, so
its name leads to no weights; how to make it again is in the record's details.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime

from leaderboard.board import Board, Cell
from leaderboard.labels import label
from leaderboard.scores import Score, finished, named, scored

SCHEMA = "0.3.0"
_NAME = "castlewalls"
#: Rounding that a metric's range allows for is no part of the range.
_PLACES = 5


def files(boards: Iterable[Board]) -> dict[str, str]:
    """File below the folder of an evaluation, as its store has them -> JSON."""
    made = {}
    for board in boards:
        for cell, scores in scored(board):
            record = _record(board, cell, scores)
            text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
            made[f"data/{_NAME}/{_model(board, cell)}.json"] = text + "\n"
    return made


def _model(board: Board, cell: Cell) -> str:
    return f"{_NAME}/{board.id.removeprefix('board-')}/{cell.id}"


def _record(board: Board, cell: Cell, scores: list[Score]) -> dict[str, object]:
    stamp = _epoch(finished(cell))
    model = _model(board, cell)
    suites = sorted({entry.run.suite for entry in cell.entries})
    version = {str(record.provenance.get("castlewalls", "unknown")) for record in cell.records()}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{_NAME}/{model}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "castlewalls leaderboard",
            # Means over seeds, and no outputs of single samples.
            "source_type": "documentation",
            "source_organization_name": _NAME,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {
            "name": _NAME,
            "version": ", ".join(sorted(version)),
            "additional_details": {"protocol": board.protocol, "suites": ", ".join(suites)},
        },
        "model_info": {
            "name": named(board, cell),
            "id": model,
            "developer": _NAME,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "attack": json.dumps([cell.attack.name, cell.attack.params], sort_keys=True),
                "defense": json.dumps([cell.defense.name, cell.defense.params], sort_keys=True),
                "defense_family": cell.kind,
            },
        },
        "evaluation_results": [_result(board, score) for score in scores],
    }


def _result(board: Board, score: Score) -> dict[str, object]:
    interval, words = score.interval, score.words
    uncertainty: dict[str, object] = {"num_samples": interval.n}
    if interval.low is not None and interval.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": interval.low,
            "upper": interval.high,
            "confidence_level": 0.95,
            "method": "over seeds, as castlewalls' docs/intervals.md says",
        }
    return {
        "evaluation_result_id": score.metric,
        "evaluation_name": words.label or score.metric,
        "source_data": {"dataset_name": label(board.testbed), "source_type": "other"},
        "metric_config": {
            "evaluation_description": words.sentence or words.label or score.metric,
            "metric_id": f"{_NAME}.{score.metric}",
            "metric_name": score.metric,
            "metric_kind": score.metric.partition("[")[0],
            "metric_unit": words.declared.unit or "none",
            "lower_is_better": not score.higher_is_better,
            "score_type": "continuous",
            "min_score": _end(score.low),
            "max_score": _end(score.high),
        },
        "score_details": {
            "score": interval.mean,
            "uncertainty": uncertainty,
            "details": {
                "mean_over_seeds": json.dumps(sorted(score.values)),
                "by_seed": json.dumps([score.values[seed] for seed in sorted(score.values)]),
                "samples_per_seed": str(score.samples or "unknown"),
                "flags": "; ".join(score.flags),
            },
        },
    }


def _end(bound: float) -> float | str:
    if math.isinf(bound):
        return "Infinity" if bound > 0 else "-Infinity"
    return round(bound, _PLACES) + 0.0


def _epoch(time: str) -> str:
    """Seconds since 1970, as the schema has times; 0 for what is no time."""
    try:
        return str(int(datetime.fromisoformat(time).timestamp()))
    except ValueError:
        return "0"
