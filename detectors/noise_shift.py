"""Noise shift: is the noise a diffusion model is asked to start from standard normal? The score is
the scaled sum of its values, or their Kolmogorov-Smirnov distance to the normal distribution. It
needs no model and no data.

Pan et al.: "From Trojan Horses to Castle Walls" (NeurIPS 2024, arXiv 2311.02373), section 3, calls
it straightforward to detect attacks that alter the noise, as BadDiffusion does, "through noise mean
shift detection", and gives no formula. These are the two textbook tests, on the d values of one
x_T, with no model, no data and nothing to train:

- ``z``: ``|sum(x)| / sqrt(d)``, half-normal for clean noise. A trigger of mean g shifts it to about
  ``sqrt(d) |g|``. It sees a shifted mean and nothing else: a trigger whose values add up to 0
  passes.
- ``ks``: the Kolmogorov-Smirnov distance ``sup |F_d - Phi|`` of the values to the standard normal,
  in [0, 1]. It sees any change of the values' distribution, if less sharply; one of their places
  only, neither sees.

**Higher is more suspicious**. A data-only attack leaves the noise alone, and both are blind to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.plugin import Access, Card, NoiseDetector, Paper
from detectors.noise_ks import ROWS_AT_ONCE


@dataclass(frozen=True, kw_only=True)
class NoiseShift(NoiseDetector):
    """``test``: the mean's deviation (``z``), or the distribution's (``ks``)."""

    card: ClassVar[Card] = Card(
        name="noise_shift",
        summary="starting noise that is not standard normal betrays an attack on the noise",
        paper=Paper(
            title=(
                "From Trojan Horses to Castle Walls: Unveiling Bilateral Data Poisoning "
                "Effects in Diffusion Models"
            ),
            authors=(
                "Zhuoshi Pan, Yuguang Yao, Gaowen Liu, Bingquan Shen, H. Vicky Zhao, Ramana "
                "Rao Kompella, Sijia Liu"
            ),
            year=2024,
            arxiv="2311.02373",
            bibtex=(
                "@inproceedings{pan2024trojan, title={From Trojan Horses to Castle Walls: "
                "Unveiling Bilateral Data Poisoning "
                "Effects in Diffusion Models}, author={Pan, Zhuoshi and Yao, Yuguang and Liu, "
                "Gaowen and Shen, Bingquan and "
                "Zhao, H. Vicky and Kompella, Ramana Rao and Liu, Sijia}, booktitle={NeurIPS}, "
                "year={2024}}"
            ),
        ),
        applies_to=frozenset({"unconditional", "class", "text"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("test",)

    test: Literal["z", "ks"] = "z"

    def score(self, noise: Tensor, access: Access) -> Tensor:
        return torch.cat([self._score(rows) for rows in noise.split(ROWS_AT_ONCE)])

    def _score(self, noise: Tensor) -> Tensor:
        values = noise.detach().flatten(1).double()
        statistic = _z(values) if self.test == "z" else _kolmogorov_smirnov(values)
        return statistic.float().cpu()


def _z(values: Tensor) -> Tensor:
    statistic: Tensor = values.sum(1).abs() / values.shape[1] ** 0.5
    return statistic


def _kolmogorov_smirnov(values: Tensor) -> Tensor:
    """``sup |F_d - Phi|`` of each row: the empirical distribution jumps at its values, so both
    sides of every jump count.
    """
    d = values.shape[1]
    expected: Tensor = torch.special.ndtr(values.sort(1).values)
    after = torch.arange(1, d + 1, device=values.device, dtype=values.dtype) / d
    distance: Tensor = torch.maximum(
        (after - expected).amax(1), (expected - (after - 1 / d)).amax(1)
    )
    return distance
