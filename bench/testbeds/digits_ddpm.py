"""``digits-ddpm``: an unconditional DDPM over :mod:`bench.testbeds.digits`. The embedded default:
two CPU cores, offline, minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file

from bench.diffusion.training import TrainingSettings
from bench.testbeds import digits_cnn
from bench.testbeds._digits_base import DigitsTestbed, Progress, pretrain_generator

PRETRAINING = TrainingSettings(
    steps=4000,
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
)


@dataclass(frozen=True, kw_only=True)
class DigitsDDPM(DigitsTestbed):
    """Sampled with 50 strided DDPM steps, without clipping; `make science` compares them with all
    1000.
    """

    num_inference_steps: int = 50

    name: ClassVar[str] = "digits-ddpm"
    summary: ClassVar[str] = (
        "unconditional DDPM on 16 x 16 handwritten digits over photographs; ships with the package"
    )
    typical_seconds: ClassVar[dict[str, float]] = {
        "reference": 5,
        "train": 90,
        "sample": 15,
        "repair": 60,
        "invert": 60,
        "features": 1,
        "measure": 2,
        "score": 2,
    }

    def training_settings(self, scheme: str) -> TrainingSettings:
        if scheme == "scratch":
            return TrainingSettings(
                steps=3000,
                learning_rate=2e-3,
                schedule="one_cycle",
                optimizer="adamw",
                weight_decay=1e-4,
                ema_decay=0.999,
            )
        return TrainingSettings(steps=400, batch_size=64, learning_rate=2e-3, schedule="cosine")


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the shipped files from nothing: the classifier, then the generator, into ``output``.
    Returns what was reached.
    """
    output.mkdir(parents=True, exist_ok=True)
    classifier = digits_cnn.train_digits_cnn(seed, progress=progress)
    save_file(classifier.state_dict(), output / digits_cnn.WEIGHTS.name)
    reached = pretrain_generator(DigitsDDPM(), PRETRAINING, output, seed, progress, device)
    return {"classifier_held_out_accuracy": digits_cnn.held_out_accuracy(classifier)} | reached
