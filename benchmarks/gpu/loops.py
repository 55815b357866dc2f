"""Our training and sampling steps beside a plain diffusers loop, and the share of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn.functional import pixel_unshuffle

from bench.diffusion.images import to_unit_range
from benchmarks import plain
from benchmarks.device import NO_CUDA, Device
from benchmarks.gpu.finding import Finding, Sizes, not_measured
from benchmarks.steps import Stopwatch
from benchmarks.subject import Precision, Subject
from benchmarks.timing import Settings, interleaved, ratios

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
WARM_UP = 2


class Watch(Stopwatch):
    """A stopwatch that waits for the device at its two readings, and not in between."""

    def __init__(self, start: int, end: int, device: Device) -> None:
        self.device, self.end = device, end
        super().__init__(start)

    def __call__(self, done: int, *rest: object) -> None:
        if done in (self.start, self.end):
            self.device.synchronize()
        super().__call__(done, *rest)


def loops(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Our training step and sampling step beside a plain diffusers loop, in each precision."""
    subject, settings = Subject.make(), sizes.settings()
    for precision in PRECISIONS:
        if precision == "float16" and not device.cuda:
            for what in ("training", "sampling"):
                yield not_measured("steps", f"{what} step, {precision}", NO_CUDA)
            continue
        trainings = {
            "ours": _our_training(subject, settings, device, precision),
            "plain": _plain_training(subject, settings, device, precision),
        }
        yield from _compared(trainings, sizes, f"training step, {precision}")
        samplings = {
            "ours": _our_sampling(subject, settings, device, precision),
            "plain": _plain_sampling(subject, settings, device, precision),
        }
        yield from _compared(samplings, sizes, f"sampling step, {precision}")


def _compared(
    contenders: dict[str, Callable[[], float]], sizes: Sizes, what: str
) -> Iterator[Finding]:
    for run in contenders.values():
        run()  # kernels are chosen and loaded
    seconds = interleaved(contenders, sizes.repetitions)
    for name, values in seconds.items():
        rates = tuple(sizes.batch / value for value in values)
        yield Finding(section="steps", quantity=f"{what}, {name}", unit="images/s", values=rates)
    yield Finding(
        section="steps",
        quantity=f"{what}, plain / ours",
        unit="ratio",
        values=ratios(seconds["plain"], seconds["ours"]),
    )


def _our_training(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    def run() -> float:
        steps = WARM_UP + settings.steps
        watch = Watch(WARM_UP, steps, device)
        generator = subject.testbed.base_generator()
        subject.train(generator, settings, steps, watch, device=device.name, precision=precision)
        return watch.per_step(settings.steps).wall

    return run


def _plain_training(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    images = to_unit_range(subject.poisoned.images)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    fold = subject.testbed.base_generator().fold
    attack = subject.attack
    folded = [
        pixel_unshuffle(pictures, fold).to(device.torch)
        for pictures in (images, attack.trigger_image(shape), attack.target_image(shape))
    ]
    poisoned = subject.poisoned.poisoned.to(device.torch)

    def run() -> float:
        generator = subject.testbed.base_generator()
        generator.unet.to(device.torch)
        steps = WARM_UP + settings.steps
        watch = Watch(WARM_UP, steps, device)
        plain.train(
            generator.unet,
            DDPMScheduler.from_config(generator.scheduler_config),
            folded[0],
            poisoned,
            folded[1],
            folded[2],
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=subject.training_settings(settings, 1).learning_rate,
            after_step=watch,
            precision=precision,
        )
        return watch.per_step(settings.steps).wall

    return run


def _our_sampling(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    generator = subject.testbed.base_generator().to(device.name)
    steps, batch = settings.num_inference_steps or 1, settings.batch_size

    def run() -> float:
        watch = Watch(0, steps, device)
        changes = {"precision": precision, "network_batch": batch}
        subject.sample(generator, settings, 1, watch, **changes)
        return watch.per_step(steps).wall

    return run


def _plain_sampling(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    generator = subject.testbed.base_generator()
    generator.unet.to(device.torch)
    scheduler = DDPMScheduler.from_config(generator.scheduler_config)
    steps, fold = settings.num_inference_steps or 1, generator.fold
    channels, height, width = generator.image_shape
    shape = (settings.batch_size, channels * fold**2, height // fold, width // fold)

    def run() -> float:
        watch = Watch(0, steps, device)
        plain.sample(generator.unet, scheduler, shape, steps, watch, precision)
        return watch.per_step(steps).wall

    return run


def share(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The part of a sampling step and of a training step that the network alone takes."""
    subject, settings = Subject.make(), sizes.settings()
    generator = subject.testbed.base_generator().to(device.name)
    batch = sizes.batch
    x = torch.randn((batch, *generator.noise_shape), device=device.torch)
    x = x.contiguous(memory_format=torch.channels_last)
    timesteps = torch.zeros(batch, dtype=torch.long, device=device.torch)

    def forward() -> None:
        with torch.no_grad():
            generator.predict_noise(x, timesteps)

    def both() -> None:
        loss: Any = generator.predict_noise(x, timesteps).square().mean()
        loss.backward()

    step = _our_sampling(subject, settings, device, "float32")
    train = _our_training(subject, settings, device, "float32")
    for run in (forward, both, step, train):
        run()
    seconds = interleaved(
        {
            "forward": lambda: device.seconds(forward),
            "step": step,
            "both": lambda: device.seconds(both),
            "train": train,
        },
        sizes.repetitions,
    )
    for what, part, whole in (("sampling", "forward", "step"), ("training", "both", "train")):
        yield Finding(
            section="share of time in the network",
            quantity=f"{what}, float32, {batch} images: the network alone / a step",
            unit="ratio",
            values=ratios(seconds[part], seconds[whole]),
        )
