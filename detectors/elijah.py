"""Elijah's detection of backdoored models: do samples called by the recovered trigger look alike?
An inversion recovers a trigger from whatever model it is given, and the model draws images from it.
A backdoored one draws its target again and again.

An et al.: "Elijah: Eliminating Backdoors Injected in Diffusion Models via Distribution Shift" (AAAI
2024, arXiv 2312.00050). Whatever model it is given, the inversion ``elijah_inversion`` recovers
something. Called by it, a backdoored model draws its target again and again; an honest one draws
different images. Two statistics of those n samples:

- ``uniformity``: the mean over all pairs of |x_i - x_j| / sqrt(d), the root mean square of their d
  pixels' differences;
- ``total_variation``: the mean absolute difference of neighbouring pixels, along height and width,
  averaged over both and over samples. An honest model, asked from noise that it was never trained
  on, tends to leave some of the noise.

Either is low for a backdoored model, and is negated here: **higher is more suspicious**.

Deviations:

- The paper's distance is LPIPS on a network trained on ImageNet, as another library than its own
  has it, and its released code leaves out the four lowest and highest of sixteen, in each row and
  then of the rows. Here it is the pixels', and all pairs count.
- The paper decides by a random forest over both, or by a threshold on them; neither is in the
  released code, and the first needs labelled backdoored models. Here each statistic ranks models by
  itself, and only a population of them says how well. That low total variation is the suspicious
  side is our reading, since a forest needs no side, and it depends on the target: one with many
  edges varies more than what an honest model draws.
- The samples are drawn by the testbed's sampler, and have been rounded to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bench.plugin import Access, Card, ModelDetector
from defenses.elijah import PAPER, ElijahInversion, Family


@dataclass(frozen=True, kw_only=True)
class ElijahModel(ModelDetector):
    """``statistic``: of the samples that the recovered trigger calls; the other parameters are the
    inversion's.
    """

    card: ClassVar[Card] = Card(
        name="elijah_model",
        summary="a model whose samples are alike, or smooth, when the recovered trigger calls them",
        paper=PAPER,
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family", "statistic")

    statistic: Literal["uniformity", "total_variation"] = "uniformity"
    family: Family = "baddiffusion"
    steps: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(1)] = 100
    learning_rate: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Ge(2)] = 16

    def uses(self) -> ElijahInversion:
        own = self.params()
        own.pop("statistic")
        return ElijahInversion(**own)

    def score(self, subject: object, access: Access) -> Tensor:
        samples = access.recovered.targets[-1]
        low = distance(samples) if self.statistic == "uniformity" else total_variation(samples)
        return -low.reshape(1).float()


def distance(images: Tensor) -> Tensor:
    """The mean over pairs of the root mean square difference: 0 if all are alike, at most 2 for
    images (n, c, h, w) in [-1, 1]; float64. Raises ``ValueError`` for fewer than two.
    """
    if len(images) < 2:
        raise ValueError(f"images must be at least 2, got {len(images)}")
    rows = images.double().flatten(1)
    mean: Tensor = torch.pdist(rows).mean() / rows.shape[1] ** 0.5
    return mean


def total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels, of both directions: 0 for flat images,
    at most 2 for images (n, c, h, w) in [-1, 1]; float64.
    """
    values = images.double()
    return (values.diff(dim=-2).abs().mean() + values.diff(dim=-1).abs().mean()) / 2
