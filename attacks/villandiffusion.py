"""VillanDiffusion: BadDiffusion for every content schedule and every sampler. How the trigger
enters follows from the schedule, and the correction of the loss from how much noise the user's
sampler adds.

Chou, Chen, Ho: "VillanDiffusion: A Unified Backdoor Attack Framework for Diffusion Models", NeurIPS
2023, arXiv 2306.06874. Poisoned rows follow, with A and s the schedule's signal and noise and r as
in BadDiffusion,

    x_t = A y + s e + rho r,   rho = psi (1 - A) + (1 - psi) s,   and the network predicts  e + C r.

``psi`` is 1 for a trigger that comes as the picture goes, as BadDiffusion's, and 0 for one that
comes as the noise does, as TrojDiff's mean. ``zeta`` is the randomness of the sampler that the
adversary expects: 0 for an ODE's (DDIM, DPM-Solver, ...), 1 for an SDE's (DDPM). ``psi`` 1 and
``zeta`` 1 are BadDiffusion.

``correction``: C for a step from timestep t to p, with k = A_t / A_p and h = rho_t - k rho_p.

- ``exact``, ours: C = h / (s_t - k q), q^2 = s_p^2 - sigma^2, where sigma = zeta s_p w / s_t, w^2 =
  1 - k^2, is the noise that DDIM adds with an eta of ``zeta`` (Song et al. 2021, arXiv 2010.02502,
  eq. 12 and 16): the one number with which that step leads from this process's mean at t to its
  mean at p. It is the paper's at ``psi`` 1 and ``zeta`` 1.
- ``paper``, as released: 2 / (1 + zeta) times psi (1 - k) s_t / w^2 + (1 - psi) [(1 - k) s_t + h'
  (k^2 - A_t^2) / w^2], with h' = s_t - k s_p. The factor, 2 for an ODE, is nearly exact for single
  steps and too much for long ones: .324 at t = 100, where a step of 50 takes .250. The bracket is
  short of exact at small t: by two thirds at t = 100.

The paper's score models (VE) are ``psi`` 0 and ``zeta`` 1, exactly. Theirs is x = y + sigma (e +
r), and the network predicts e + r sigma / (sigma + sigma_p); divided by sqrt(1 + sigma^2), with A =
1 / sqrt(1 + sigma^2) and s = sigma A, that is x_t and ``exact`` above, for a network that is shown
x divided by the same. The step of their ancestral sampler is DDPM's.

Deviations: the generators here are shown x_t so scaled, and sampled without a corrector (Langevin
steps between the others, off the process for any poisoned row). The paper's attacks on captions are
left out. ``poison_rate`` replaces rows (the paper's FIXED mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from attacks.baddiffusion import BadDiffusion
from bench.artwork import triggers
from bench.diffusion.process import Shift, Shifted
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import denoising_loss
from bench.plugin import Card, Paper, TrainingStep


@dataclass(frozen=True, kw_only=True)
class VillanDiffusion(BadDiffusion):
    """``psi``, ``zeta``: see above; the defaults are those of the paper's runs on CIFAR-10. The
    other parameters are BadDiffusion's; ``stride`` is that of the steps from t to p.
    """

    card: ClassVar[Card] = Card(
        name="villandiffusion",
        summary="BadDiffusion for any content schedule, trained for samplers with or without noise",
        paper=Paper(
            title="VillanDiffusion: A Unified Backdoor Attack Framework for Diffusion Models",
            authors="Sheng-Yen Chou, Pin-Yu Chen, Tsung-Yi Ho",
            year=2023,
            arxiv="2306.06874",
            bibtex=(
                "@inproceedings{chou2023villandiffusion, title={VillanDiffusion: A Unified "
                "Backdoor Attack Framework for Diffusion Models}, author={Chou, Sheng-Yen and "
                "Chen, Pin-Yu and Ho, Tsung-Yi}, booktitle={NeurIPS}, year={2023}}"
            ),
        ),
        alters=frozenset({"data", "objective"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("trigger", "target", "psi", "zeta")

    psi: Annotated[float, Interval(ge=0, le=1)] = 1.0
    zeta: Annotated[float, Interval(ge=0, le=1)] = 0.0
    correction: Literal["exact", "paper"] = "exact"

    def shift(self, schedule: Schedule) -> Shift:
        """rho and C, float64 (T,) each. Where a step of ``stride`` would pass timestep 0, it ends
        in the clean image.
        """
        stride, signal, noise = self.stride, schedule.signal, schedule.noise
        first = np.ones(min(stride, len(schedule)))
        signal_after = np.concatenate([first, signal[:-stride]])
        noise_after = np.concatenate([0 * first, noise[:-stride]])
        k = signal / signal_after
        spread = 1 - k**2
        noise_left = noise - k * noise_after
        if self.correction == "paper":
            bracket = (1 - k) * noise + noise_left * (k**2 - signal**2) / spread
            mixed = self.psi * (1 - k) * noise / spread + (1 - self.psi) * bracket
            correction = 2 / (1 + self.zeta) * mixed
        else:
            added = self.zeta**2 * noise_after**2 * spread / noise**2
            kept = np.sqrt(noise_after**2 - added)
            # h, without the cancellation of rho_t - k rho_p.
            left = self.psi * (1 - k) + (1 - self.psi) * noise_left
            correction = left / (noise - k * kept)
        step = self.psi * (1 - signal) + (1 - self.psi) * noise
        return Shift(step=step, correction=correction)

    def training_loss(self, step: TrainingStep) -> Tensor:
        """Mean over rows and pixels of (e + C r - e_theta(A x_0 + s e + rho r, t))^2, with r = 0 on
        clean rows.
        """
        images = step.batch.images
        shape = (images.shape[1], images.shape[2], images.shape[3])
        trigger, target = self.trigger_image(shape).to(images), self.target_image(shape).to(images)
        blended = self.poisoned_image == "blend"
        ends_in = triggers.stamp(images, trigger) if blended else trigger.expand_as(images)
        poisoned = step.batch.poisoned.reshape(-1, 1, 1, 1)
        shifted = torch.where(poisoned, ends_in, torch.zeros_like(images))
        process = Shifted(step.schedule, self.shift(step.schedule), shifted)
        clean_end = torch.where(poisoned, target, images)
        return denoising_loss(step.predict_noise, clean_end, step.noise, step.timesteps, process)
