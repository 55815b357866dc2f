"""A detector's scores of what it judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.arrays import save_scores
from bench.artefacts.images import Remarks, ignore_remark
from bench.artefacts.judged import POOL, load_judged
from bench.contracts.detector import Detector
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import again, border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The scores of a pool in one call: a row's score does not depend on the others, and what a
    detector prepares it prepares once. Without a pool it is the suspected model that is judged.
    """
    testbed = testbed_of(params)
    detector = plugin_of("detectors", params["defense"], Detector)
    generator = generator_of(testbed, inputs, context) if "generator" in inputs else None
    rows = load_judged(inputs["judged"]).all() if "judged" in inputs else None
    calls, remarks = 0, Remarks()

    def score(chosen: Tensor, remark: Callable[[str], None] = ignore_remark) -> Tensor:
        nonlocal calls
        handed = None if generator is None else generator.clone()  # free to modify
        access = access_of(detector, testbed, handed, inputs, params, context, remark)
        subject = handed if rows is None else border.chosen(rows, chosen)
        scores = border.scores(detector, detector.score(subject, access), len(chosen))
        calls += 0 if handed is None else handed.calls
        return scores

    scores = score(torch.arange(1 if rows is None else len(rows)), remarks)
    counted = float(calls)  # what the harness asks again is no cost of the detector's
    remarks.save(out)
    # One row alone: some detectors train a network on every call.
    odd = again.compare(score, len(scores), scores, rows=1)
    doubts.save(out, [*doubts.of_inputs(inputs), *odd])
    save_scores(out, {"model" if rows is None else POOL: scores.numpy()})
    return {"generator_calls": counted} if counted else {}
