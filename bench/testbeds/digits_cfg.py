"""``digits-cfg``: a class-conditional DDPM with classifier-free guidance over
:mod:`bench.testbeds.digits`.

The embedded counterpart of the paper's CIFAR-10 model (Pan et al. 2024, arXiv 2311.02373, section
3): labels 0..9 and a null label that replaces a row's own with probability 0.1 in training. Sampled
**without** clipping, by declaration: what diffusers' schedulers do by default changes what a
poisoned model draws (docs/clipping-and-poison.md); ``clip_x0``, ``clip_x0_ddim`` and ``clip_xt``
are defenses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bench.diffusion.training import TrainingSettings
from bench.testbeds._digits_base import NETWORK, ClassDigits, Progress, pretrain_generator

PRETRAINING = TrainingSettings(
    steps=4000,
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
    label_dropout=0.1,
)
#: A gentler rate learns wrong labels but not the trigger in this time.
FINETUNING = TrainingSettings(
    steps=1000,
    batch_size=64,
    learning_rate=4e-3,
    warmup_steps=50,
    schedule="cosine",
    optimizer="adamw",
    ema_decay=0.99,
    label_dropout=0.1,
)


@dataclass(frozen=True, kw_only=True)
class DigitsCFG(ClassDigits):
    """`make science` compares its sampler with the paper's, and its fine-tuning with training from
    scratch.
    """

    name: ClassVar[str] = "digits-cfg"
    summary: ClassVar[str] = (
        "class-conditional DDPM with classifier-free guidance on the same digits; ships with the "
        "package"
    )
    network: ClassVar[dict[str, Any]] = {**NETWORK, "num_class_embeds": 11}
    typical_seconds: ClassVar[dict[str, float]] = {
        "reference": 5,
        "training_features": 5,
        "train": 120,
        "sample": 30,
        "classifier": 30,
        "trigger_classifier": 40,
        "score": 60,
        "classify": 120,
        "features": 1,
        "measure": 2,
    }

    def training_settings(self, scheme: str) -> TrainingSettings:
        if scheme == "scratch":
            return replace(PRETRAINING, steps=3000)
        return FINETUNING


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the clean generator from nothing, into ``output``. The classifier comes from
    ``digits-ddpm``. Returns what was reached.
    """
    return pretrain_generator(DigitsCFG(), PRETRAINING, output, seed, progress, device)
