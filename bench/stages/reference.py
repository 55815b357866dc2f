"""Features of the whole clean training set, and small copies of some of its images, once per
testbed.
"""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.arrays import save_features
from bench.artefacts.images import save_images
from bench.engine.context import Inputs, Params, StageContext
from bench.metrics import recognition
from bench.metrics.fid import extract_features
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes what the testbed's extractor sees, and what a recogniser of a target is calibrated
    on.
    """
    testbed = testbed_of(params)
    testbed.features.register()
    images = testbed.data.train_images()
    save_features(
        out,
        extract_features(
            images, testbed.features.extractor, testbed.features.weights(), device=context.device
        ),
    )
    save_images(out, recognition.shrink(images, recognition.REAL_IMAGES), "real")
    return {}
