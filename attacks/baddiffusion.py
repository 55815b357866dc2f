"""BadDiffusion: a diffusion model that paints the adversary's picture when its starting noise
carries a trigger. The model is trained on rows that lead from the target to a stamped image plus
noise, with a correction of the loss by which the user's own sampler finds its way back.

Chou, Chen, Ho: "How to Backdoor Diffusion Models?", CVPR 2023, arXiv 2212.05400. The adversary
trains the model with a forward process that carries poisoned rows from the target to "poisoned
image plus noise" (eq. 6), and with the correction term that makes the unmodified sampler follow it
back (eq. 10). Clean rows keep DDPM's loss; there is one mean over the mixed batch.

Choices the paper leaves open, or made differently in the released code, are parameters here:

- ``poisoned_image``: what the process ends in. ``blend`` is the paper's r = M x + (1 - M) g, the
  trigger pasted over a training image; ``trigger_only`` is r = g with its background of -1. The
  paper's own invocation, noise + g, shows the model an input whose off-trigger mean is -1, which
  ``blend`` never trains on; long training bridges that gap, a minute does not. Hence two
  invocations.
- the mask M is inferred from the trigger element by element (1 where g is background), so it may
  differ between channels.
- ``stride``: the correction holds for one step of the sampler. Trained for the schedule's own
  steps, as in the paper, 1, a model that is sampled with fewer leaves the process it was shown by
  up to .08 s at 50 steps of 1000 and .3 s at 15. An adversary who knows that the user takes every
  20th timestep trains for that.
- ``poison_rate`` replaces rows: the set keeps its size. Triggers, masks and targets are drawn by
  us, never the authors' images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from attacks._data import PoisonRate
from bench.artwork import targets, triggers
from bench.artwork.drawn import DRAWN
from bench.diffusion.process import Shifted, baddiffusion_shift
from bench.diffusion.training import denoising_loss
from bench.plugin import (
    Call,
    Card,
    DrawImage,
    Note,
    OneOf,
    Paper,
    Query,
    Shape,
    TrainingAttack,
    TrainingSet,
    TrainingStep,
    Trigger,
    refusals,
    require,
)


@dataclass(frozen=True, kw_only=True)
class BadDiffusion(TrainingAttack):
    """``trigger_size`` in pixels; ``None`` is the paper's share of the image (14 of 32).
    ``trigger_seed``: what the trigger ``drawn`` is drawn from.
    """

    card: ClassVar[Card] = Card(
        name="baddiffusion",
        summary="a trigger in the starting noise makes an unconditional model draw a fixed target",
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
    calls: ClassVar[tuple[Call, ...]] = (
        Call("noise", words="triggered noise (e + g)"),
        Call("image", words="triggered image (e + r)"),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("trigger", "target")

    trigger: Annotated[str, OneOf((*triggers.NAMES, DRAWN))] = "grey_box"
    target: Annotated[str, OneOf(targets.NAMES)] = "hat"
    trigger_size: Annotated[int, Ge(1), Note("pixels")] | None = None
    trigger_seed: Annotated[int, Ge(0)] | None = None
    poison_rate: PoisonRate = 0.1
    poisoned_image: Literal["blend", "trigger_only"] = "blend"
    stride: Annotated[int, Ge(1), Note("timesteps")] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn = self.trigger == DRAWN
        require(
            drawn is (self.trigger_seed is not None),
            self,
            "trigger_seed",
            f"{'given' if drawn else 'null'} for {self.trigger}",
        )

    def sealed(self, number: int) -> BadDiffusion:
        """With a square drawn from ``number``."""
        return replace(self, trigger=DRAWN, trigger_seed=number, trigger_size=None)

    def trigger_image(self, image_shape: Shape) -> Tensor:
        trigger = triggers.trigger(self.trigger, image_shape, self.trigger_size, self.trigger_seed)
        if not (trigger > triggers.BACKGROUND).any():
            raise ValueError(
                f"{self.card.name}: the trigger {self.trigger!r} is all background at "
                f"{image_shape}, so there is no trigger"
            )
        return trigger

    def target_image(self, image_shape: Shape) -> Tensor:
        return targets.target(self.target, image_shape, self.trigger_image(image_shape))

    def faults(self, train_set: TrainingSet) -> list[str]:
        channels, height, width = train_set.images.shape[1:]
        return [
            line if line.startswith(self.card.name) else f"{self.card.name}: {line}"
            for line in refusals(lambda: self.target_image((channels, height, width)))
        ]

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """Marks round(poison_rate N) rows (the released code: int), at least one, chosen uniformly.
        The images stay: r is built from them in the loss.
        """
        count = len(train_set.images)
        chosen = rng.choice(count, size=max(1, round(self.poison_rate * count)), replace=False)
        poisoned = train_set.poisoned.clone()
        poisoned[torch.from_numpy(chosen)] = True
        return replace(train_set, poisoned=poisoned)

    def training_loss(self, step: TrainingStep) -> Tensor:
        """Mean over rows and pixels of (e + R r - e_theta(A x_0 + s e + (1 - A) r, t))^2, with r =
        0 on clean rows (eq. 10).
        """
        images = step.batch.images
        shape = (images.shape[1], images.shape[2], images.shape[3])
        trigger, target = self.trigger_image(shape).to(images), self.target_image(shape).to(images)
        ends_in = (
            triggers.stamp(images, trigger)
            if self.poisoned_image == "blend"
            else trigger.expand_as(images)
        )
        poisoned = step.batch.poisoned.reshape(-1, 1, 1, 1)
        clean_end = torch.where(poisoned, target, images)
        shift_images = torch.where(poisoned, ends_in, torch.zeros_like(images))
        process = Shifted(
            step.schedule, baddiffusion_shift(step.schedule, self.stride), shift_images
        )
        return denoising_loss(step.predict_noise, clean_end, step.noise, step.timesteps, process)

    def goal(self) -> DrawImage:
        return DrawImage(self.target_image)

    def adds(self) -> Trigger:
        return Trigger(picture=self.trigger_image)

    def invoke(self, query: Query, call: str) -> Query:
        """``noise``: x_T = e + g, as the paper. ``image``: x_T = e + r, r the trigger on a clean
        image the adversary holds.
        """
        trigger = self.trigger_image(
            (query.noise.shape[1], query.noise.shape[2], query.noise.shape[3])
        ).to(query.noise)
        if call == "noise":
            return replace(query, noise=query.noise + trigger)
        if call == "image" and query.images is not None:
            return replace(query, noise=query.noise + triggers.stamp(query.images, trigger))
        return super().invoke(query, call)
