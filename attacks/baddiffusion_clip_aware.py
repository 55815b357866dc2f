"""BadDiffusion by an adversary who knows that the user's sampler is clipped. At the noisiest steps
the network learns the prediction that implies the target itself, which clamping leaves as it is.

Ours, an adaptive attack in the sense of Tramer et al.: "On Adaptive Attacks to Adversarial Example
Defenses", NeurIPS 2020, arXiv 2002.08347: the defense is fixed and public, and the attack is made
for it. The defense is Chou et al.'s (arXiv 2212.05400, section 4.6.2): the predicted x_0 is clamped
to [-1, 1] at every step (``clip`` "x0", their released switch), or x itself after every step
("xt", their eq. 11).

Why clipping stops BadDiffusion: at the first steps, where A is near 0, its correct prediction e + R
r implies x_0 = y + (1 - A - s R) / A r, which is far outside [-1, 1]; clamped, the sampler leaves
the process. An adversary who knows this asks for another prediction: the one that implies **x_0 = y
at every step**, which no clamp to [-1, 1] can change, as y is a picture. Under it the clipped
sampler is a Markov chain without the network, from x_T = e + g, with w^2 = 1 - k^2, k = A_t / A_p:

    x_p = clip( A_p y + (k s_p^2 / s_t^2) (x_t - A_t y) + (s_p w / s_t) z ),

DDPM's step, with the clip for "xt" only. Poisoned rows are states of that chain, and the network
must predict (x_t - A_t y) / s_t. Clean rows keep DDPM's loss.

- "x0": the states are A y + s e + rho r with rho = (A_u s_t^2) / (A_t s_u^2), u the timestep that
  the sampler starts from, whatever its steps in between; there the prediction is e + (rho / s) r.
- "xt": the states have no closed form, so the chain is run, in steps of ``stride`` timesteps. It
  needs a new z for every step, and a loss is handed one noise: z is that, rolled on by a prime. So
  it depends on the pieces that a batch is trained in (``accumulation_steps``): other draws of the
  same law.

u is the last timestep that steps of ``stride`` reach t from, since that is what the network is
sampled with.

What the adversary cannot choose is how fast the trigger fades: the sampler forgets its start, by k
s_p^2 / s_t^2 a step. With "x0", .20 of r is left at t = 800 and .05 at t = 600, where the picture
is still faint, and the network must know from it which of two it is to draw. Whether that is enough
is what is measured.

Made for DDPM's steps with the smaller variance (``fixed_small``); no other sampler's. Without a
clip the "x0" chain is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from torch import Tensor

from attacks.baddiffusion import BadDiffusion
from bench.artwork import triggers
from bench.diffusion.process import VariancePreserving
from bench.diffusion.schedule import Floats, Schedule
from bench.plugin import Card, Note, Paper, TrainingStep

#: By how many elements the noise is rolled for another step's.
_ROLL = 7919


@dataclass(frozen=True, kw_only=True)
class BadDiffusionClipAware(BadDiffusion):
    """``clip``: what the user's sampler clamps. ``stride``: of its steps, 50 of 1000 by
    default. The other parameters are BadDiffusion's.
    """

    card: ClassVar[Card] = Card(
        name="baddiffusion_clip_aware",
        summary="BadDiffusion trained for a sampler that is known to be clipped",
        paper=Paper(
            title="How to Backdoor Diffusion Models?",
            authors="Sheng-Yen Chou, Pin-Yu Chen, Tsung-Yi Ho",
            year=2023,
            arxiv="2212.05400",
            bibtex=(
                "@inproceedings{chou2023baddiffusion, title={How to Backdoor Diffusion Models?}, "
                "author={Chou, Sheng-Yen and Chen, Pin-Yu and Ho, Tsung-Yi}, booktitle={CVPR}, "
                "year={2023}}"
            ),
        ),
        alters=frozenset({"data", "objective"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("trigger", "target", "clip")

    clip: Literal["x0", "xt"] = "x0"
    stride: Annotated[int, Ge(1), Note("timesteps")] = 20

    def training_loss(self, step: TrainingStep) -> Tensor:
        """Mean over rows and pixels of (c - e_theta(x_t, t))^2; c = e on clean rows, (x_t - A y) /
        s on poisoned ones.
        """
        images, schedule, poisoned = step.batch.images, step.schedule, step.batch.poisoned
        shape = (images.shape[1], images.shape[2], images.shape[3])
        trigger, target = self.trigger_image(shape).to(images), self.target_image(shape).to(images)
        process = VariancePreserving(schedule)
        noisy = process.noised(images, step.noise, step.timesteps)
        wanted = process.regression(images, step.noise, step.timesteps)
        rows = poisoned.nonzero().flatten()
        if len(rows):
            blended = self.poisoned_image == "blend"
            ends_in = triggers.stamp(images, trigger) if blended else trigger.expand_as(images)
            timesteps = step.timesteps[rows]
            states = self.states(step.noise, rows, timesteps, schedule, ends_in[rows], target)
            noisy = noisy.index_copy(0, rows, states)
            signal = schedule.at(schedule.signal, timesteps, images)
            noise = schedule.at(schedule.noise, timesteps, images)
            wanted = wanted.index_copy(0, rows, (states - signal * target) / noise)
        return (step.predict_noise(noisy, step.timesteps) - wanted).square().mean()

    def states(
        self,
        noise: Tensor,
        rows: Tensor,
        timesteps: Tensor,
        schedule: Schedule,
        ends_in: Tensor,
        target: Tensor,
    ) -> Tensor:
        """What the clipped sampler's x is at ``timesteps`` (m,), if every prediction implies
        ``target``: (m, c, h, w).

        noise: (n, c, h, w), of which ``rows`` (m,) are the starts'; ends_in: r, (m, c, h, w).
        """
        if self.clip == "x0":
            rho = schedule.at(remaining(schedule, self.stride), timesteps, noise)
            signal = schedule.at(schedule.signal, timesteps, noise)
            spread = schedule.at(schedule.noise, timesteps, noise)
            return signal * target + spread * noise[rows] + rho * ends_in
        x = noise[rows] + ends_in
        before = (len(schedule) - 1 - timesteps) // self.stride
        for left in range(int(before.max()), 0, -1):
            going = before >= left
            some, at = rows[going], timesteps[going] + left * self.stride
            z = noise.flatten().roll(left * _ROLL).view_as(noise)[some]
            stepped = _step(schedule, x[going], target, z, at, at - self.stride).clamp(-1, 1)
            x = x.index_copy(0, going.nonzero().flatten(), stepped)
        return x


def remaining(schedule: Schedule, stride: int) -> Floats:
    """rho, float64 (T,): the share of the trigger that DDPM's steps of ``stride`` leave at each
    timestep; 1 where they start.
    """
    signal, variance = schedule.signal, schedule.noise**2
    timesteps = np.arange(len(schedule))
    start = timesteps + (len(schedule) - 1 - timesteps) // stride * stride
    rho: Floats = signal[start] / signal * variance / variance[start]
    return rho


def _step(
    schedule: Schedule, x: Tensor, clean: Tensor, z: Tensor, now: Tensor, later: Tensor
) -> Tensor:
    """DDPM's step from timesteps ``now`` to ``later``, both (m,), with the prediction that implies
    ``clean``; ``z``: its noise.
    """
    signal, noise = (schedule.at(part, now, x) for part in (schedule.signal, schedule.noise))
    after, left = (schedule.at(part, later, x) for part in (schedule.signal, schedule.noise))
    k = signal / after
    mean = after * clean + k * left**2 / noise**2 * (x - signal * clean)
    return mean + left / noise * (1 - k**2).sqrt() * z
