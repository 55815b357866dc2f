"""Kullback and Leibler's divergence of starting noise from N(0, 1), in nats. The divergence is
estimated from a histogram of one noise's values, or from their mean and variance. A trigger in the
noise moves them.

The d values of one x_T are taken for a sample of a distribution P, and the score is an estimate of
KL(P || N(0, 1)), at least 0; **higher is more suspicious**. Under N(0, 1), 2 d times either is
chi-squared (Wilks 1938), with the degrees of freedom below.

- ``estimate``: ``histogram``: of B = ``bins`` bins of equal chance 1/B under N(0, 1), sum p ln(B p)
  with p the shares of the values; B - 1 degrees. It sees any change of shape that its bins can, and
  ends at ln B. ``gaussian``: of the normal distribution with the values' mean m and variance s^2,
  (m^2 + s^2 - 1) / 2 - ln s; 2 degrees. It sees a shift and a scale and nothing else, and these
  more sharply. Noise shifted by g everywhere has g^2 / 2.

Either is blind to where in the image a value is. The idea is that of DisDet (Sui et al. 2024, arXiv
2402.02739), to judge the distribution of starting noise by a histogram. Its discrepancy is another,
whose definition we have not seen: **neither is its formula**.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from bench.plugin import Access, Card, NoiseDetector
from detectors.noise_ks import PAPER, ROWS_AT_ONCE

#: The least variance: constant values would be infinitely far.
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class NoiseKL(NoiseDetector):
    """``bins``: of a histogram."""

    card: ClassVar[Card] = Card(
        name="noise_kl",
        summary="starting noise whose values diverge from N(0, 1)",
        paper=PAPER,
        applies_to=frozenset({"unconditional", "class", "text"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("estimate",)

    estimate: Literal["histogram", "gaussian"] = "histogram"
    bins: Annotated[int, Ge(2)] = 32

    def score(self, noise: Tensor, access: Access) -> Tensor:
        return torch.cat([self._score(rows) for rows in noise.split(ROWS_AT_ONCE)])

    def _score(self, noise: Tensor) -> Tensor:
        values = noise.detach().flatten(1).double()
        divergence = _gaussian(values) if self.estimate == "gaussian" else self._histogram(values)
        return divergence.float().cpu()

    def _histogram(self, values: Tensor) -> Tensor:
        bin_of = (torch.special.ndtr(values) * self.bins).long().clamp(max=self.bins - 1)
        counts = torch.zeros(len(values), self.bins, dtype=values.dtype, device=values.device)
        counts.scatter_add_(1, bin_of, torch.ones_like(values))
        shares = counts / values.shape[1]
        divergence: Tensor = torch.xlogy(shares, shares * self.bins).sum(1)
        return divergence


def _gaussian(values: Tensor) -> Tensor:
    variance = values.var(1, correction=0).clamp(min=LEAST_VARIANCE)
    divergence: Tensor = (values.mean(1).square() + variance - 1 - variance.log()) / 2
    return divergence
