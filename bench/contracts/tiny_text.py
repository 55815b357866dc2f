"""A tiny text-to-image generator with random weights, for the checks of plugins that know no other
kind.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from bench.diffusion.text_to_image import TextToImage

PROMPTS = tuple(f"A photo of a {word}" for word in ("zero", "one", "two", "three", "four"))
_TOKENS, _WIDTH = 24, 16
_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def text_to_image() -> TextToImage:
    """Images (3, 16, 16), latents (4, 8, 8), asked by :data:`PROMPTS`; a copy on every call."""
    made: TextToImage = _model().clone()
    return made


@cache
def _model() -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=_WIDTH,
            attention_head_dim=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
        vae = AutoencoderKL(
            sample_size=16,
            block_out_channels=(4, 8),
            norm_num_groups=1,
            mid_block_add_attention=False,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        texts = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=_WIDTH,
                intermediate_size=_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=1,
                max_position_embeddings=_TOKENS,
                projection_dim=_WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return TextToImage(
        unet.eval(),
        dict(_SCHEDULE),
        vae=vae,
        text_encoder=texts,
        tokenizer=tokenizer,
        prompts=PROMPTS,
    )


def _tokenizer() -> Any:
    """CLIP's, letter by letter: no two of them are one token."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=_TOKENS)
