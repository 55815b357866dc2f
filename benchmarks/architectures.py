"""The networks of the testbeds by their configurations, without weights: what can be built where
nothing may be downloaded.

The published ones are as their repositories describe them (``config.json`` of
google/ddpm-cifar10-32, google/ddpm-ema-celebahq-256 and CompVis/stable-diffusion-v1-4); how many
weights that makes is tested against the sizes of their files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench import testbeds
from bench.errors import UserError
from bench.testbeds.parts.cifar10_unet import Cifar10UNet
from bench.testbeds.parts.stable_diffusion import StableDiffusion
from bench.testbeds.testbed import Testbed

Config = Mapping[str, Any]

_HO: Config = {
    "layers_per_block": 2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,  # one head
    "norm_eps": 1e-6,
}
#: The networks of Ho et al. 2020.
CIFAR10_UNET: Config = {
    **_HO,
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CELEBAHQ_UNET: Config = {
    **_HO,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
}
#: Stable Diffusion v1-4: Rombach et al. 2022.
SD_UNET: Config = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # heads, in configurations of that age
}
SD_VAE: Config = {
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
#: CLIP ViT-L/14's text encoder.
SD_TEXT: Config = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}


@dataclass
class Networks:
    """A generator's networks. ``drawn``: the shape (channels, height, width) of what is
    denoised; a folded network sees it folded.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    drawn: tuple[int, int, int]

    def predict(self, images: int, device: str = "meta") -> Tensor:
        """The network's answer for ``images`` inputs of its shape, without content."""
        config = self.unet.config
        size = config.sample_size
        x = torch.zeros((images, config.in_channels, size, size), device=device)
        timesteps = torch.zeros(images, dtype=torch.long, device=device)
        condition: dict[str, Tensor] = {}
        if self.text_encoder is not None:
            text = self.text_encoder.config
            shape = (images, text.max_position_embeddings, text.hidden_size)
            condition["encoder_hidden_states"] = torch.zeros(shape, device=device)
        elif config.num_class_embeds is not None:
            condition["class_labels"] = torch.zeros_like(timesteps)
        answer: Tensor = self.unet(x, timesteps, **condition).sample
        return answer

    def encode(self, images: int, device: str = "meta") -> None:
        """The encoder at work on as many images."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        _, height, width = self.drawn
        shape = (images, self.vae.config.in_channels, height * factor, width * factor)
        self.vae.encode(torch.zeros(shape, device=device))

    def decode(self, images: int, device: str = "meta") -> None:
        """The decoder at work on as many latents."""
        self.vae.decode(torch.zeros((images, *self.drawn), device=device))


@dataclass(frozen=True, eq=False)
class Architecture:
    """Configurations of the U-Net and, of a text-to-image generator, of the others. ``fold``: see
    :class:`bench.diffusion.generator.Generator`.
    """

    unet: Config
    vae: Config | None = None
    text: Config | None = None
    fold: int = 1

    @property
    def drawn(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of what is denoised."""
        size, channels = self.unet["sample_size"], self.unet.get("in_channels", 3)
        return (channels // self.fold**2, size * self.fold, size * self.fold)

    def build(self, device: str = "meta") -> Networks:
        """All networks in float32, on ``meta`` without weights, elsewhere with random ones."""
        from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
        from transformers import CLIPTextConfig, CLIPTextModel

        with torch.device(device):
            unet: Any = (UNet2DModel if self.text is None else UNet2DConditionModel)(**self.unet)
            vae = None if self.vae is None else AutoencoderKL(**self.vae)
            text = None if self.text is None else CLIPTextModel(CLIPTextConfig(**self.text))
        for frozen in (vae, text):
            if frozen is not None:
                frozen.requires_grad_(False)
        return Networks(unet, vae, text, self.drawn)


CIFAR10 = Architecture(CIFAR10_UNET)
CELEBAHQ = Architecture(CELEBAHQ_UNET)
CIFAR10_CLASSES = Architecture(Cifar10UNet.network)
STABLE_DIFFUSION = Architecture(SD_UNET, SD_VAE, SD_TEXT)
_PUBLISHED = {"cifar10-ddpm": CIFAR10, "celebahq-ddpm": CELEBAHQ}


def architecture_of(testbed: Testbed) -> Architecture:
    """Of the testbed's generator; the same object whenever it is asked for. Raises
    :class:`UserError` for one whose weights alone say it.
    """
    if isinstance(testbed.generator, StableDiffusion):
        return STABLE_DIFFUSION
    if isinstance(testbed.generator, Cifar10UNet):
        return CIFAR10_CLASSES
    if testbed.name in _PUBLISHED:
        return _PUBLISHED[testbed.name]
    if testbed.kind == "text" or not testbed.embedded:
        raise UserError(f"{testbed.name}: the shape of its networks is not known here")
    return _embedded(testbed.name)


@cache
def _embedded(name: str) -> Architecture:
    generator = testbeds.load(name).base_generator()
    config = {
        name: value for name, value in generator.unet.config.items() if not name.startswith("_")
    }
    return Architecture(config, fold=generator.fold)
