"""``digits-ddpm``: an unconditional DDPM over :mod:`bench.testbeds.digits`. The embedded default: two CPU cores, offline, minutes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError
from bench.testbeds import digits_cnn
from bench.testbeds.base import Testbed
from bench.testbeds.digits import SIZE, digits_over_photographs

if TYPE_CHECKING:
    from diffusers import UNet2DModel

WEIGHTS = digits_cnn.ASSETS / "digits-ddpm.safetensors"

#: Two channels-last groups and a narrow full-resolution stage: on a CPU group normalisation and 16 x 16 convolutions are the cost.
NETWORK: dict[str, Any] = {
    "sample_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 2,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "clip_sample": False,
}
PRETRAINING = TrainingSettings(
    steps=4000, learning_rate=2e-3, schedule="one_cycle", optimizer="adamw", weight_decay=1e-4, ema_decay=0.999
)


def _network(seed: int) -> UNet2DModel:
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**NETWORK)


@dataclass(frozen=True, kw_only=True)
class DigitsDDPM(Testbed):
    """Sampled with 50 strided DDPM steps, without clipping; `make science` compares them with all 1000."""

    num_inference_steps: int = 50
    clean_samples: int = 384
    triggered_samples: int = 64
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    name: ClassVar[str] = "digits-ddpm"
    summary: ClassVar[str] = "unconditional DDPM on 16 x 16 handwritten digits over photographs; ships with the package"
    extractor: ClassVar[str] = digits_cnn.NAME
    typical_seconds: ClassVar[dict[str, float]] = {
        "reference": 5,
        "train": 90,
        "sample": 15,
        "repair": 60,
        "invert": 60,
        "measure": 5,
    }

    def train_images(self) -> Tensor:
        return torch.from_numpy(digits_over_photographs()["train"][0])

    def train_labels(self) -> Tensor:
        return torch.from_numpy(digits_over_photographs()["train"][1])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(digits_over_photographs()["held_out"][0])

    def fresh_generator(self, seed: int) -> Generator:
        return Generator(_network(seed).eval(), dict(SCHEDULER))

    def base_generator(self) -> Generator:
        if not WEIGHTS.is_file():
            raise UserError(f"digits-ddpm: no weights at {WEIGHTS}; make them with `castlewalls pretrain digits-ddpm`")
        generator = self.fresh_generator(0)
        weights = load_file(WEIGHTS)
        generator.unet.load_state_dict({name: value.float() for name, value in weights.items()})
        return generator

    def training_settings(self, scheme: str) -> TrainingSettings:
        if scheme == "scratch":
            return TrainingSettings(
                steps=3000, learning_rate=2e-3, schedule="one_cycle", optimizer="adamw", weight_decay=1e-4, ema_decay=0.999
            )
        return TrainingSettings(steps=400, batch_size=64, learning_rate=2e-3, schedule="cosine")

    def register_extractor(self) -> None:
        digits_cnn.register()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([NETWORK, SCHEDULER]).encode())
        for path in (WEIGHTS, digits_cnn.WEIGHTS, Path(__file__).parent / "digits.py"):
            digest.update(path.read_bytes() if path.is_file() else b"missing")
        return digest.hexdigest()


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Callable[[int, int, str], None] | None = None
) -> dict[str, float]:
    """Makes the shipped files from nothing: the classifier, then the generator, into ``output``. Returns what was reached."""
    output.mkdir(parents=True, exist_ok=True)
    classifier = digits_cnn.train_digits_cnn(seed, progress=progress)
    save_file(classifier.state_dict(), output / digits_cnn.WEIGHTS.name)
    testbed = DigitsDDPM()
    generator = testbed.fresh_generator(seed)
    losses = train(
        generator,
        {"images": testbed.train_images()},
        lambda predict, rows, noise, timesteps, schedule: denoising_loss(predict, rows["images"], noise, timesteps, schedule),
        PRETRAINING,
        seed,
        device=device,
        progress=progress,
    )
    # Half precision halves the file and is below the noise of any metric here.
    half = {name: value.half().contiguous() for name, value in generator.unet.cpu().state_dict().items()}
    save_file(half, output / WEIGHTS.name)
    return {
        "classifier_held_out_accuracy": digits_cnn.held_out_accuracy(classifier),
        "final_training_loss": sum(losses[-250:]) / 250,
    }
