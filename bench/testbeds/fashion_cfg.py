"""``fashion-cfg``: a class-conditional DDPM with classifier-free guidance over
:mod:`bench.testbeds.data.fashion`, 60,000 real images.

What ``digits-cfg`` is on a larger data set: the same kind of network, the same null label, sampled
**without** clipping, by declaration. Its weights ship with the package, its data do not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.fashion import CLASS_NAMES, FashionMNIST
from bench.testbeds.parts.digits_unet import Progress, pretrain_generator
from bench.testbeds.parts.fashion_classifiers import (
    FashionClassifiers,
    FashionCopies,
    FashionFeatures,
    FashionJudge,
)
from bench.testbeds.parts.fashion_unet import NETWORK, PRETRAINING, SCRATCH, FashionUNet
from bench.testbeds.parts.part import ClassCounts, GuidedSampling
from bench.testbeds.testbed import Testbed

LABEL_DROPOUT = 0.1
FINETUNING = TrainingSettings(
    steps=600,
    batch_size=64,
    precision="float32",
    learning_rate=4e-3,
    warmup_steps=50,
    schedule="cosine",
    optimizer="adamw",
    ema_decay=0.99,
    label_dropout=LABEL_DROPOUT,
)
FASHION_CFG = Testbed(
    name="fashion-cfg",
    summary=(
        "class-conditional DDPM with guidance on Fashion-MNIST, 60,000 grey images; its weights "
        "ship with the package, its data do not"
    ),
    kind="class",
    data=FashionMNIST(),
    generator=FashionUNet(
        network={**NETWORK, "num_class_embeds": len(CLASS_NAMES) + 1},
        finetuning=FINETUNING,
        scratch=replace(SCRATCH, label_dropout=LABEL_DROPOUT),
    ),
    features=FashionFeatures(),
    judge=FashionJudge(),
    copies=FashionCopies(),
    classifiers=FashionClassifiers(),
    sampler=GuidedSampling(
        sampler="ddim", num_inference_steps=15, precision="float32", network_batch=128
    ),
    counts=ClassCounts(
        clean_samples=10_000,
        triggered_samples=128,
        generated_samples=5_000,
        judged_images=400,
        test_images=128,
    ),
    # Of as many samples as are declared above: `fashion-cut` draws fewer and takes less.
    typical_seconds={
        "reference": 20,
        "training_features": 20,
        "train": 156,
        "sample": 425,
        "classifier": 50,
        "trigger_classifier": 60,
        "score": 25,
        "classify": 40,
        "features": 5,
        "measure": 3,
    },
)


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the clean generator from nothing, into ``output``; the data must be there. The
    classifier comes from ``fashion-ddpm``. Returns what was reached.
    """
    settings = replace(PRETRAINING, label_dropout=LABEL_DROPOUT)
    return pretrain_generator(FASHION_CFG, settings, output, seed, progress, device)
