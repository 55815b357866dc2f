"""The shipped Stable Diffusion over :mod:`bench.testbeds.data.digits`: a diffusers folder with all
its parts. An attack trains the U-Net and leaves the others alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds import ASSETS
from bench.testbeds.data.digits import SIZE
from bench.testbeds.parts.captioned import captioned
from bench.testbeds.parts.digits_unet import shipped_faults
from bench.testbeds.parts.part import Composition, Data, GeneratorSource, fixed

WIDTH = 64
FOLDER = ASSETS / "digits-sd"
#: `attention_head_dim` is diffusers' name for the number of heads here.
NETWORK: dict[str, Any] = {
    "sample_size": SIZE // 2,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (48, 64),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
#: Stable Diffusion v1's.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def seeded_network(seed: int) -> Any:
    """The U-Net with random weights, in evaluation mode."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(**NETWORK).eval()


@dataclass(frozen=True, kw_only=True)
class DigitsStableDiffusion(GeneratorSource):
    """What :data:`FOLDER` holds."""

    finetuning: TrainingSettings = fixed()
    scratch: TrainingSettings = fixed()

    def base(self, data: Data) -> TextToImage:
        if not FOLDER.is_dir():
            raise UserError(
                f"{self.name}: no weights at {FOLDER}; make them with `castlewalls pretrain "
                f"{self.name}`"
            )
        return TextToImage.load(FOLDER, prompts=data.prompts())

    def fresh(self, seed: int, data: Data) -> TextToImage:
        """A U-Net with random weights; the frozen parts are the shipped ones, as when Stable
        Diffusion's U-Net is trained anew.
        """
        base = self.base(data)
        base.unet = seeded_network(seed)
        return base.with_prompts(base.prompts)

    def load(self, folder: Path, data: Data) -> TextToImage:
        return TextToImage.load(folder, prompts=data.prompts())

    def asked(self, generator: Generator, labels: Tensor, data: Data) -> tuple[Generator, Tensor]:
        return captioned(generator, data.captions(labels))

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        return self.scratch if scheme == "scratch" else self.finetuning

    def faults(self, testbed: Composition) -> list[str]:
        return shipped_faults(self.name, FOLDER)

    def schedule_steps(self) -> int:
        return int(SCHEDULER["num_train_timesteps"])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
            digest.update(path.relative_to(FOLDER).as_posix().encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()
