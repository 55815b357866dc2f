"""The held-out images that a classifier defense labels."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.aims import read_aim
from bench.artefacts.judged import Judged, save_judged
from bench.artefacts.rows import evaluation_sets
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import conditional


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes clean ones, and stamped ones of other classes than the adversary's."""
    testbed = conditional(params)
    sets = evaluation_sets(testbed, read_aim(inputs["aim"]), params["seed"], testbed.test_images)
    save_judged(Judged(sets={name: images for name, (images, _) in sets.items()}, rows={}), out)
    return {}
