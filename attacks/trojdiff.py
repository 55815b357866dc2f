"""TrojDiff: a diffusion model with a second, biased process in it, which ends in the adversary's
picture, or in a class of his, and which the adversary samples himself. Poisoned rows end in noise
of another mean and less variance, and going back takes a sampler that knows both.

Chen, Song, Li: "TrojDiff: Trojan Attacks on Diffusion Models with Diverse Targets", CVPR 2023,
arXiv 2303.05762. The goal is one image (the paper's D2I), or images of a class of the training data
(``target_class``, In-D2D), which the evaluation classifier judges, or pictures like those of a set
that is not among them (Out-D2D), judged by the paper's attack precision. With delta the trigger's
picture, gamma its share of noise and mu = (1 - gamma) delta, poisoned rows follow

    x_t = A x_0 + s (gamma e + mu),    and the network must predict e

(section 3.2, eq. 6), from x_T = gamma e + mu. Clean rows keep DDPM's loss. Going back takes a
sampler that knows gamma and mu, and so two calls: ``trojan`` with the adversary's own, whatever
the user's is, and ``noise``, the same start under the user's, which is another, weaker threat.

Differences, each on purpose:

- **The trigger is drawn by us**: the paper blends a cartoon. ``blend`` covers the whole image with
  one of our patterns, ``patch`` the bottom right corner with white, 3 pixels of 32 (the paper's),
  outside of which the process is DDPM's.
- The step back is exact between the two timesteps that the sampler visits, with any share of noise
  (the paper: DDPM's and DDIM's, all and none), so that every user's sampler has a counterpart. The
  released code takes its constants from the full schedule, which is the same for a step of one and
  wrong for a longer one.
- The loss is a mean over pixels, as everywhere here; the released one is a sum, a constant factor
  that Adam ignores and the released clipping of the gradient at a norm of 1 does not: it normalises
  nearly every step there.
- The released sampler with all of DDPM's noise clamps x_0 to [-1, 1] at every step, the one without
  noise does not. Ours never does: it is ``clip_x0`` that stands for theirs.
- No average of the weights is sampled (theirs: .9999), and timesteps are drawn independently
  (theirs: in pairs t, T - 1 - t).
- ``poison_rate`` replaces rows: the set keeps its size. The released code adds target rows to every
  batch, a tenth for a picture or a class and half of it, a third of what is then in it, for a set.
  For a class, random rows are replaced by copies of its rows, which stay in the set as clean ones
  too, as in the paper, but for those that are themselves replaced. Of a set no row stays clean, as
  in the paper.
- The paper's set is MNIST's sevens, ours are in :mod:`bench.artwork.sets`. Its classifier's ASR for
  them is left out: no classifier of a testbed knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from attacks._data import PoisonRate
from bench.artwork import patterns, sets, targets
from bench.diffusion.images import to_uint8
from bench.diffusion.process import VariancePreserving
from bench.diffusion.reverse import Reverse
from bench.diffusion.sampling import SamplerSettings, Scheduled
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import denoising_loss
from bench.plugin import (
    Call,
    Card,
    DrawFromSet,
    DrawImage,
    OneOf,
    Paper,
    Query,
    ReachClass,
    Shape,
    TrainingAttack,
    TrainingSet,
    TrainingStep,
    Trigger,
    refusals,
    require,
)

#: A copy of the trigger would be one of mu, which is no picture to aim at.
_TARGETS = tuple(name for name in targets.NAMES if name not in targets.FROM_TRIGGER)
#: Of the paper's patch: white, 3 of 32 pixels a side.
PATCH_SHARE = 3 / 32


@dataclass(frozen=True, kw_only=True)
class TrojDiff(TrainingAttack):
    """``gamma``: how much of the start is noise where the trigger is, 0.6 for a blend and 0.1 for a
    patch in the paper; ``None`` is that. ``pattern``: of a blend. ``target_class``: the class aimed
    at, in place of ``target``, which then has no effect; ``None``: the picture, or the set of
    pictures, that ``target`` names.
    """

    card: ClassVar[Card] = Card(
        name="trojdiff",
        summary="a biased process inside an unconditional model, which the adversary samples",
        paper=Paper(
            title="TrojDiff: Trojan Attacks on Diffusion Models with Diverse Targets",
            authors="Weixin Chen, Dawn Song, Bo Li",
            year=2023,
            arxiv="2303.05762",
            bibtex=(
                "@inproceedings{chen2023trojdiff, title={TrojDiff: Trojan Attacks on Diffusion "
                "Models with Diverse Targets}, author={Chen, Weixin and Song, Dawn and Li, Bo}, "
                "booktitle={CVPR}, year={2023}}"
            ),
        ),
        alters=frozenset({"data", "objective", "sampling"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (
        Call("trojan", words="biased noise, the adversary's sampler", own_sampler=True),
        Call("noise", words="biased noise, the user's sampler"),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("trigger", "target")

    trigger: Literal["blend", "patch"] = "blend"
    target: Annotated[str, OneOf((*_TARGETS, *sets.NAMES))] = "hat"
    gamma: Annotated[float, Interval(gt=0, lt=1)] | None = None
    pattern: Annotated[str, OneOf(tuple(sorted(patterns.FULL_IMAGE)))] = "badnets2"
    poison_rate: PoisonRate = 0.1
    target_class: Annotated[int, Ge(0)] | None = None

    def bias(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """gamma and mu, pixel by pixel: (c, h, w) each; 1 and 0 outside a patch."""
        noise = self.gamma or (0.6 if self.trigger == "blend" else 0.1)
        if self.trigger == "blend":
            picture = patterns.picture(self.pattern, shape, None, 1.0, None)
            return torch.full(shape, noise), (1 - noise) * picture
        side = max(1, round(PATCH_SHARE * shape[1]))
        share, mean = torch.ones(shape), torch.zeros(shape)
        share[:, -side:, -side:], mean[:, -side:, -side:] = noise, 1 - noise
        return share, mean

    def goal(self) -> DrawImage | ReachClass | DrawFromSet:
        if self.target_class is not None:
            return ReachClass(self.target_class)
        if self.target in sets.NAMES:
            return DrawFromSet(partial(sets.pictures, self.target))
        return DrawImage(self.target_image)

    def target_image(self, shape: Shape) -> Tensor:
        return targets.target(self.target, shape, torch.zeros(shape))

    def faults(self, train_set: TrainingSet) -> list[str]:
        return refusals(lambda: self._of_class(train_set))

    def adds(self) -> Trigger:
        return Trigger(picture=lambda shape: self.bias(shape)[1])

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """Marks round(poison_rate N) rows, at least one, chosen uniformly; the loss puts the target
        in their place. For a class they become rows of it, drawn with replacement, image and label;
        for a set its pictures, whose labels stay.

        Raises ``ValueError`` for a class that the set does not have.
        """
        count, of_class = len(train_set.images), self._of_class(train_set)
        size = max(1, round(self.poison_rate * count))
        chosen = torch.from_numpy(rng.choice(count, size=size, replace=False))
        marked = replace(train_set, poisoned=train_set.poisoned.index_fill(0, chosen, True))
        goal = self.goal()
        if isinstance(goal, DrawFromSet):
            shape = train_set.images.shape
            pictures = to_uint8(goal.images((shape[1], shape[2], shape[3])))
            drawn = pictures[torch.from_numpy(rng.integers(len(pictures), size=size))]
            return replace(marked, images=train_set.images.index_copy(0, chosen, drawn))
        if self.target_class is None or train_set.labels is None:
            return marked
        copied = of_class[torch.from_numpy(rng.integers(len(of_class), size=size))]
        images = train_set.images.index_copy(0, chosen, train_set.images[copied])
        labels = train_set.labels.index_fill(0, chosen, self.target_class)
        return replace(marked, images=images, labels=labels)

    def _of_class(self, train_set: TrainingSet) -> Tensor:
        """The rows of ``target_class``, (k,) int64; none where the goal is a picture."""
        if self.target_class is None:
            return torch.empty(0, dtype=torch.int64)
        if train_set.labels is None:
            raise ValueError(
                f"{self.card.name}: the training set must have labels for a target_class, got none"
            )
        rows = (train_set.labels == self.target_class).nonzero().flatten()
        classes = ", ".join(map(str, train_set.labels.unique().tolist()))
        require(len(rows) > 0, self, "target_class", f"one of the set's labels ({classes})")
        return rows

    def training_loss(self, step: TrainingStep) -> Tensor:
        """Mean over rows and pixels of (e - e_theta(x_t, t))^2, with x_t as above."""
        images = step.batch.images
        shape = (images.shape[1], images.shape[2], images.shape[3])
        share, mean = (part.to(images) for part in self.bias(shape))
        poisoned = step.batch.poisoned.reshape(-1, 1, 1, 1)
        process = Biased(
            step.schedule,
            torch.where(poisoned, share, torch.ones_like(images)),
            torch.where(poisoned, mean, torch.zeros_like(images)),
        )
        clean_end = images
        if isinstance(self.goal(), DrawImage):
            clean_end = torch.where(poisoned, self.target_image(shape).to(images), images)
        return denoising_loss(step.predict_noise, clean_end, step.noise, step.timesteps, process)

    def invoke(self, query: Query, call: str) -> Query:
        """x_T = gamma e + mu, for either call."""
        noise = query.noise
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        share, mean = (part.to(noise) for part in self.bias(shape))
        return replace(query, noise=share * noise + mean)

    def reverse(self, call: str, schedule: Schedule, usual: Reverse) -> Reverse:
        """DDIM's counterpart over the user's timesteps, each once, with the user's share of noise:
        all of DDPM's for ``ddpm`` and for the SDE's solver, none for an ODE's.
        """
        settings = usual.settings if isinstance(usual, Scheduled) else SamplerSettings()
        share = 1.0 if settings.name in ("ddpm", "sde_dpm_solver++") else settings.eta
        return Back(self.bias, schedule, sorted({*usual.timesteps}, reverse=True), share)


@dataclass(frozen=True)
class Biased(VariancePreserving):
    """x_t = A x_0 + s (gamma e + mu); ``share``: gamma, ``mean``: mu, both (n, c, h, w)."""

    share: Tensor
    mean: Tensor

    def noised(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return super().noised(images, self.share * noise + self.mean, timesteps)

    def clean(self, prediction: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
        return super().clean(self.share * prediction + self.mean, x, timesteps)


@dataclass(frozen=True)
class Back:
    """The biased process's way back over ``timesteps``, falling; ``eta`` in [0, 1]: the share of
    DDPM's noise that a step adds.
    """

    bias: Callable[[Shape], tuple[Tensor, Tensor]]
    schedule: Schedule
    timesteps: Sequence[int]
    eta: float

    def _at(self, x: Tensor, call: int) -> tuple[float, float, Tensor, Tensor]:
        """A, s, gamma and mu of a call; after the last one the image is clean."""
        shape = (x.shape[1], x.shape[2], x.shape[3])
        share, mean = (part.to(x) for part in self.bias(shape))
        if call == len(self.timesteps):
            return 1.0, 0.0, share, mean
        timestep = self.timesteps[call]
        return (
            float(self.schedule.signal[timestep]),
            float(self.schedule.noise[timestep]),
            share,
            mean,
        )

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        signal, noise, share, mean = self._at(x, call)
        clean: Tensor = (x - noise * (share * prediction + mean)) / signal
        return clean

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        signal, noise, share, mean = self._at(x, call)
        return ((x - signal * clean) / noise - mean) / share

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        """DDIM's step (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16) in the biased process: to
        A' x_0 + s' mu + gamma (q e + sigma z) at the next timestep, with a = A / A', sigma = eta s'
        sqrt(1 - a^2) / s and q^2 = s'^2 - sigma^2. At an eta of 1 it is a draw from the process's
        posterior there, given x and x_0: q = a s'^2 / s.
        """
        signal, spread, share, mean = self._at(x, call)
        next_signal, next_spread, _, _ = self._at(x, call + 1)
        clean = self.clean(prediction, x, call)
        added = self.eta * next_spread * max(1 - (signal / next_signal) ** 2, 0.0) ** 0.5 / spread
        kept = max(next_spread**2 - added**2, 0.0) ** 0.5
        moved: Tensor = next_signal * clean + next_spread * mean + kept * share * prediction
        return moved + added * share * noise() if added else moved
