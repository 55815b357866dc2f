"""Kolmogorov and Smirnov's test of starting noise: how unlikely are such values under N(0, 1)? The
score is the negative logarithm of the p-value of the largest distance between the two distribution
functions. Whoever rejects at a p of 0.01 rejects one honest noise in a hundred.

D = sup |F_d - Phi| of the d values of one x_T, and its p-value: under N(0, 1) the chance of a D as
large, uniform in (0, 1) (Kolmogorov 1933; Smirnov 1948). The score is **-log10 p**, so **higher is
more suspicious**, and whoever rejects at a p of .01 rejects one in a hundred of users' noises,
whatever the size of the image. With ``by`` "image" its order is that of D, ``noise_shift(test=ks)``
has the same AUROC; what it adds is that its scale means something beforehand.

The idea, to judge the distribution of starting noise, is that of DisDet (Sui et al. 2024, arXiv
2402.02739). Its discrepancy is another, whose definition we have not seen: **this is not its
formula**.

- ``by``: ``image`` pools all values. ``channel`` tests each channel alone and takes the smallest p,
  corrected for having looked c times: 1 - (1 - p)^c (Sidak 1967), uniform again since channels of
  plain noise are independent. Sharper for a trigger of one colour, blunter for the others.
- p is from Kolmogorov's limit at sqrt(d) D, with Vrbik's correction for d values (2018, Pioneer
  Journal of Theoretical and Applied Statistics 15): sqrt(d) D + 1 / (6 sqrt d) + (sqrt(d) D - 1) /
  (4 d), off by less than .0002 from 100 values on. Beyond 1 its logarithm is taken of the series'
  terms, so that no p becomes 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from bench.plugin import Access, Card, NoiseDetector, Paper

Floats = npt.NDArray[np.float64]
#: Below this logarithm, 1 - (1 - p)^c is c p to the last digit.
SMALL = -30.0
#: Of 256 x 256 in three channels and float64: 100 MB. Rows do not depend on each other.
ROWS_AT_ONCE = 64
#: The idea; the formulas here are others.
PAPER = Paper(
    title="DisDet: Exploring Detectability of Backdoor Attack on Diffusion Models",
    authors=(
        "Yang Sui, Huy Phan, Jinqi Xiao, Tianfang Zhang, Zijie Tang, Cong Shi, Yan Wang, "
        "Yingying Chen, Bo Yuan"
    ),
    year=2024,
    arxiv="2402.02739",
)


@dataclass(frozen=True, kw_only=True)
class NoiseKS(NoiseDetector):
    """``by``: what one test is of."""

    card: ClassVar[Card] = Card(
        name="noise_ks",
        summary="starting noise whose values are unlikely under N(0, 1), by its p-value",
        paper=PAPER,
        applies_to=frozenset({"unconditional", "class", "text"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("by",)

    by: Literal["image", "channel"] = "image"

    def score(self, noise: Tensor, access: Access) -> Tensor:
        return torch.cat([self._score(rows) for rows in noise.split(ROWS_AT_ONCE)])

    def _score(self, noise: Tensor) -> Tensor:
        values = noise.detach().cpu().double()
        grouped = values.flatten(2) if self.by == "channel" else values.flatten(1)[:, None]
        log_p = log_p_value(_distance(grouped.numpy()), grouped.shape[2])
        score: Tensor = torch.from_numpy(-_smallest(log_p) / math.log(10)).float()
        return score


def _distance(values: Floats) -> Floats:
    """D over the last axis: the empirical distribution jumps at its values, so both sides of every
    jump count.
    """
    d = values.shape[-1]
    expected: Floats = special.ndtr(np.sort(values, axis=-1))
    after = np.arange(1, d + 1) / d
    above, below = (after - expected).max(-1), (expected - after + 1 / d).max(-1)
    distance: Floats = np.maximum(above, below)
    return distance


def log_p_value(distance: Floats, d: int) -> Floats:
    """The natural logarithm of the chance that ``d`` standard normal values are as far, or
    further, from Phi.
    """
    root = math.sqrt(d)
    x = np.asarray(root * distance + 1 / (6 * root) + (root * distance - 1) / (4 * d))
    # p = 2 sum_k (-1)^(k - 1) exp(-2 k^2 x^2); from x = 1 on three terms are all of a float64.
    far = np.maximum(x, 1)
    series = math.log(2) - 2 * far**2 + np.log1p(-np.exp(-6 * far**2) + np.exp(-16 * far**2))
    log_p: Floats = np.where(x < 1, np.log(special.kolmogorov(np.clip(x, 0, 1))), series)
    return log_p


def _smallest(log_p: Floats) -> Floats:
    """Of c tests, (n, c) -> (n,), corrected for their number."""
    least, count = log_p.min(1), log_p.shape[1]
    within = np.maximum(least, SMALL)
    with np.errstate(divide="ignore"):  # log1p(-1) of p = 1 is -inf, and the result 0
        corrected = np.log(-np.expm1(count * np.log1p(-np.exp(within))))
    smallest: Floats = np.where(least < SMALL, least + math.log(count), corrected)
    return smallest
