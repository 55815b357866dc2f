"""``digits-cfg``: a class-conditional DDPM with classifier-free guidance over :mod:`bench.testbeds.digits`.

The embedded counterpart of the paper's CIFAR-10 model (Pan et al. 2024, arXiv 2311.02373, section 3): labels 0..9 and a null label that
replaces a row's own with probability 0.1 in training. Sampled **without** clipping, by declaration: the clipping that diffusers' DDIM
and DDPM do by default hides the whole phenomenon (docs/clipping-and-poison.md); ``clip_x0`` and ``clip_xt`` are defenses in its matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.diffusion.training import TrainingSettings
from bench.testbeds import digits_cnn
from bench.testbeds._digits_base import NETWORK, DigitsTestbed, Progress, pretrain_generator
from bench.testbeds.base import ConditionalTestbed
from bench.testbeds.digits import digits_over_photographs

PRETRAINING = TrainingSettings(
    steps=4000,
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
    label_dropout=0.1,
)


@dataclass(frozen=True, kw_only=True)
class DigitsCFG(DigitsTestbed, ConditionalTestbed):
    """Sampled with 50 DDIM steps at guidance 2, without clipping."""

    sampler: str = "ddim"
    judged_images: int | None = 600
    num_inference_steps: int = 50

    name: ClassVar[str] = "digits-cfg"
    summary: ClassVar[str] = "class-conditional DDPM with classifier-free guidance on the same digits; ships with the package"
    class_names: ClassVar[tuple[str, ...]] = tuple("zero one two three four five six seven eight nine".split())
    network: ClassVar[dict[str, Any]] = {**NETWORK, "num_class_embeds": 11}
    typical_seconds: ClassVar[dict[str, float]] = {"reference": 5, "train": 120, "sample": 30, "classifier": 30, "measure": 5}

    def held_out_labels(self) -> Tensor:
        return torch.from_numpy(digits_over_photographs()["held_out"][1])

    def fresh_classifier(self, seed: int, classes: int | None = None) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = digits_cnn.DigitsCNN()
            head = torch.nn.Linear(digits_cnn.FEATURES, classes or len(self.class_names))
        return Classifier(network.body, head)

    def evaluation_classifier(self) -> Classifier:
        network = digits_cnn.load_digits_cnn()
        return Classifier(network.body, network.head).eval()

    def classifier_settings(self) -> ClassifierSettings:
        return ClassifierSettings(steps=800)

    def training_settings(self, scheme: str) -> TrainingSettings:
        if scheme == "scratch":
            return replace(PRETRAINING, steps=3000)
        return TrainingSettings(steps=600, batch_size=64, learning_rate=2e-3, schedule="cosine", label_dropout=0.1)


def pretrain(output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None) -> dict[str, float]:
    """Makes the clean generator from nothing, into ``output``. The classifier comes from ``digits-ddpm``. Returns what was reached."""
    return pretrain_generator(DigitsCFG(), PRETRAINING, output, seed, progress, device)
