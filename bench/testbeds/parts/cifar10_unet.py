"""The class-conditional U-Net on CIFAR-10 that nobody publishes (Pan et al. 2024, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.diffusion.generator import Generator
from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.cifar10 import CLASSES
from bench.testbeds.data.images import CIFAR_SIZE
from bench.testbeds.parts.digits_unet import seeded_network
from bench.testbeds.parts.part import Data
from bench.testbeds.parts.published import PublishedWeights, steps_of


@dataclass(frozen=True, kw_only=True)
class Cifar10UNet(PublishedWeights):
    """``weights``: a generator to fine-tune, which somebody has to train first; ``None``: attacks
    have ``scheme: scratch``, as in the paper.
    """

    network: ClassVar[dict[str, Any]] = {
        "sample_size": CIFAR_SIZE,
        "block_out_channels": (64, 128, 128, 128),
        "layers_per_block": 2,
        "down_block_types": ("AttnDownBlock2D",) * 4,
        "up_block_types": ("AttnUpBlock2D",) * 4,
        "attention_head_dim": None,  # one head a level
        "dropout": 0.1,
        "num_class_embeds": CLASSES + 1,  # the last one is "no class"
    }
    scheduler: ClassVar[dict[str, Any]] = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
    }

    weights: str | None = None

    def _wrong_with(self, generator: Generator, folder: Path, data: Data) -> list[str]:
        lines = super()._wrong_with(generator, folder, data)
        if generator.classes != CLASSES and not lines:
            classes = generator.unet.config.num_class_embeds
            lines.append(
                f"weights must embed {CLASSES} classes and the null label, those in "
                f"{self.weights} embed {classes}"
            )
        return lines

    def fresh(self, seed: int, data: Data) -> Generator:
        return Generator(seeded_network(self.network, seed), dict(self.scheduler))

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        """Appendix A.3, from scratch; the length of fine-tuning is ours."""
        epochs = self.scratch_epochs if scheme == "scratch" else self.finetune_epochs
        steps = steps_of(rows, self.batch, epochs)
        return TrainingSettings(
            steps=steps,
            batch_size=self.batch,
            accumulation_steps=self.accumulation_steps,
            gradient_checkpointing=self.gradient_checkpointing,
            learning_rate=2e-4,
            warmup_steps=steps // 10,
            schedule="cosine",
            optimizer="adamw",
            weight_decay=1e-4,
            precision="float16",
            label_dropout=0.1,
        )
