"""Inference-time clipping as BadDiffusion writes it: the image is clamped to [-1, 1] after every
step, noise included. What lies outside the pixels' range at any step is lost. Noise lies there too,
so honest images pay as well.

arXiv 2212.05400, section 4.6.2 and eq. 11. The code released with the paper does something else
under that name: see ``clip_x0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.plugin import Card, Paper, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class ClipXt(SamplerDefense):
    """x_{t-1} clamped to the pixels' range."""

    card: ClassVar[Card] = Card(
        name="clip_xt",
        summary="clamps the image to [-1, 1] after every step (BadDiffusion eq. 11)",
        paper=Paper(
            title="How to Backdoor Diffusion Models?",
            authors="Sheng-Yen Chou, Pin-Yu Chen, Tsung-Yi Ho",
            year=2023,
            arxiv="2212.05400",
        ),
        # Not "text": latents are no pixels, and [-1, 1] is no bound of theirs.
        applies_to=frozenset({"unconditional", "class"}),
        tuned=(),
    )

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        return x.clamp(-1, 1)
