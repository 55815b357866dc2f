"""What the process of a third party's plugin may leave of images that models restore: see
:mod:`bench.stages.admitted`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bench.artefacts import doubts
from bench.artefacts.images import load_images
from bench.artefacts.inpainted import FILE, load_inputs
from bench.artefacts.roles import ORIGINALS
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border
from bench.stages.admitted import _AGAIN, _doubts, _finite, _only, _require


def triggered_images(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """As many images in [-1, 1] as there are originals."""
    _only(out, FILE)
    wanted, images = tuple(load_images(inputs[ORIGINALS]).shape), load_inputs(out)
    good = images.dtype == torch.float32 and tuple(images.shape) == wanted
    _require(good, f"images {images.dtype} {tuple(images.shape)}, not float32 {wanted}")
    _finite(images, "pixels")
    border.in_range(images, f"{params['attack']['name']}, in its process,")


def restored_images(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """An image for each that was handed in."""
    _only(out, "images.npz", doubts.FILE)
    wanted, images = tuple(load_inputs(inputs["corrupted"]).shape), load_images(out)
    good = images.dtype == torch.uint8 and tuple(images.shape) == wanted
    _require(good, f"images {images.dtype} {tuple(images.shape)}, not uint8 {wanted}")
    _doubts(out, inputs, _AGAIN)
