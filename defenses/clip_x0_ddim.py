"""Clipping of the predicted clean image as diffusers' DDIM does it by default: x_0 is clamped, the
noise beside it is not. Each step mixes a clamped image with noise that belongs to the unclamped
one. Under any other sampler it is plain clipping of the predicted image.

DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12, eta 0) steps to A x_0 + s e, with x_0 and e made
from one prediction. diffusers' scheduler clamps x_0 to [-1, 1] unless ``clip_sample`` is off, and
goes on with the unclamped e unless ``use_clipped_model_output`` is on, so that the two no longer
belong together. ``clip_x0`` is the consistent form: there e follows from the clamped x_0 and x_t.
Under DDPM, whose mean has no e, the two are the same. Proposed nowhere as a defense, but many
people run it without knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.plugin import Card, Paper, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class ClipX0DDIM(SamplerDefense):
    """x_0 clamped to the pixels' range, the noise left alone. Under every other sampler than
    ``ddim`` it is ``clip_x0``.
    """

    card: ClassVar[Card] = Card(
        name="clip_x0_ddim",
        summary=(
            "clamps DDIM's predicted clean image but not its noise, as diffusers does by default"
        ),
        paper=Paper(
            title="Denoising Diffusion Implicit Models",
            authors="Jiaming Song, Chenlin Meng, Stefano Ermon",
            year=2021,
            arxiv="2010.02502",
        ),
        # Not "text": latents are no pixels, and [-1, 1] is no bound of theirs.
        applies_to=frozenset({"unconditional", "class"}),
        tuned=(),
    )
    keeps_noise: ClassVar[bool] = True

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        return predicted_x0.clamp(-1, 1)
