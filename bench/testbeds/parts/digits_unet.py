"""The shipped U-Nets over :mod:`bench.testbeds.data.digits`: how they are read, trained on and
made.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bench import testbeds
from bench.diffusion.generator import FOLD, Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.resuming import Checkpoints
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError
from bench.testbeds.data.digits import SIZE
from bench.testbeds.parts.part import Composition, Data, GeneratorSource, fixed
from bench.testbeds.testbed import Testbed

if TYPE_CHECKING:
    from diffusers import UNet2DModel

#: Folded pixels and two channels-last groups: on a CPU, convolutions of few channels at full
#: resolution and group normalisation are the cost.
NETWORK: dict[str, Any] = {
    FOLD: 2,
    "sample_size": SIZE // 2,
    "in_channels": 12,
    "out_channels": 12,
    "block_out_channels": (48, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
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
#: How many steps an interrupted pretraining loses at most.
CHECKPOINT_STEPS = 200
Progress = Callable[[int, int, str], None]


def seeded_network(options: dict[str, Any], seed: int) -> UNet2DModel:
    """A U-Net with random weights, in evaluation mode."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(**{key: value for key, value in options.items() if key != FOLD})
    network.register_to_config(**{key: value for key, value in options.items() if key == FOLD})
    return network.eval()


def shipped_faults(name: str, shipped: Path) -> list[str]:
    """What is wrong with files of the package that testbed ``name`` needs."""
    return [
        f"{name}: {line}; `castlewalls pretrain {name}` makes it anew"
        for line in testbeds.damaged_files()
        if line.startswith(str(shipped))
    ]


@dataclass(frozen=True, kw_only=True)
class DigitsUNet(GeneratorSource):
    """A U-Net of ``network``, whose weights are ``<name>.safetensors`` among the assets."""

    network: dict[str, Any] = fixed()
    finetuning: TrainingSettings = fixed()
    scratch: TrainingSettings = fixed()

    @property
    def weights(self) -> Path:
        """Where the shipped weights are."""
        return testbeds.ASSETS / f"{self.name}.safetensors"

    def fresh(self, seed: int, data: Data) -> Generator:
        return Generator(seeded_network(self.network, seed), dict(SCHEDULER))

    def base(self, data: Data) -> Generator:
        if not self.weights.is_file():
            raise UserError(
                f"{self.name}: no weights at {self.weights}; make them with `castlewalls "
                f"pretrain {self.name}`"
            )
        generator = self.fresh(0, data)
        weights = load_file(self.weights)
        generator.unet.load_state_dict({name: value.float() for name, value in weights.items()})
        return generator

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        return self.scratch if scheme == "scratch" else self.finetuning

    def faults(self, testbed: Composition) -> list[str]:
        return shipped_faults(self.name, self.weights)

    def schedule_steps(self) -> int:
        return int(SCHEDULER["num_train_timesteps"])

    def fingerprint(self) -> str:
        content = self.weights.read_bytes() if self.weights.is_file() else b"missing"
        return hashlib.sha256(content).hexdigest()


def train_clean(
    generator: Generator,
    data: Data,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None,
    device: str,
    checkpoints: Checkpoints | None = None,
) -> float:
    """Trains ``generator`` in place on the clean images. Returns its last loss, the mean over 250
    steps.
    """
    labels = data.train_labels()
    assert labels is not None  # digits and garments have them
    losses = train(
        generator,
        {"images": data.train_images(), "labels": labels},
        lambda predict, rows, noise, timesteps, schedule: denoising_loss(
            predict, rows["images"], noise, timesteps, VariancePreserving(schedule)
        ),
        settings,
        seed,
        device=device,
        progress=progress,
        checkpoints=checkpoints,
    )
    return sum(losses[-250:]) / len(losses[-250:])


def pretrain_generator(
    testbed: Testbed,
    settings: TrainingSettings,
    output: Path,
    seed: int,
    progress: Progress | None,
    device: str,
    generator: Generator | None = None,
) -> dict[str, float]:
    """Trains the testbed's clean generator, from random weights unless it is given, and writes it
    into ``output``. An interrupted training goes on from there. Returns the final training loss.
    """
    output.mkdir(parents=True, exist_ok=True)
    generator = generator or testbed.fresh_generator(seed)
    checkpoints = Checkpoints(folder=output / f"{testbed.name}.unfinished", every=CHECKPOINT_STEPS)
    loss = train_clean(generator, testbed.data, settings, seed, progress, device, checkpoints)
    # Half precision halves the file and is below the noise of any metric here.
    half = {
        name: value.half().contiguous() for name, value in generator.unet.cpu().state_dict().items()
    }
    save_file(half, output / f"{testbed.name}.safetensors")
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return {"final_training_loss": loss}
