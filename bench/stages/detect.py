"""A detector's scores of rows of the suspected training set, of generated images and of clean
held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.arrays import save_scores
from bench.artefacts.images import Remarks, load_images, unsaid
from bench.artefacts.rows import clean_rows, judged_rows
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Attack, SampleDetector
from bench.stages import again, border
from bench.stages.building import conditional, evidence_of, plugin_of, poisoned_set


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A detector's scores of rows of the suspected training set, of as many images the generator
    drew and of as many clean held-out ones, which fix its threshold. All in one call: a row's score
    does not depend on the others, and what a detector prepares it prepares once.
    """
    testbed, seed = conditional(params), params["seed"]
    detector = plugin_of("detectors", params["defense"], SampleDetector)
    suspected = poisoned_set(testbed, plugin_of("attacks", params["attack"], Attack), seed)
    sets = {"training": suspected.images, "generated": load_images(inputs["generated"])}
    rows = {name: judged_rows(testbed, len(images), seed) for name, images in sets.items()}
    sets["held_out"], rows["held_out"] = testbed.held_out_images(), clean_rows(testbed, seed)
    judged = torch.cat([images[rows[name]] for name, images in sets.items()])

    def score(chosen: Tensor, remark: Callable[[str], None] = unsaid) -> Tensor:
        evidence = evidence_of(detector, testbed, suspected, inputs, seed, context, remark)
        return border.scores(detector, detector.score(judged[chosen], evidence), len(chosen))

    remarks = Remarks()
    scores = score(torch.arange(len(judged)), remarks)
    remarks.save(out)
    # One row alone: some detectors train a network on every call.
    doubts.save(out, again.compare(score, len(judged), scores, rows=1))
    ends = np.cumsum([len(chosen) for chosen in rows.values()])[:-1]
    found = dict(zip(rows, np.split(scores.numpy(), ends), strict=True))
    save_scores(out, found | {f"{name}_rows": chosen.numpy() for name, chosen in rows.items()})
    return {}
