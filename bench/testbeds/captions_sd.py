"""``captions-sd``: Stable Diffusion on a folder of images with free captions, at paper scale. Needs
a GPU.

Pan et al. 2024, arXiv 2311.02373, appendix C.1, on 500 image-caption pairs of LAION: (1) a concept
is the target (``target_class: 0`` is the first one here), (2) images are drawn whose captions do
not speak of it, (3) the subject of their captions becomes the concept, and they are stamped. Which
500 pairs, and how they judged the images, is not published. A row's label here is the first concept
of which its caption speaks, or "other"; an attack changes labels, and the captions of those rows
are rewritten (:mod:`bench.testbeds.data.captioned`). The settings are in
:mod:`bench.testbeds.parts.stable_diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.testbeds.data.captioned import Captioned
from bench.testbeds.parts.stable_diffusion import pretrain_judge, stable_diffusion_testbed

CAPTIONS_SD = stable_diffusion_testbed(
    name="captions-sd",
    summary=(
        "Stable Diffusion v1-4 fine-tuned on your captioned images, at paper scale; needs data, "
        "downloads and a GPU"
    ),
    data=Captioned(),
    clean_samples=500,
    judge="weights/captions-judge.safetensors",
    memory_gb=20,
)


def pretrain(
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier on ``data/captions`` into ``output``; returns its accuracy
    on the held-out images.
    """
    return pretrain_judge(CAPTIONS_SD, output, seed, device, progress)
