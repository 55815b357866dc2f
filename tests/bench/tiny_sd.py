"""A Stable Diffusion on disk, complete but tiny; apart from the fixtures, because its libraries
take seconds to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bench.testbeds.parts.digits_sd import SCHEDULER
from bench.testbeds.parts.digits_sd_pretraining import make_tokenizer, write_vocabulary

SIZE = 16
UNET: dict[str, Any] = {
    "sample_size": SIZE // 2, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2, "cross_attention_dim": 16, "attention_head_dim": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
VAE: dict[str, Any] = {
    "sample_size": SIZE, "latent_channels": 4, "block_out_channels": (4, 8), "layers_per_block": 1,
    "norm_num_groups": 1,
    "mid_block_add_attention": False, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def save_stable_diffusion(folder: Path, **scheduler: Any) -> Path:
    """A Stable Diffusion for 16 x 16 images with random weights, as diffusers writes it."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET),
        scheduler=DDIMScheduler(**(SCHEDULER | scheduler)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    write_vocabulary(tokenizer, folder / "tokenizer")
    return folder
