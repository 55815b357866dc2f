"""What a testbed's extractor sees in a set of samples: one for all measurements that look at them
through it.
"""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.arrays import save_features
from bench.artefacts.images import load_images
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics.fid import extract_features
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Row i for image i."""
    testbed = testbed_of(params)
    testbed.features.register()
    images = load_images(inputs["samples"])
    save_features(
        out,
        extract_features(
            images, testbed.features.extractor, testbed.features.weights(), device=context.device
        ),
    )
    return {}
