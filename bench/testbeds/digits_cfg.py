"""``digits-cfg``: a class-conditional DDPM with classifier-free guidance over
:mod:`bench.testbeds.data.digits`.

The embedded counterpart of the paper's CIFAR-10 model (Pan et al. 2024, arXiv 2311.02373, section
3): labels 0..9 and a null label that replaces a row's own with probability 0.1 in training. Sampled
**without** clipping, by declaration: what diffusers' schedulers do by default changes what a
poisoned model draws (docs/clipping-and-poison.md); ``clip_x0``, ``clip_x0_ddim`` and ``clip_xt``
are defenses. 15 DDIM steps at guidance 2; 50 steps, the paper's number, draw images of nearly the
same FID in three times the time. `make science` compares its sampler with the paper's, and its
fine-tuning with training from scratch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.digits import Digits
from bench.testbeds.parts.digits_classifiers import (
    DigitsClassifiers,
    DigitsCopies,
    DigitsFeatures,
    DigitsJudge,
)
from bench.testbeds.parts.digits_unet import NETWORK, DigitsUNet, Progress, pretrain_generator
from bench.testbeds.parts.part import ClassCounts, GuidedSampling
from bench.testbeds.testbed import Testbed

PRETRAINING = TrainingSettings(
    steps=4000,
    precision="float32",
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
    label_dropout=0.1,
)
#: A gentler rate learns wrong labels but not the trigger in this time.
FINETUNING = TrainingSettings(
    steps=600,
    batch_size=64,
    precision="float32",
    learning_rate=4e-3,
    warmup_steps=50,
    schedule="cosine",
    optimizer="adamw",
    ema_decay=0.99,
    label_dropout=0.1,
)
DIGITS_CFG = Testbed(
    name="digits-cfg",
    summary=(
        "class-conditional DDPM with classifier-free guidance on the same digits; ships with the "
        "package"
    ),
    kind="class",
    data=Digits(),
    generator=DigitsUNet(
        network={**NETWORK, "num_class_embeds": 11},
        finetuning=FINETUNING,
        scratch=replace(PRETRAINING, steps=3000),
    ),
    features=DigitsFeatures(),
    judge=DigitsJudge(),
    copies=DigitsCopies(),
    classifiers=DigitsClassifiers(),
    sampler=GuidedSampling(
        sampler="ddim", num_inference_steps=15, precision="float32", network_batch=128
    ),
    counts=ClassCounts(clean_samples=384, triggered_samples=64, judged_images=400, test_images=128),
    embedded=True,
    typical_seconds={
        "reference": 5,
        "training_features": 5,
        "train": 120,
        "sample": 10,
        "classifier": 30,
        "trigger_classifier": 40,
        "score": 60,
        "classify": 35,
        "features": 1,
        "measure": 2,
    },
)


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the clean generator from nothing, into ``output``. The classifier comes from
    ``digits-ddpm``. Returns what was reached.
    """
    return pretrain_generator(DIGITS_CFG, PRETRAINING, output, seed, progress, device)
