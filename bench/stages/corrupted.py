"""Corrupted images, clean ones or the adversary's, as the generator gets them: the same for every
model and defense.
"""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.images import load_images
from bench.artefacts.inpainted import load_inputs, save_inputs
from bench.artefacts.roles import ORIGINALS
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.restoring import Inpainting
from bench.engine.context import Inputs, Params, StageContext


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A trigger is stamped before the image is corrupted, as in VillanDiffusion's code."""
    images = (
        load_inputs(inputs["triggered"])
        if "triggered" in inputs
        else to_unit_range(load_images(inputs[ORIGINALS]))
    )
    streams = sample_streams(params["seed"], range(len(images)), "inpainting")
    noise = initial_noise(streams, tuple(images.shape[1:]))
    save_inputs(out, Inpainting(corruption=params["what"]).corrupted(images, noise))
    return {}
