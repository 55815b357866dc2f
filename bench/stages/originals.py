"""The held-out images that models are asked to restore."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.artefacts.images import save_images
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """As many as a call has samples, row by row those that the adversary's call by image draws on
    (:class:`bench.stages.queries.Users`); from the first again where there are fewer.
    """
    testbed = testbed_of(params)
    held_out = testbed.data.held_out_images()
    order = numpy_stream(params["seed"], "held-out images").permutation(len(held_out))
    rows = order[np.arange(testbed.counts.triggered_samples) % len(order)]
    save_images(out, held_out[rows])
    return {}
