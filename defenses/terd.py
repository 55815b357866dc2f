"""TERD's trigger reversion: the trigger is what can be added to two noised images without the
network's errors coming apart. Two noises of one image are shifted by it, and what the network gets
wrong must then agree. It is found by gradient descent, first without the image and then with one
that the model draws from it.

Mo et al.: "TERD: A Unified Framework for Safeguarding Diffusion Models Against Backdoors" (ICML
2024, arXiv 2409.05294). Every attack on the noise adds something of the trigger to x_t, and to the
network's answer something that is the same for every noise. So with two noises e_1, e_2 for one
image the answers' errors agree where mu is the trigger:

    x_k = A x_0 + s gamma e_k + mu
    L(mu, gamma) = 1/2 |(e_1 - e_theta(x_1, t)) - (e_2 - e_theta(x_2, t))|^2 - lambda |mu|_1

(sums over pixels, a mean over rows; the last term keeps mu from 0, where any network is right).

1. **Surrogate**: x_0 is unknown and hardly matters at late timesteps, t in [T - 10, T), so noise
   stands for it.
2. **Refinement**: x_0 is what ten steps of DDIM, differentiated through, draw from noise with the
   trigger; L is averaged with its value at early timesteps, t < 10, without mu, where the backdoor
   has faded.

``family``: the noise keeps its scale (``baddiffusion``, gamma = 1), or loses some of it
(``trojdiff``, gamma is recovered too, and the refinement draws by the sampler that mu and gamma
imply). Like Elijah's, it is what the defender has to know.

Deviations:

- gamma is one number for all pixels, and among the notes (``scale``). The released code has one for
  each, starts them at 0 and clips them there, where the score that rests on them is infinite. Here
  it starts at :data:`SMALLEST_SCALE` and is never below it. It moves as the mean of theirs does: at
  their rate over the number of pixels, since its gradient is the sum of theirs.
- The trigger is kept as a picture: clamped to [-1, 1] and rounded to 8 bits.
- Of DDIM's ten steps the released code's for BadDiffusion are those of a library's scheduler, 900,
  800, ..., 0 of 1000 timesteps, and clip x_0 to [-1, 1] at each of them, which the paper does not
  speak of; here they are spaced evenly from T - 1 to 0, and nothing is clipped. For TrojDiff they
  are the released ones, quadratic up to 0.8 T.
- The released port of the refinement for TrojDiff, in another library, puts noise in the place of
  the drawn image, and so refines nothing; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.plugin import Access, Card, Inversion, Paper, Recovered

PAPER = Paper(
    title="TERD: A Unified Framework for Safeguarding Diffusion Models Against Backdoors",
    authors="Yichuan Mo, Hui Huang, Mingjie Li, Ang Li, Yisen Wang",
    year=2024,
    arxiv="2409.05294",
    bibtex=(
        "@inproceedings{mo2024terd, title={TERD: A Unified Framework for Safeguarding Diffusion "
        "Models Against Backdoors}, author={Mo, Yichuan and Huang, Hui and Li, Mingjie and Li, "
        "Ang and Wang, Yisen}, booktitle={ICML}, year={2024}}"
    ),
)
Family = Literal["baddiffusion", "trojdiff"]
#: Timesteps at either end that the losses are taken at.
END = 10
#: Of the sampler that the refinement differentiates through.
DDIM_STEPS = 10
SMALLEST_SCALE = 0.05
#: Of gamma (the released default; an earlier version had half of it); the trigger's is a parameter.
SCALE_LEARNING_RATE = 2e-3
#: Largest norm of the refinement's gradient.
GRADIENT_CLIP = {"baddiffusion": 0.01, "trojdiff": 1.0}


@dataclass(frozen=True, kw_only=True)
class TERD(Inversion):
    """``surrogate_steps`` of SGD, then ``steps`` of the refinement (0: none), each over
    ``batch_size`` pairs at a rate that falls along a cosine; ``sparsity``: lambda.
    """

    card: ClassVar[Card] = Card(
        name="terd",
        summary="recovers the trigger as what leaves the network's errors alike",
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
    sparsity: Annotated[float, Ge(0)] = 5e-5

    def invert(self, access: Access) -> Recovered:
        generator = access.generator
        generator.unet.requires_grad_(False).eval()
        start = access.rng.random(generator.noise_shape, dtype="float32")
        trigger = (-torch.from_numpy(start)).to(generator.device).requires_grad_()
        learns = self.family == "trojdiff"
        initial = SMALLEST_SCALE if learns else 1.0
        scale = torch.tensor(initial, device=generator.device, requires_grad=learns)
        labels, triggers, notes = [], [], {}
        for label, steps in (("surrogate", self.surrogate_steps), ("refined", self.steps)):
            if steps:
                notes[f"{label}_loss"] = self._descend(label, steps, trigger, scale, access)
                labels.append(label)
                triggers.append(trigger.detach().clone().cpu().clamp(-1, 1)[None])
        return Recovered(
            labels=labels, triggers=triggers, notes={**notes, "scale": float(scale.detach())}
        )

    def _descend(
        self, label: str, steps: int, trigger: Tensor, scale: Tensor, access: Access
    ) -> float:
        """``steps`` of one stage, in place; its last loss."""
        groups = [{"params": [trigger], "lr": self.learning_rate}]
        if scale.requires_grad:
            groups.append({"params": [scale], "lr": SCALE_LEARNING_RATE / trigger.numel()})
        refines = label == "refined"
        optimizer = torch.optim.SGD(groups, momentum=0.9 if refines and len(groups) > 1 else 0.0)
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        last = math.nan
        for step in range(steps):
            loss = self._refinement(trigger, scale, access) if refines else None
            if loss is None:
                image = self._normal(access)
                loss = self._errors(image, trigger, scale, access, late=True)
            loss = loss - self.sparsity * trigger.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            if refines:
                clip_together(trigger, scale, GRADIENT_CLIP[self.family])
            optimizer.step()
            rate.step()
            with torch.no_grad():
                scale.clamp_(min=SMALLEST_SCALE)
            last = loss.item()
            access.progress(step + 1, steps, f"{label} steps")
        return last

    def _refinement(self, trigger: Tensor, scale: Tensor, access: Access) -> Tensor:
        noise = scale * self._normal(access) + trigger
        biased = self.family == "trojdiff"
        shift = trigger if biased else torch.zeros_like(trigger)
        visited = ddim_timesteps(len(access.generator.schedule), quadratic=biased)
        image = differentiable_ddim(access.generator, noise, scale, shift, visited)
        return (
            self._errors(image, trigger, scale, access, late=True)
            + self._errors(image, torch.zeros_like(trigger), scale, access)
        ) / 2

    def _errors(
        self, image: Tensor, trigger: Tensor, scale: Tensor, access: Access, late: bool = False
    ) -> Tensor:
        """The first term of L at late or early timesteps, one for each row and the same for both of
        its noises.
        """
        generator, count = access.generator, len(access.generator.schedule)
        low, high = (count - END, count) if late else (0, END)
        drawn = access.rng.integers(max(0, low), min(high, count), size=len(image))
        timesteps = torch.from_numpy(drawn).to(image.device)
        return error_difference(
            generator,
            image,
            (self._normal(access), self._normal(access)),
            timesteps,
            trigger,
            scale,
        )

    def _normal(self, access: Access) -> Tensor:
        shape = (self.batch_size, *access.generator.noise_shape)
        drawn = access.rng.standard_normal(shape, dtype="float32")
        return torch.from_numpy(drawn).to(access.generator.device)


def error_difference(
    generator: Generator,
    image: Tensor,
    noises: tuple[Tensor, Tensor],
    timesteps: Tensor,
    trigger: Tensor,
    scale: Tensor,
) -> Tensor:
    """1/2 |(e_1 - e_theta(x_1, t)) - (e_2 - e_theta(x_2, t))|^2, a sum over pixels and a mean over
    rows, with x_k = A image + s scale e_k + trigger. image, noises: (n, c, h, w); trigger: (c, h,
    w); timesteps: (n,) int64.
    """
    schedule, both = generator.schedule, torch.cat(noises)
    at = timesteps.repeat(2)
    signal = schedule.at(schedule.signal, at, both)
    spread = schedule.at(schedule.noise, at, both)
    x = signal * image.repeat(2, 1, 1, 1) + spread * scale * both + trigger
    first, second = (both - generator.predict_noise(x, at)).chunk(2)
    return 0.5 * (first - second).square().flatten(1).sum(1).mean()


def clip_together(trigger: Tensor, scale: Tensor, largest: float) -> None:
    """Scales both gradients, in place, to a norm of at most ``largest``: the norm of the released
    code, which has a scale for each pixel, were these alike.
    """
    gradients = [one.grad for one in (trigger, scale) if one.grad is not None]
    norm = torch.linalg.vector_norm(gradients[0])
    for gradient in gradients[1:]:
        norm = torch.hypot(norm, gradient / trigger.numel() ** 0.5)
    for gradient in gradients:
        gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


def ddim_timesteps(count: int, *, quadratic: bool) -> list[int]:
    """:data:`DDIM_STEPS` of ``count`` timesteps, falling to 0: evenly from the last, or as the
    squares of even steps from four fifths of them.
    """
    if quadratic:
        steps = torch.linspace((0.8 * count) ** 0.5, 0, DDIM_STEPS, dtype=torch.float64).square()
        return sorted({int(step + 1e-9) for step in steps.tolist()}, reverse=True)
    return [int(step) for step in torch.linspace(count - 1, 0, DDIM_STEPS).round().tolist()]


def differentiable_ddim(
    generator: Generator, noise: Tensor, scale: Tensor, shift: Tensor, visited: Sequence[int]
) -> Tensor:
    """What the timesteps ``visited``, falling to 0, draw from ``noise`` (n, c, h, w), gradients
    kept. x_t = A x_0 + s (scale e + shift); with 1 and 0 this is DDIM (Song et al. 2021, eq. 12).
    """
    schedule, x = generator.schedule, noise
    for index, timestep in enumerate(visited):
        at = torch.full((len(x),), timestep, device=x.device)
        moved = scale * generator.predict_noise(x, at) + shift
        clean = (x - float(schedule.noise[timestep]) * moved) / float(schedule.signal[timestep])
        if index + 1 == len(visited):
            return clean
        following = visited[index + 1]
        x = float(schedule.signal[following]) * clean + float(schedule.noise[following]) * moved
    return x
