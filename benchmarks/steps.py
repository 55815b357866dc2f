"""Our training step and our sampling step against those of :mod:`benchmarks.plain`, in one run, in
turn.

A repetition trains for a few steps and draws one batch, ours and the plain one alternating. In
training the clocks run from the end of the start-up steps to the end of the last one; in sampling
over the whole batch, its initial noise included. The ratio is of neighbouring repetitions, plain
over ours, in wall time; beside it the same in CPU time, which a busy machine disturbs less.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler
from torch.nn.functional import pixel_unshuffle

from bench.diffusion.images import to_unit_range
from benchmarks import plain
from benchmarks.subject import SEED, Subject
from benchmarks.timing import Moment, Row, Settings, interleaved, ratios

#: What the harness adds (noise streams, gradient clipping, folding, reports) may cost a tenth.
GOAL = 0.9
WARM_UP_STEPS = 2


class Stopwatch:
    """Reads the clocks after ``start`` steps and again after the latest one."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.first = self.last = Moment.now()

    def __call__(self, done: int, *_: object) -> None:
        self.last = Moment.now()
        if done <= self.start:
            self.first = self.last

    def per_step(self, steps: int) -> Moment:
        """Seconds between the two readings, divided by ``steps``."""
        spent = self.last - self.first
        return Moment(spent.wall / steps, spent.cpu / steps)


def steps(settings: Settings) -> list[Row]:
    """Milliseconds a step of every contender, and the ratios."""
    torch.manual_seed(SEED)  # the plain loops draw from torch's own stream
    subject = Subject.make()
    training = interleaved(
        {"ours": our_training(subject, settings), "plain": plain_training(subject, settings)},
        settings.repetitions,
    )
    sampling = interleaved(
        {"ours": our_sampling(subject, settings), "plain": plain_sampling(subject, settings)},
        settings.repetitions,
    )
    return [*_rows("training step", training), *_rows("sampling step", sampling)]


def _rows(what: str, moments: dict[str, list[Moment]]) -> list[Row]:
    wall = {name: [moment.wall for moment in taken] for name, taken in moments.items()}
    cpu = {name: [moment.cpu for moment in taken] for name, taken in moments.items()}
    milliseconds = [
        Row(quantity=f"{what}, {name}", unit="ms", values=tuple(1000 * value for value in values))
        for name, values in wall.items()
    ]
    return [
        *milliseconds,
        Row(
            quantity=f"{what}, plain / ours",
            unit="ratio, wall",
            values=ratios(wall["plain"], wall["ours"]),
            goal=GOAL,
        ),
        Row(
            quantity=f"{what}, plain / ours",
            unit="ratio, CPU",
            values=ratios(cpu["plain"], cpu["ours"]),
        ),
    ]


def our_training(subject: Subject, settings: Settings) -> Callable[[], Moment]:
    """Seconds a step of our training loop, anew from the base weights in every call."""

    def run() -> Moment:
        watch = Stopwatch(WARM_UP_STEPS)
        subject.train(
            subject.testbed.base_generator(), settings, WARM_UP_STEPS + settings.steps, watch
        )
        return watch.per_step(settings.steps)

    return run


def plain_training(subject: Subject, settings: Settings) -> Callable[[], Moment]:
    """Seconds a step of the plain training loop, from the same weights."""
    images = to_unit_range(subject.poisoned.images)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    fold = subject.testbed.base_generator().fold
    images, trigger, target = (
        pixel_unshuffle(pictures, fold)
        for pictures in (
            images,
            subject.attack.trigger_image(shape),
            subject.attack.target_image(shape),
        )
    )

    def run() -> Moment:
        generator = subject.testbed.base_generator()
        watch = Stopwatch(WARM_UP_STEPS)
        plain.train(
            generator.unet,
            DDPMScheduler.from_config(generator.scheduler_config),
            images,
            subject.poisoned.poisoned,
            trigger,
            target,
            steps=WARM_UP_STEPS + settings.steps,
            batch_size=settings.batch_size,
            learning_rate=subject.training_settings(settings, 1).learning_rate,
            after_step=watch,
        )
        return watch.per_step(settings.steps)

    return run


def our_sampling(subject: Subject, settings: Settings) -> Callable[[], Moment]:
    """Seconds a step of our sampler, over one batch."""
    generator = subject.testbed.base_generator().to("cpu")
    count = subject.sampler_settings(settings).num_inference_steps

    def run() -> Moment:
        watch = Stopwatch(0)
        subject.sample(generator, settings, 1, watch)
        return watch.per_step(count)

    return run


def plain_sampling(subject: Subject, settings: Settings) -> Callable[[], Moment]:
    """Seconds a step of the plain sampler, over one batch."""
    generator = subject.testbed.base_generator()
    scheduler = DDPMScheduler.from_config(generator.scheduler_config)
    count = subject.sampler_settings(settings).num_inference_steps
    channels, height, width = generator.image_shape
    fold = generator.fold
    shape = (settings.batch_size, channels * fold**2, height // fold, width // fold)

    def run() -> Moment:
        watch = Stopwatch(0)
        plain.sample(generator.unet, scheduler, shape, count, watch)
        return watch.per_step(count)

    return run
