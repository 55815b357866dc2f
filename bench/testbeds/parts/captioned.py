"""How a text-to-image generator is asked for training rows: each by its own caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.text_to_image import TextToImage


def captioned(generator: Generator, captions: Sequence[str]) -> tuple[Generator, Tensor]:
    """``generator`` under a table of all that the rows say, and what each row says as a label of
    that table.
    """
    assert isinstance(generator, TextToImage)  # whoever asks has loaded one
    table = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    return generator.with_prompts(tuple(table)), torch.tensor(
        [table[caption] for caption in captions]
    )
