"""Forward processes that end somewhere else than in plain noise: what the backdoor objectives
share.

A shifted process carries an image ``r`` into the noise as the clean image fades (BadDiffusion,
arXiv 2212.05400, eq. 6):

    x_t = A[t] x_0 + s[t] e + step[t] r          and the network must predict   e + correction[t] r

so that the *unmodified* DDPM sampler, started at noise + r, ends in x_0. For BadDiffusion step = 1
- A, and the correction makes the sampler's mean equal the exact posterior mean of the shifted
process at every t (eq. 8 to 10 and appendix J; tested to 1e-10).
"""

from __future__ import annotations

from dataclasses import dataclass

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

    The paper's (1 - sqrt(alpha)) s / (1 - alpha) is the same number with a cancellation; this form
    has none. ``stride``: how many timesteps the sampler's steps span; alpha is then that of the
    whole step, A[t]^2 / A[t - stride]^2, and 1 the paper's.
    """
    before = np.concatenate(
        [np.ones(min(stride, len(schedule))), schedule.alphas_cumprod[:-stride]]
    )
    root = np.sqrt(schedule.alphas_cumprod / before)
    return Shift(step=1 - schedule.signal, correction=schedule.noise / (1 + root))


def shifted_pair(
    images: Tensor,
    shift_images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    shift: Shift,
) -> tuple[Tensor, Tensor]:
    """``(x_t, regression target)`` for a batch.

    images, shift_images, noise: (n, c, h, w); timesteps: (n,) int64. A row whose ``shift_images``
    is zero is an ordinary clean row.
    """
    noisy = (
        schedule.at(schedule.signal, timesteps, images) * images
        + schedule.at(schedule.noise, timesteps, images) * noise
        + schedule.at(shift.step, timesteps, images) * shift_images
    )
    return noisy, noise + schedule.at(shift.correction, timesteps, images) * shift_images
