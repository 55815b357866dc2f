"""Clipping of the predicted clean image at every step: what the switch released with BadDiffusion
does. A prediction outside the pixels' range is cut to it before the next image is formed. At the
first steps a backdoored model's prediction lies far outside.

The paper (arXiv 2212.05400, section 4.6.2) describes clipping "the image at every time step"; its
code sets the scheduler's ``clip_sample``, which clamps the prediction of x_0 instead. The two
behave differently, so they are two defenses: see ``clip_xt``. It is also the default of diffusers'
DDPM and DDIM schedulers, so many people run this defense without knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.plugin import Card, Paper, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class ClipX0(SamplerDefense):
    """x_0 clamped to the pixels' range before x_{t-1} is formed from it."""

    card: ClassVar[Card] = Card(
        name="clip_x0",
        summary=(
            "clamps the predicted clean image to [-1, 1] at every step (what BadDiffusion's "
            "released switch does)"
        ),
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

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        return predicted_x0.clamp(-1, 1)
