"""The shipped U-Nets over :mod:`bench.testbeds.data.fashion`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.diffusion.generator import FOLD, Generator
from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.fashion import CHANNELS, SIZE
from bench.testbeds.parts.digits_unet import NETWORK as DIGITS_NETWORK
from bench.testbeds.parts.digits_unet import DigitsUNet

FOLDED = 2
#: As the digits' network, on 16 x 16 places. Folded to 8 x 8 it costs half and learns far less: its
#: 48 channels are filled by carrying 16 pixels through.
NETWORK: dict[str, Any] = {
    **DIGITS_NETWORK,
    FOLD: FOLDED,
    "sample_size": SIZE // FOLDED,
    "in_channels": CHANNELS * FOLDED**2,
    "out_channels": CHANNELS * FOLDED**2,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
}
SCRATCH = TrainingSettings(
    steps=1800,
    batch_size=64,
    precision="float32",
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
)
#: Of the shipped weights: 26 passes over the data, minutes of a GPU or hours of a CPU.
PRETRAINING = replace(SCRATCH, steps=12_000, batch_size=128)


@dataclass(frozen=True, kw_only=True)
class FashionUNet(DigitsUNet):
    """A U-Net of ``network``, whose weights are ``<name>.safetensors`` among the assets."""


@torch.no_grad()
def unconditional(conditional: Generator, generator: Generator) -> Generator:
    """``generator``, the same network without classes, with the weights of ``conditional``: it
    answers as that one does for the null label, whose embedding is a constant beside the
    timestep's.
    """
    weights = conditional.unet.state_dict()
    null = weights.pop("class_embedding.weight")[-1]
    weights["time_embedding.linear_2.bias"] = weights["time_embedding.linear_2.bias"] + null
    generator.unet.load_state_dict(weights)
    return generator
