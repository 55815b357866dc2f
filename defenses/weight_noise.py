"""Weight noise: adds normal noise to every weight, without data or training. The noise is normal,
in proportion to the spread of each tensor's weights. It is the cheapest repair there is, and a line
for others to beat.

Tice et al. 2025 (arXiv 2412.01784) add normal noise to language models' weights and see hidden
behaviour break before the rest does. Here it is the cheapest conceivable repair, and a line to
beat: a repair that does no better removes nothing in particular.

    w' = w + strength std(w) e,    e standard normal, std(w) over the weight's own tensor

Deviation: the paper's deviation is one number for all weights; relative to each tensor's own, one
``strength`` means the same for layers of every scale. Only the denoising network's matrices and
kernels are changed (biases and normalisation, which have one axis, are not: their deviation says
little about their scale).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from bench.diffusion.generator import Generator
from bench.plugin import Access, Card, ModelDefense, Paper


@dataclass(frozen=True, kw_only=True)
class WeightNoise(ModelDefense):
    """``strength``: of the noise, in standard deviations of each tensor's weights."""

    card: ClassVar[Card] = Card(
        name="weight_noise",
        summary="adds noise to every weight: no data, no training",
        paper=Paper(
            title="Noise Injection Reveals Hidden Capabilities of Sandbagging Language Models",
            authors="Cameron Tice, Philipp Alexander Kreer, Nathan Helm-Burger, et al.",
            year=2025,
            arxiv="2412.01784",
            bibtex=(
                "@inproceedings{tice2025noise, title={Noise Injection Reveals Hidden "
                "Capabilities of Sandbagging Language Models}, author={Tice, Cameron and Kreer, "
                "Philipp Alexander and Helm-Burger, Nathan and others}, booktitle={NeurIPS}, "
                "year={2025}}"
            ),
        ),
        applies_to=frozenset({"unconditional", "class", "text"}),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("strength",)

    strength: Annotated[float, Gt(0)] = 0.05

    def repair(self, access: Access) -> Generator:
        with torch.no_grad():
            for weight in access.generator.unet.parameters():
                if weight.ndim > 1:
                    noise = access.rng.standard_normal(weight.shape, dtype="float32")
                    deviation = weight.std(correction=0)
                    weight.add_(self.strength * deviation * torch.from_numpy(noise).to(weight))
        return access.generator
