"""TERD's two rules on a recovered trigger: is this noise called by it, and is there one at all?
Whether a noise is called by it follows from how much likelier that noise is with the recovered
trigger than without. Whether there is one at all follows from how far the recovered distribution is
from plain noise.

Mo et al.: "TERD: A Unified Framework for Safeguarding Diffusion Models Against Backdoors" (ICML
2024, arXiv 2409.05294). The inversion ``terd`` recovers the mean mu of the adversary's starting
noise and, for TrojDiff, its scale gamma.

- ``terd_input`` scores starting noise by how much likelier it is under the adversary's distribution
  than under the user's: log N(x; mu, gamma^2 I) - log N(x; 0, I). With gamma = 1 that is x . mu -
  |mu|^2 / 2, which is positive exactly where x is nearer to mu than to 0.
- ``terd_model`` scores a model by the divergence of the two, KL_j = -ln gamma + (gamma^2 + mu_j^2 -
  1) / 2 at pixel j: its ``mean`` over pixels, or its ``variance``. The paper calibrates thresholds
  on clean models and shifts both by constants, which no ranking depends on; they are left out.

**Higher is more suspicious** in both.

Deviations: the released code takes gamma for a covariance; the noise is gamma e, whose covariance
is gamma squared, and that is what stands here. gamma is one number, at least 0.05 (see the
inversion), so that no logarithm is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from bench.plugin import Access, Card, ModelDetector, NoiseDetector, Recovered
from defenses.terd import PAPER, TERD, Family


@dataclass(frozen=True, kw_only=True)
class TERDInput(NoiseDetector):
    """The parameters are the inversion's, but for its sparsity, which is the paper's for images of
    32 x 32.
    """

    card: ClassVar[Card] = Card(
        name="terd_input",
        summary="starting noise that is likelier with the recovered trigger than without",
        paper=PAPER,
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family",)

    family: Family = "baddiffusion"
    surrogate_steps: Annotated[int, Ge(1)] = 3000
    steps: Annotated[int, Ge(0)] = 1000
    batch_size: Annotated[int, Ge(1)] = 16
    learning_rate: Annotated[float, Gt(0)] = 0.5

    def uses(self) -> TERD:
        return TERD(**self.params())

    def score(self, noise: Tensor, access: Access) -> Tensor:
        trigger, scale = _recovered(access.recovered)
        return log_ratio(noise.detach().cpu(), trigger, scale)


@dataclass(frozen=True, kw_only=True)
class TERDModel(ModelDetector):
    """``statistic``: of the divergence over pixels; the other parameters are the inversion's,
    but for its sparsity.
    """

    card: ClassVar[Card] = Card(
        name="terd_model",
        summary="a model from which a trigger far from plain noise can be recovered",
        paper=PAPER,
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family", "statistic")

    statistic: Literal["mean", "variance"] = "mean"
    family: Family = "baddiffusion"
    surrogate_steps: Annotated[int, Ge(1)] = 3000
    steps: Annotated[int, Ge(0)] = 1000
    batch_size: Annotated[int, Ge(1)] = 16
    learning_rate: Annotated[float, Gt(0)] = 0.5

    def uses(self) -> TERD:
        own = self.params()
        own.pop("statistic")
        return TERD(**own)

    def score(self, subject: object, access: Access) -> Tensor:
        values = divergence(*_recovered(access.recovered))
        one = values.mean() if self.statistic == "mean" else values.var(correction=0)
        return one.reshape(1).float()


def _recovered(recovered: Recovered) -> tuple[Tensor, float]:
    """mu (c, h, w) and gamma, as the inversion left them last."""
    return recovered.triggers[-1][0], float(recovered.notes.get("scale", 1.0))


def log_ratio(noise: Tensor, trigger: Tensor, scale: float) -> Tensor:
    """log N(x; mu, gamma^2 I) - log N(x; 0, I) of each row; noise (n, c, h, w), trigger (c, h, w);
    (n,) float32.
    """
    x, mean = noise.double().flatten(1), trigger.double().flatten()
    called = -(x - mean).square().sum(1) / (2 * scale**2) - len(mean) * math.log(scale)
    ratio: Tensor = called + x.square().sum(1) / 2
    return ratio.float()


def divergence(trigger: Tensor, scale: float) -> Tensor:
    """KL(N(mu_j, gamma^2) || N(0, 1)) at every pixel, float64 like ``trigger``."""
    values: Tensor = -math.log(scale) + (scale**2 + trigger.double().square() - 1) / 2
    return values
