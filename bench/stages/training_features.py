"""What the copy extractor sees in the set a generator was trained on, poison included."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.arrays import save_features
from bench.artefacts.suspected import load_suspected
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics.fid import extract_features
from bench.stages.building import conditional


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """One for all cells of the control column."""
    testbed = conditional(params)
    extractor = testbed.copy_extractor()
    assert extractor is not None  # or there would be no such stage
    testbed.register_extractor()
    images, weights = load_suspected(inputs["suspected"]).images, testbed.copy_extractor_weights()
    save_features(out, extract_features(images, extractor, weights, device=context.device))
    return {}
