"""How the frozen parts of ``digits-sd`` are made: the autoencoder, the tokenizer and the text
encoder. Only ``pretrain`` needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import torch_stream
from bench.testbeds.data.digits import SIZE
from bench.testbeds.parts import digits_cnn
from bench.testbeds.parts.digits_sd import WIDTH
from bench.testbeds.parts.digits_unet import Progress
from bench.testbeds.parts.part import Data

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

TOKENS = 16
AUTOENCODER: dict[str, Any] = {
    "sample_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TOKENS,
    "projection_dim": WIDTH,
}
AUTOENCODER_STEPS, TEXT_STEPS, KL_WEIGHT = 2500, 200, 1e-6
#: What the tokenizer has whole words for; anything else is spelled out in bytes.
WORDS = (
    "zero one two three four five six seven eight nine ten a an the of on over in with and not "
    "photo photograph picture image drawing "
    "digit number handwritten black white red green blue yellow small large"
).split()


def train_autoencoder(
    images: Tensor, seed: int, progress: Progress | None = None
) -> tuple[AutoencoderKL, float]:
    """L1 reconstruction with a faint Kullback-Leibler term; returns the network, its scaling factor
    set, and its last L1 error.
    """
    from diffusers import AutoencoderKL

    draw, steps = torch_stream(seed, "autoencoder"), AUTOENCODER_STEPS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoencoderKL(**AUTOENCODER).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    errors = []
    for step in range(steps):
        batch = _patched(
            to_unit_range(images[torch.randint(len(images), (64,), generator=draw)]), draw
        )
        with torch.autocast("cpu", torch.bfloat16):
            posterior = network.encode(
                batch.contiguous(memory_format=torch.channels_last)
            ).latent_dist
            decoded = network.decode(
                posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draw)
            ).sample
        error = (decoded.float() - batch).abs().mean()
        optimizer.zero_grad()
        (error + KL_WEIGHT * posterior.kl().float().mean()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        errors.append(float(error.detach()))
        if progress:
            progress(step + 1, steps, "autoencoder steps")
    with torch.no_grad():
        latents = network.eval().encode(to_unit_range(images)).latent_dist.mean
    network.register_to_config(scaling_factor=1 / float(latents.std()))
    return network.to(memory_format=torch.contiguous_format), sum(errors[-100:]) / 100


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level byte-pair encoding, with merges for :data:`WORDS` only."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            # What earlier words merge comes first, as it will when the word is encoded.
            known = [pair for pair in merges if pair in zip(parts, parts[1:], strict=False)]
            first = known[0] if known else (parts[0], parts[1])
            merges[first] = None
            position = next(
                index
                for index, pair in enumerate(zip(parts, parts[1:], strict=False))
                if pair == first
            )
            parts[position : position + 2] = ["".join(first)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        *special,
    ]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    ranked: list[Any] = list(merges)
    return CLIPTokenizer(vocab=vocabulary, merges=ranked, model_max_length=TOKENS)


def write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """``vocab.json`` and ``merges.txt``, as Stable Diffusion's repositories have them and
    transformers before version 5 reads.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(
        json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8"
    )
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def train_text_encoder(
    data: Data, tokenizer: CLIPTokenizer, seed: int, progress: Progress | None
) -> CLIPTextModel:
    """Radford et al. 2021 (arXiv 2103.00020): images and prompts as near as they belong together,
    over the ten prompts there are; the image side is a linear layer over the evaluation network's
    features.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    draw, labels = torch_stream(seed, "text encoder"), data.train_labels()
    assert labels is not None  # digits have them
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPTextModel(
            CLIPTextConfig(vocab_size=len(tokenizer), **TEXT_ENCODER, **special)
        )
        projection = nn.Linear(digits_cnn.FEATURES, WIDTH)
    with torch.no_grad():
        features = digits_cnn.load_digits_cnn().features(data.train_images())
    tokens = tokenizer(
        list(data.prompts()),
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    optimizer = torch.optim.Adam([*encoder.parameters(), *projection.parameters()], 1e-3)
    for step in range(TEXT_STEPS):
        chosen = torch.randint(len(features), (128,), generator=draw)
        pictures = nn.functional.normalize(projection(features[chosen]), dim=1)
        texts = nn.functional.normalize(encoder(tokens).pooler_output, dim=1)
        loss = nn.functional.cross_entropy(10 * pictures @ texts.T, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress:
            progress(step + 1, TEXT_STEPS, "text encoder steps")
    encoder.train(False)
    return encoder


def _patched(images: Tensor, draw: torch.Generator) -> Tensor:
    """Half of ``images`` with a random rectangle of noise in black and white, of one colour, or of
    noise in full colours.
    """

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    images = images.clone()
    for image in images:
        if number(0, 2):
            height, width, kind = number(2, 7), number(2, 7), number(0, 3)
            top, left = number(0, SIZE + 1 - height), number(0, SIZE + 1 - width)
            shape = {0: (1, height, width), 1: (3, 1, 1), 2: (3, height, width)}[kind]
            values = torch.rand(shape, generator=draw) * 2 - 1
            image[:, top : top + height, left : left + width] = (
                values if kind == 1 else values.sign()
            )
    return images
