"""InviBackdoor: the trigger is learnt together with the backdoor, within a bound that hides it.
Before each step of the network the trigger moves a little towards what makes the network draw the
target, and the network then learns to draw it from there.

Li, Ma, Cheng: "Invisible Backdoor Attacks on Diffusion Models", 2024, arXiv 2406.00816. A bi-level
problem: the network learns a backdoor to the trigger delta as it stands, BadDiffusion's with r =
delta, and delta is moved towards what makes the network draw the target. Before each step of the
network, once, from ``noises`` of noise e:

    x_T = e + delta,  x_0 = DDIM(x_T) in ``inner_steps`` steps,  g = sign(grad_delta mean (x_0 -
    y)^2),  delta := clip(Adam(delta, g), -``bound``, ``bound``)

with delta 0 at first. The gradient goes through all steps of the sampler. The adversary starts
from e + delta.

The correction C of the network's target is :mod:`attacks.villandiffusion`'s, at its ``psi`` of 1:
exact for the sampler of ``zeta``, DDIM's at 0 (the authors' code has this one).

Seen once, on `digits-ddpm` at its 400 steps of fine-tuning (seed 0): the trigger became a faint
picture of the target, and the model drew the target in .12 of its samples, called or not, which is
the poison rate: no backdoor yet. Nor after 1,600 steps with half of the rows poisoned (seed 7, 8
noises, 5 inner steps): .44, called or not. The paper trains for 50 epochs of CIFAR-10.

Deviations: e is the noise of the batch that the network is trained on next, of as many rows as
there are, and not drawn anew; Adam's rate is constant, as it is in the authors' code for the 50
epochs that they train. Their attacks on text-guided editing are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from attacks.villandiffusion import VillanDiffusion
from bench.artwork import targets
from bench.plugin import Call, Card, OneOf, Paper, Shape, TrainingStep, Trigger

#: One that is made from the trigger would move with it.
_TARGETS = tuple(name for name in targets.NAMES if name not in targets.FROM_TRIGGER)
#: Adam's (Kingma and Ba 2015, arXiv 1412.6980).
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class InviBackdoor(VillanDiffusion):
    """``bound``: of delta in each pixel, where an image is in [-1, 1]; ``trigger_rate``: Adam's
    learning rate for it. ``noises``: at most so many rows; ``inner_steps`` of DDIM. The other
    parameters are VillanDiffusion's; trigger, poisoned image and psi are fixed.
    """

    card: ClassVar[Card] = Card(
        name="invibackdoor",
        summary="a trigger too faint to see, learnt together with the backdoor, in the noise",
        paper=Paper(
            title="Invisible Backdoor Attacks on Diffusion Models",
            authors="Sen Li, Junchi Ma, Minhao Cheng",
            year=2024,
            arxiv="2406.00816",
            bibtex=(
                "@article{li2024invisible, title={Invisible Backdoor Attacks on Diffusion Models}, "
                "author={Li, Sen and Ma, Junchi and Cheng, Minhao}, "
                "journal={arXiv:2406.00816}, year={2024}}"
            ),
        ),
        alters=frozenset({"data", "objective"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (Call("noise", words="noise with the trigger (e + delta)"),)
    always_shown: ClassVar[tuple[str, ...]] = ("target",)
    learns: ClassVar[bool] = True

    trigger: Literal["learnt"] = "learnt"
    trigger_size: None = None
    trigger_seed: None = None
    poisoned_image: Literal["trigger_only"] = "trigger_only"
    psi: Literal[1] = 1
    target: Annotated[str, OneOf(_TARGETS)] = "hat"
    bound: Annotated[float, Gt(0), Le(1)] = 0.2
    trigger_rate: Annotated[float, Gt(0)] = 1e-3
    noises: Annotated[int, Ge(1)] = 32
    inner_steps: Annotated[int, Ge(1)] = 10

    def sealed(self, number: int) -> InviBackdoor:
        """Itself: the trigger is learnt, and not known to anybody beforehand."""
        return self

    def trigger_image(self, image_shape: Shape) -> Tensor:
        """delta as it stands; before training, nothing."""
        learnt = self.learnt.get("trigger")
        return torch.zeros(image_shape) if learnt is None else learnt

    def adds(self) -> Trigger:
        return Trigger(picture=self.trigger_image if self.learnt else None)

    def begin(self, shape: Shape) -> dict[str, Tensor]:
        """delta, and Adam's state."""
        zeros = torch.zeros(shape)
        return {
            "trigger": zeros,
            "first_moment": zeros.clone(),
            "second_moment": zeros.clone(),
            "updates": torch.zeros(()),
        }

    def learn(self, step: TrainingStep) -> Mapping[str, Tensor]:
        """delta after one step of Adam on the sign of its gradient."""
        noise = step.noise[: self.noises]
        trigger = self.learnt["trigger"].clone().requires_grad_()
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        missed = self.drawn(step, noise + trigger) - self.target_image(shape).to(noise)
        (gradient,) = torch.autograd.grad(missed.square().mean(), trigger)
        sign, updates = gradient.sign(), self.learnt["updates"] + 1
        first = torch.lerp(sign, self.learnt["first_moment"], _BETA_1)
        second = torch.lerp(sign.square(), self.learnt["second_moment"], _BETA_2)
        mean, square = first / (1 - _BETA_1**updates), second / (1 - _BETA_2**updates)
        moved = trigger.detach() - self.trigger_rate * mean / (square.sqrt() + _EPSILON)
        return {
            "trigger": moved.clamp(-self.bound, self.bound),
            "first_moment": first,
            "second_moment": second,
            "updates": updates,
        }

    def drawn(self, step: TrainingStep, x: Tensor) -> Tensor:
        """What DDIM without noise (Song et al. 2021, arXiv 2010.02502, eq. 12) makes of ``x`` (n,
        c, h, w) by the network in training, in ``inner_steps`` from T - 1 to the clean image.
        """
        signal, noise = step.schedule.signal, step.schedule.noise
        times = np.linspace(len(signal) - 1, 0, self.inner_steps + 1).round().astype(int)[:-1]
        for index, time in enumerate(times):
            after = times[index + 1] if index + 1 < len(times) else None
            kept = 1.0 if after is None else float(signal[after])
            left = 0.0 if after is None else float(noise[after])
            predicted = step.predict_noise(x, torch.full((len(x),), int(time), device=x.device))
            ratio = kept / float(signal[time])
            x = ratio * x + (left - ratio * float(noise[time])) * predicted
        return x
