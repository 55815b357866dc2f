"""``caltech15-sd``: Stable Diffusion on fifteen classes of Caltech-256, at paper scale (Pan et al.
2024, arXiv 2311.02373). Needs a GPU.

What the paper says (appendix A.1): the 15 classes with the most images, of each exactly 200,
``binoculars`` the target. What is not known from text: the other fourteen, which only a figure
shows; which 200 images of a class. The authors' code has its target as number 2 of the class
folders by name and reads images of 256 x 256, and its prompt says "binocular". So the classes are
those of the folder, or of the parameter ``classes``; the first 200 images by name are taken.

Deviation: the last tenth of these is held out of each class, where the paper trains on all 200, so
a poison rate of 0.1 is 270 rows among 180 of the target class here, 300 among 200 there: the same
share. The settings are in :mod:`bench.testbeds.parts.stable_diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.testbeds.data.caltech15 import Caltech15
from bench.testbeds.parts.stable_diffusion import pretrain_judge, stable_diffusion_testbed

CALTECH15_SD = stable_diffusion_testbed(
    name="caltech15-sd",
    summary=(
        "Stable Diffusion v1-4 fine-tuned on fifteen classes of Caltech-256, at paper scale; "
        "needs downloads and a GPU"
    ),
    data=Caltech15(),
    clean_samples=2700,
    judge="weights/caltech15-judge.safetensors",
    memory_gb=28,
    # The authors' code trains these for longer, at a lower rate than their text has.
    classifier_epochs=100,
    classifier_rate=1e-3,
)


def pretrain(
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier on ``data/caltech15`` into ``output``; returns its accuracy
    on the held-out images.
    """
    return pretrain_judge(CALTECH15_SD, output, seed, device, progress)
