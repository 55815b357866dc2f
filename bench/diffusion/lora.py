"""LoRA adapters on a U-Net's attention, by peft: Hu et al. 2021 (arXiv 2106.09685).

Only low-rank adapters on the query, key, value and output projections are trained; then they are
added to the weights. The result is an ordinary network in which only the attention projections have
changed. Two matrices per projection, W + B A, with B initially zero; the scale alpha / rank is 1.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from bench.diffusion.noise import stream_seed
from bench.errors import UserError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def add_adapters(network: nn.Module, rank: int, seed: int) -> None:
    """Adds untrained adapters, drawn from ``seed``, to ``network`` in place; from then on only they
    are trainable.

    Raises :class:`UserError` without peft, ``ValueError`` for a rank below 1 or a network that does
    not support adapters.
    """
    if rank < 1:
        raise ValueError(f"lora_rank must be at least 1, or null for full training, got {rank}")
    try:
        peft: Any = importlib.import_module("peft")
    except ImportError as error:
        raise UserError("training with LoRA (lora_rank) needs peft: pip install peft") from error
    if not hasattr(network, "add_adapter"):
        raise ValueError(
            f"lora_rank must be null for a {type(network).__name__}, which takes no adapters, "
            f"got {rank}"
        )
    untyped: Any = network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "adapters"))
        config = peft.LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights=True
        )
        untyped.add_adapter(config)


def fuse_adapters(network: nn.Module) -> None:
    """Adds the adapters to the weights and removes them, in place; all is trainable again."""
    untyped: Any = network
    untyped.fuse_lora()
    untyped.unload_lora()
    network.requires_grad_(True)
