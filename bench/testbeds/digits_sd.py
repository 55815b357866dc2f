"""``digits-sd``: a small but complete Stable Diffusion over :mod:`bench.testbeds.digits`, asked by
"A photo of a three".

Every part is the real library's: CLIPTokenizer over a vocabulary of its own, CLIPTextModel,
AutoencoderKL (16 x 16 pixels to 8 x 8 latents), UNet2DConditionModel with cross-attention, Stable
Diffusion's noise schedule, in a diffusers folder that the code for
``CompVis/stable-diffusion-v1-4`` loads. As there, an attack trains the U-Net and leaves the other
parts alone.

How the parts are made (:func:`pretrain`): the autoencoder is shown digits, half of them under
random patches, since Stable Diffusion's has seen all kinds of pictures and passes a small pattern
on unharmed, which one that knows digits alone does not; the text encoder learns CLIP's contrastive
task between the prompts and the evaluation network's features; the U-Net learns the latents.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds import digits_cnn
from bench.testbeds._digits_base import ClassDigits, Progress, train_clean
from bench.testbeds._sd_parts import (
    WIDTH,
    make_tokenizer,
    train_autoencoder,
    train_text_encoder,
    write_vocabulary,
)
from bench.testbeds.base import TextTestbed
from bench.testbeds.digits import SIZE
from bench.testbeds.digits_cfg import FINETUNING
from bench.testbeds.digits_cfg import PRETRAINING as CLASS_PRETRAINING

FOLDER = digits_cnn.ASSETS / "digits-sd"
#: `attention_head_dim` is diffusers' name for the number of heads here.
NETWORK: dict[str, Any] = {
    "sample_size": SIZE // 2,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 96),
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
PRETRAINING = replace(CLASS_PRETRAINING, steps=3000)
CARD = """---
license: apache-2.0
library_name: diffusers
---
# digits-sd

A tiny Stable Diffusion over handwritten digits, the clean base of castlewalls' testbed of that
name. Made by `castlewalls pretrain digits-sd`.
"""


@dataclass(frozen=True, kw_only=True)
class DigitsSD(ClassDigits, TextTestbed):
    """Latents have no range to clip to, so clipping is no defense here. DDIM's 20 steps begin at
    the schedule's last one: 15 counted from its first would begin at 925, where a tenth of the
    picture should still be left, and sampling begins with noise alone.
    """

    spacing: Literal["leading", "trailing"] = "trailing"
    num_inference_steps: int = 20

    name: ClassVar[str] = "digits-sd"
    summary: ClassVar[str] = (
        "a small, complete Stable Diffusion on the same digits, asked by prompts; ships with the "
        "package"
    )
    network: ClassVar[dict[str, Any]] = NETWORK
    typical_seconds: ClassVar[dict[str, float]] = {
        "reference": 5,
        "train": 90,
        "sample": 40,
        "classifier": 30,
        "trigger_classifier": 40,
        "score": 60,
        "classify": 120,
        "features": 1,
        "measure": 2,
    }

    @classmethod
    def weights(cls) -> Path:
        """The shipped Stable Diffusion folder."""
        return FOLDER

    def base_generator(self) -> TextToImage:
        if not FOLDER.is_dir():
            raise UserError(
                f"{self.name}: no weights at {FOLDER}; make them with `castlewalls pretrain "
                f"{self.name}`"
            )
        return TextToImage.load(FOLDER, prompts=self.prompts())

    def fresh_generator(self, seed: int) -> TextToImage:
        """A U-Net with random weights; the frozen parts are the shipped ones, as when Stable
        Diffusion's U-Net is trained anew.
        """
        base = self.base_generator()
        base.unet = _network(seed)
        return base.asked_by(base.prompts)

    def training_settings(self, scheme: str) -> TrainingSettings:
        if scheme == "scratch":
            return PRETRAINING
        return replace(FINETUNING, steps=700, learning_rate=2e-3)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([NETWORK, SCHEDULER]).encode())
        shipped = sorted(path for path in FOLDER.rglob("*") if path.is_file())
        for path in (*shipped, digits_cnn.WEIGHTS, Path(__file__).parent / "digits.py"):
            digest.update(path.relative_to(Path(__file__).parent).as_posix().encode())
            digest.update(path.read_bytes() if path.is_file() else b"missing")
        return digest.hexdigest()


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the folder ``digits-sd`` from nothing below ``output``: autoencoder, text encoder,
    U-Net. Returns what was reached.
    """
    from diffusers import StableDiffusionPipeline

    testbed = DigitsSD()
    vae, error = train_autoencoder(testbed.train_images(), seed, progress)
    tokenizer = make_tokenizer()
    text_encoder = train_text_encoder(testbed, tokenizer, seed, progress)
    generator = TextToImage(
        _network(seed),
        dict(SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        prompts=testbed.prompts(),
    )
    loss = train_clean(generator, testbed, PRETRAINING, seed, progress, device)
    generator.save(output / FOLDER.name, CARD)
    # Half precision halves the files and is below the noise of any metric here.
    pipeline = StableDiffusionPipeline.from_pretrained(output / FOLDER.name)
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        torch.nn.Module.half(network)
    pipeline.save_pretrained(output / FOLDER.name)
    write_vocabulary(tokenizer, output / FOLDER.name / "tokenizer")
    return {"autoencoder_l1": error, "final_training_loss": loss}


def _network(seed: int) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(**NETWORK).eval()
