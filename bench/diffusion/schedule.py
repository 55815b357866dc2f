"""The noise schedule of a variance-preserving diffusion model, as plain numbers.

Notation (Ho et al. 2020, arXiv 2006.11239, eq. 4): ``x_t = A[t] x_0 + s[t] e`` with ``A = sqrt(alphas_cumprod)`` and
``s = sqrt(1 - alphas_cumprod)``. Everything is kept in float64; batches receive float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """``betas``: float64 (T,), every value in (0, 1)."""

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("betas must be a non-empty sequence of values in (0, 1)")

    @classmethod
    def linear(cls, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
        """DDPM's schedule (Ho et al. 2020, section 4)."""
        return cls(tuple(np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64).tolist()))

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas(self) -> Floats:
        """``1 - beta``, float64 (T,)."""
        return 1 - np.asarray(self.betas, dtype=np.float64)

    @cached_property
    def alphas_cumprod(self) -> Floats:
        """Float64 (T,), falling from near 1 to near 0."""
        kept: Floats = np.cumprod(self.alphas)  # type: ignore[assignment]  # numpy 2.4 types cumprod as any floating
        return kept

    @cached_property
    def signal(self) -> Floats:
        """``A[t]``, the share of the clean image that is left, float64 (T,)."""
        signal: Floats = np.sqrt(self.alphas_cumprod)
        return signal

    @cached_property
    def noise(self) -> Floats:
        """``s[t]``, the standard deviation of the noise, float64 (T,)."""
        noise: Floats = np.sqrt(1 - self.alphas_cumprod)
        return noise

    def at(self, values: Floats, timesteps: Tensor, like: Tensor) -> Tensor:
        """``values[timesteps]`` with ``like``'s dtype and device, shaped to multiply a batch like it: (n, 1, 1, 1)."""
        chosen = torch.as_tensor(values, dtype=like.dtype, device=like.device)[timesteps.to(like.device)]
        return chosen.reshape(-1, *([1] * (like.ndim - 1)))
