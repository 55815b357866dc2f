"""``fashion-ddpm``: an unconditional DDPM over :mod:`bench.testbeds.data.fashion`, 60,000 real
images. Its weights ship with the package, its data do not. Sampled with 25 strided DDPM steps,
without clipping.

Its base is ``fashion-cfg``'s network for the null label, trained on without labels: a third of the
work of a training from nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.fashion import FashionMNIST
from bench.testbeds.fashion_cfg import FASHION_CFG
from bench.testbeds.parts import fashion_cnn
from bench.testbeds.parts.digits_unet import Progress, pretrain_generator
from bench.testbeds.parts.fashion_classifiers import FashionFeatures, FashionJudge
from bench.testbeds.parts.fashion_unet import (
    NETWORK,
    PRETRAINING,
    SCRATCH,
    FashionUNet,
    unconditional,
)
from bench.testbeds.parts.judge import train_judge
from bench.testbeds.parts.part import Counts, Sampling
from bench.testbeds.testbed import Testbed

#: Of the pretraining without labels.
STEPS = 3000
FASHION_DDPM = Testbed(
    name="fashion-ddpm",
    summary=(
        "unconditional DDPM on Fashion-MNIST, 60,000 grey images; its weights ship with the "
        "package, its data do not"
    ),
    kind="unconditional",
    data=FashionMNIST(),
    generator=FashionUNet(
        network=NETWORK,
        finetuning=TrainingSettings(
            steps=400,
            batch_size=64,
            learning_rate=2e-3,
            schedule="cosine",
            precision="float32",
        ),
        scratch=SCRATCH,
    ),
    features=FashionFeatures(),
    judge=FashionJudge(),
    sampler=Sampling(num_inference_steps=25, precision="float32", network_batch=128),
    counts=Counts(clean_samples=10_000, triggered_samples=128),
    # Of as many samples as are declared above: `fashion-cut` draws fewer and takes less.
    typical_seconds={
        "reference": 20,
        "train": 104,
        "sample": 330,
        "restored_images": 50,
        "invert": 80,
        "features": 5,
        "measure": 3,
        "score": 5,
    },
)


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the classifier from nothing and the generator from ``fashion-cfg``'s, into ``output``;
    the data must be there. Returns what was reached.
    """
    data = FASHION_DDPM.data
    reached = train_judge(
        data,
        fashion_cnn.untrained(seed),
        fashion_cnn.TRAINING,
        output / fashion_cnn.WEIGHTS.name,
        seed,
        device,
        progress,
    )
    start = unconditional(FASHION_CFG.base_generator(), FASHION_DDPM.fresh_generator(seed))
    settings = replace(PRETRAINING, steps=STEPS, learning_rate=1e-3)
    return reached | pretrain_generator(
        FASHION_DDPM, settings, output, seed, progress, device, start
    )
