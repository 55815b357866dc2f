"""What the copy extractor sees in the set a generator was trained on, poison included."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.arrays import save_features
from bench.artefacts.suspected import load_suspected
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics.fid import extract_features
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """One for all cells of the control column."""
    testbed = testbed_of(params)
    copies = testbed.copies
    assert copies is not None and copies.extractor is not None  # or there would be no such stage
    copies.register()
    images, weights = load_suspected(inputs["suspected"]).images, copies.weights()
    save_features(out, extract_features(images, copies.extractor, weights, device=context.device))
    return {}
