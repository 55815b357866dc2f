"""The images that a detector judges: of the suspected training set, of those the suspected model
draws, clean held-out ones that fix its threshold, and some of these changed, by which a detector is
told that looks rows up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.artefacts.images import load_images
from bench.artefacts.judged import STRANGERS, Judged, save_judged
from bench.artefacts.rows import clean_rows, judged_rows
from bench.artefacts.suspected import load_suspected
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import testbed_of

#: How many held-out images are judged once more, changed in each way.
STRANGE = 32
#: How far, in pixels for every 16 of a side; and by how much of its contrast.
SHIFT, CONTRAST = 1, 0.1
#: The side of a patch, in pixels for every 16; the share of a blended pattern, and its resolution.
PATCH, BLEND, COARSE = 3, 0.15, 4


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
    for name, change in _CHANGES.items():
        chosen[name] = change(chosen["held_out"][:STRANGE], numpy_stream(seed, name))
    save_judged(Judged(sets=chosen, rows=rows), out)
    return {}


def altered(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Clean images (n, c, h, w) uint8 that nobody has a copy of: each shifted by a pixel in both
    directions, its edge repeated, and with up to a tenth more or less contrast. The testbeds' data
    are public; a method that looks its rows up there knows every image but these.
    """
    height, width = images.shape[2:]
    result = torch.empty_like(images)
    for row, image in enumerate(images.float()):
        down, right = (int(side) * (1 if rng.random() < 0.5 else -1) for side in _shift(images))
        padded = F.pad(image[None], (abs(right),) * 2 + (abs(down),) * 2, mode="replicate")[0]
        top, left = abs(down) - down, abs(right) - right
        moved = padded[:, top : top + height, left : left + width]
        mean, contrast = moved.mean(), 1 + CONTRAST * float(rng.uniform(-1, 1))
        result[row] = ((moved - mean) * contrast + mean).round().clamp(0, 255).byte()
    return result


def patched(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Clean images (n, c, h, w) uint8, each with a small square of black and white pixels.

    No two have the same one in the same place, so nothing was learned from it, and who goes by what
    a classifier learned has no reason to call it a trigger; who asks how much of an image is in
    none of the public ones has.
    """
    height, width = images.shape[2:]
    tall, wide = (max(2, PATCH * side // 16) for side in (height, width))
    result = images.clone()
    for image in result:
        top, left = (int(rng.integers(0, end)) for end in (height - tall + 1, width - wide + 1))
        pixels = torch.from_numpy(rng.integers(0, 2, (tall, wide), dtype=np.uint8))
        image[:, top : top + tall, left : left + wide] = 255 * pixels
    return result


def blended(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Clean images (n, c, h, w) uint8, each under a faint coarse pattern of its own."""
    coarse = rng.uniform(0, 255, (len(images), 1, COARSE, COARSE))
    pattern = F.interpolate(
        torch.from_numpy(coarse).float(), images.shape[2:], mode="bilinear", align_corners=True
    )
    return ((1 - BLEND) * images.float() + BLEND * pattern).round().clamp(0, 255).byte()


#: None of them makes a public image, and none a trigger.
_CHANGES = dict(zip(STRANGERS, (altered, patched, blended), strict=True))


def _shift(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[2:]
    return max(1, SHIFT * height // 16), max(1, SHIFT * width // 16)
