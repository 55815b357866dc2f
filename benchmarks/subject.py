"""What is timed: BadDiffusion on ``digits-ddpm``, put together as ``bench.stages.table`` does it
for a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.baddiffusion import BadDiffusion
from bench.contracts.data import Batch, TrainingSet, TrainingStep
from bench.diffusion.generator import Generator
from bench.diffusion.noise import numpy_stream
from bench.diffusion.sampling import SamplerSettings, sample
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import PredictNoise, TrainingSettings, train
from bench.testbeds.digits_ddpm import DIGITS_DDPM
from bench.testbeds.testbed import Testbed
from benchmarks.timing import Settings

SEED = 0
Progress = Callable[[int, int, str], None]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Subject:
    """A testbed, an attack, and the training set it poisoned."""

    testbed: Testbed
    attack: BadDiffusion
    poisoned: TrainingSet

    @classmethod
    def make(cls) -> Subject:
        """The first attack of ``suites/digits.yaml``."""
        testbed = DIGITS_DDPM
        attack = BadDiffusion(
            trigger="grey_box", target="hat", poison_rate=0.1, poisoned_image="trigger_only"
        )
        images = testbed.data.train_images()
        honest = TrainingSet(
            images, torch.zeros(len(images), dtype=torch.bool), testbed.data.train_labels()
        )
        return cls(testbed, attack, attack.poison(honest, numpy_stream(SEED, "poison")))

    def training_settings(self, settings: Settings, steps: int) -> TrainingSettings:
        """The testbed's own for this attack, for ``steps`` steps."""
        own = self.testbed.training_settings(self.attack.scheme)
        return replace(own, steps=steps, batch_size=settings.batch_size)

    def sampler_settings(self, settings: Settings) -> SamplerSettings:
        """The testbed's own, unless ``settings`` shortens it."""
        own = self.testbed.sampler.settings()
        return replace(
            own, num_inference_steps=settings.num_inference_steps or own.num_inference_steps
        )

    def loss(
        self,
        predict: PredictNoise,
        rows: Mapping[str, Tensor],
        noise: Tensor,
        timesteps: Tensor,
        schedule: Schedule,
    ) -> Tensor:
        """The attack's, over rows as the training loop hands them over."""
        step = TrainingStep(
            predict_noise=predict,
            batch=Batch(**rows),
            noise=noise,
            timesteps=timesteps,
            schedule=schedule,
        )
        return self.attack.training_loss(step)

    def train(
        self,
        generator: Generator,
        settings: Settings,
        steps: int,
        progress: Progress,
        *,
        device: str = "cpu",
        precision: Precision | None = None,
    ) -> list[float]:
        """Our training, in place, in the testbed's own precision or another. Returns the losses."""
        rows = {"images": self.poisoned.images, "poisoned": self.poisoned.poisoned}
        if self.poisoned.labels is not None:
            rows["labels"] = self.poisoned.labels
        chosen = self.training_settings(settings, steps)
        return train(
            generator,
            rows,
            self.loss,
            replace(chosen, precision=precision or chosen.precision),
            SEED,
            device=device,
            progress=progress,
        )

    def sample(
        self,
        generator: Generator,
        settings: Settings,
        batches: int,
        progress: Progress,
        **changes: Any,
    ) -> Tensor:
        """Our sampling of ``batches`` whole batches. ``changes``: of the sampler's settings."""
        sampler, size = replace(self.sampler_settings(settings), **changes), settings.batch_size
        return sample(generator, batches * size, SEED, sampler, batch_size=size, progress=progress)
