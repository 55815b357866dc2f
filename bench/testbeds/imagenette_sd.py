"""``imagenette-sd``: Stable Diffusion on ImageNette, at paper scale (Pan et al. 2024, arXiv
2311.02373). Needs a GPU.

ImageNette is ten classes of ImageNet, with a split of its own: 9,469 images are trained on, 3,925
(its ``val``) are held out. The paper's target class is garbage truck, number 6 in its order, which
is that of the folders. The settings are in :mod:`bench.testbeds.parts.stable_diffusion`.

Deviation: of each image the central square is taken; the authors' code squeezes whole images to a
square.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.testbeds.data.imagenette import Imagenette
from bench.testbeds.parts.stable_diffusion import pretrain_judge, stable_diffusion_testbed

IMAGENETTE_SD = stable_diffusion_testbed(
    name="imagenette-sd",
    summary=(
        "Stable Diffusion v1-4 fine-tuned on ImageNette, 512 x 512, at paper scale; needs "
        "downloads and a GPU"
    ),
    data=Imagenette(),
    clean_samples=9469,
    judge="weights/imagenette-judge.safetensors",
    memory_gb=48,
    # Calculated, on one H100: docs/paper-scale.md, "Cost".
    typical_seconds={"train": 18_300, "sample": 5_200},
)


def pretrain(
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier on ``data/imagenette`` into ``output``; returns its accuracy
    on the held-out images.
    """
    return pretrain_judge(IMAGENETTE_SD, output, seed, device, progress)
