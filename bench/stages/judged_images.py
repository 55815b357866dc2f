"""The images that a detector judges: of the suspected training set, of those the suspected model
draws, and clean held-out ones that fix its threshold.
"""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.images import load_images
from bench.artefacts.judged import Judged, save_judged
from bench.artefacts.rows import clean_rows, judged_rows
from bench.artefacts.suspected import load_suspected
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes as many of each as the testbed declares, chosen by the seed."""
    testbed, seed = testbed_of(params), params["seed"]
    sets = {
        "training": load_suspected(inputs["suspected"]).images,
        "generated": load_images(inputs["generated"]),
    }
    rows = {name: judged_rows(testbed, len(images), seed) for name, images in sets.items()}
    sets["held_out"], rows["held_out"] = testbed.data.held_out_images(), clean_rows(testbed, seed)
    chosen = {name: images[rows[name]] for name, images in sets.items()}
    save_judged(Judged(sets=chosen, rows=rows), out)
    return {}
