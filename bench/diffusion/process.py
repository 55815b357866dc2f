"""Diffusion processes: how an image becomes noise, and what the network must predict.

Backdoor objectives have in common a process that does not end in plain noise. A shifted process
adds an image ``r`` as the clean image fades (BadDiffusion, arXiv 2212.05400, eq. 6):

    x_t = A[t] x_0 + s[t] e + step[t] r          and the network must predict   e + correction[t] r

so that the *unmodified* DDPM sampler, started at noise + r, ends in x_0. For BadDiffusion step = 1
- A, and the correction makes the sampler's mean equal the exact posterior mean of the shifted
process at every t (eq. 8 to 10 and appendix J; tested to 1e-10).

The reverse direction is the sampler's (:mod:`bench.diffusion.sampling`): process and sampler are
chosen independently, and an attack may bring either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from bench.diffusion.schedule import Floats, Schedule


@dataclass(frozen=True)
class Shift:
    """``step`` and ``correction``: float64 (T,) arrays over the timesteps."""

    step: Floats
    correction: Floats


def baddiffusion_shift(schedule: Schedule, stride: int = 1) -> Shift:
    """``step = 1 - A`` and ``correction = s / (1 + sqrt(alpha))``.

    The paper's (1 - sqrt(alpha)) s / (1 - alpha) is the same number, but suffers from cancellation;
    this form does not. ``stride``: how many timesteps the sampler's steps span; alpha is then that
    of the whole step, A[t]^2 / A[t - stride]^2. The paper's stride is 1.
    """
    before = np.concatenate(
        [np.ones(min(stride, len(schedule))), schedule.alphas_cumprod[:-stride]]
    )
    root = np.sqrt(schedule.alphas_cumprod / before)
    return Shift(step=1 - schedule.signal, correction=schedule.noise / (1 + root))


class Process(Protocol):
    """The forward process, as training needs it. images, noise: (n, c, h, w); timesteps: (n,)
    int64.
    """

    def noised(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t, (n, c, h, w)."""
        ...

    def regression(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The network's regression target, (n, c, h, w)."""
        ...

    def clean(self, prediction: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        """x_0, (n, c, h, w), implied by the ``prediction`` for ``x``: the inverse of the others."""
        ...


@dataclass(frozen=True)
class VariancePreserving:
    """DDPM's: x_t = A x_0 + s e, and the network predicts e (Ho et al. 2020, eq. 4 and 14)."""

    schedule: Schedule

    def noised(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        schedule = self.schedule
        return (
            schedule.at(schedule.signal, timesteps, images) * images
            + schedule.at(schedule.noise, timesteps, images) * noise
        )

    def regression(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def clean(self, prediction: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        schedule = self.schedule
        without = x - schedule.at(schedule.noise, timesteps, x) * prediction
        return without / schedule.at(schedule.signal, timesteps, x)


@dataclass(frozen=True)
class Shifted(VariancePreserving):
    """Ends in noise + r. ``images``: r, (n, c, h, w); zeros make an ordinary clean row."""

    shift: Shift
    images: Tensor

    def noised(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        step = self.schedule.at(self.shift.step, timesteps, images)
        return super().noised(images, noise, timesteps) + step * self.images

    def regression(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise + self.schedule.at(self.shift.correction, timesteps, images) * self.images

    def clean(self, prediction: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        correction = self.schedule.at(self.shift.correction, timesteps, x)
        step = self.schedule.at(self.shift.step, timesteps, x)
        return super().clean(
            prediction - correction * self.images, x - step * self.images, timesteps
        )
