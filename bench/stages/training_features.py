"""What the copy extractor sees in the set a generator was trained on, poison included."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.arrays import save_features
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics.fid import extract_features
from bench.plugin import Attack
from bench.stages.building import conditional, plugin_of, poisoned_set


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """One for all cells of the control column."""
    testbed, attack = conditional(params), plugin_of("attacks", params["attack"], Attack)
    extractor = testbed.copy_extractor()
    assert extractor is not None  # or there would be no such stage
    testbed.register_extractor()
    images = poisoned_set(testbed, attack, params["seed"]).images
    save_features(
        out,
        extract_features(
            images, extractor, testbed.copy_extractor_weights(), device=context.device
        ),
    )
    return {}
