"""The held-out images that a classifier defense labels."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.aims import read_aim
from bench.artefacts.judged import Judged, save_judged
from bench.artefacts.rows import counts_of, evaluation_sets
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes clean ones, and stamped ones of other classes than the adversary's."""
    testbed = testbed_of(params)
    aim, count = read_aim(inputs["aim"]), counts_of(testbed).test_images
    sets = evaluation_sets(testbed, aim, params["seed"], count)
    save_judged(Judged(sets={name: images for name, (images, _) in sets.items()}, rows={}), out)
    return {}
