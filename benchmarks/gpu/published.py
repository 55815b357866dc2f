"""How fast the published networks train and sample here: our own loops, the declared batches, and
random weights and pictures, since neither changes the time. What ``python -m benchmarks cost``
assumes of a card is held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.precision import autocast
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SamplerSettings, sample
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import PredictNoise, TrainingSettings, denoising_loss, train
from benchmarks import cost, outline
from benchmarks.architectures import (
    CELEBAHQ,
    CIFAR10,
    CIFAR10_CLASSES,
    STABLE_DIFFUSION,
    Architecture,
)
from benchmarks.device import Device
from benchmarks.gpu.finding import Finding, Sizes
from benchmarks.gpu.loops import WARM_UP, Watch
from benchmarks.gpu.network import Passes
from benchmarks.subject import SEED, Precision

SCHEDULE = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its precision, how many images go through it at once in training and in sampling,
    and whether it is compiled first.
    """

    name: str
    architecture: Architecture
    precision: Precision
    trained: int
    sampled: int
    steps: int
    compiled: bool = False

    @property
    def words(self) -> str:
        return f"{self.name}, compiled" if self.compiled else self.name


def cases(device: Device, sizes: Sizes) -> list[Case]:
    """The published networks as their testbeds and suites declare them; on a CPU a tiny one."""
    if not device.cuda:
        return [
            Case(
                name="a tiny network",
                architecture=sizes.architecture,
                precision="float32",
                trained=sizes.images,
                sampled=sizes.images,
                steps=sizes.steps,
            )
        ]
    declared: list[tuple[str, Architecture, tuple[Precision, ...], int, int, int]] = [
        ("cifar10-ddpm", CIFAR10, ("float32", "bfloat16", "float16"), 128, 512, 20),
        ("celebahq-ddpm", CELEBAHQ, ("bfloat16",), 16, 64, 8),
        ("cifar10-cfg", CIFAR10_CLASSES, ("float16",), 500, 500, 8),
        ("Stable Diffusion", STABLE_DIFFUSION, ("float16", "bfloat16"), 4, 8, 8),
    ]
    return [
        Case(
            name=name,
            architecture=architecture,
            precision=precision,
            trained=trained,
            sampled=sampled,
            steps=steps,
            compiled=compiled,
        )
        for name, architecture, precisions, trained, sampled, steps in declared
        for precision in precisions
        # Compiled as a testbed declares it; the text-to-image networks are timed without our loops.
        for compiled in (False, True)
        if not compiled or (architecture.text is None and precision != "float32")
    ]


def published(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Images a second through each network, in training and in sampling, and operations a second
    of what is counted for one image.
    """
    for case in cases(device, sizes):
        device.forget_peak()
        for what, images, run, operations in _works(case, device):
            run()  # kernels are chosen and loaded
            rates = tuple(images / run() for _ in range(min(3, sizes.repetitions)))
            peak, of = device.peak()
            words = f"{case.words}, {what}, {case.precision}, {images} at once"
            yield Finding(
                section="published",
                quantity=words,
                unit="images/s",
                values=rates,
                note=f"peak {peak:.1f} GiB {of}",
            )
            yield Finding(
                section="published",
                quantity=f"{words}: of {operations / 1e9:,.1f} GFLOP each",
                unit="TFLOP/s",
                values=tuple(rate * operations / 1e12 for rate in rates),
                note=_assumed(case) if device.cuda else "",
            )


def _assumed(case: Case) -> str:
    trained, drawn = (speed / 1e12 for speed in cost.speeds(case.architecture, case.precision))
    return f"`benchmarks cost` takes {trained:g} in training, {drawn:g} in sampling"


Work = tuple[str, int, Callable[[], float], float]


def _works(case: Case, device: Device) -> Iterator[Work]:
    """Training and sampling: in words, images at once, seconds a step, operations an image."""
    settings = TrainingSettings(
        steps=WARM_UP + case.steps,
        batch_size=case.trained,
        precision=case.precision,
        ema_decay=0.9999,
    )
    counted = TrainingSettings(steps=1, batch_size=1, precision="float32")
    trained = outline.training(case.architecture, counted).operations
    sampled = outline.sampling(case.architecture, "float32", 1, decoded=False).operations
    if case.architecture.text is None:
        yield "training", case.trained, _trains(case, device, settings), trained
        yield "sampling", case.sampled, _samples(case, device), sampled
        return
    whole = f"the U-Net's forward and backward after the encoder, {case.steps} times"
    yield whole, case.trained, _passes(case, device, case.trained, backward=True), trained
    alone = f"the U-Net's forward, {case.steps} times"
    yield alone, case.sampled, _passes(case, device, case.sampled, backward=False), sampled


def generator_of(case: Case, device: Device) -> Generator:
    """With random weights."""
    unet = case.architecture.build(device.name).unet
    return Generator(unet, dict(SCHEDULE), compiled=case.compiled).to(device.torch)


def _trains(case: Case, device: Device, settings: TrainingSettings) -> Callable[[], float]:
    def loss(
        predict: PredictNoise,
        rows: Mapping[str, Tensor],
        noise: Tensor,
        timesteps: Tensor,
        schedule: Schedule,
    ) -> Tensor:
        return denoising_loss(
            predict, rows["images"], noise, timesteps, VariancePreserving(schedule)
        )

    def run() -> float:
        generator = generator_of(case, device)
        draw = torch.Generator().manual_seed(SEED)
        shape = (case.trained, *generator.image_shape)
        rows = {"images": torch.randint(256, shape, generator=draw, dtype=torch.uint8)}
        if generator.classes is not None:
            rows["labels"] = torch.zeros(case.trained, dtype=torch.int64)
        watch = Watch(WARM_UP, settings.steps, device)
        train(generator, rows, loss, settings, SEED, device=device.name, progress=watch)
        return watch.per_step(case.steps).wall

    return run


def _samples(case: Case, device: Device) -> Callable[[], float]:
    generator = generator_of(case, device)
    settings = SamplerSettings(
        num_inference_steps=case.steps, precision=case.precision, network_batch=case.sampled
    )
    labels = None
    if generator.classes is not None:
        labels = torch.zeros(case.sampled, dtype=torch.int64)

    def run() -> float:
        watch = Watch(0, case.steps, device)
        size = case.sampled
        sample(generator, size, SEED, settings, labels=labels, batch_size=size, progress=watch)
        return watch.per_step(case.steps).wall

    return run


def _passes(case: Case, device: Device, images: int, *, backward: bool) -> Callable[[], float]:
    passes = Passes(case.architecture, device, images, case.precision)

    def once() -> None:
        if not backward:
            passes.forward()
            return
        with torch.no_grad(), autocast(device.torch, case.precision):
            passes.networks.encode(images, device.name)
        passes.both()
        passes.networks.unet.zero_grad()

    def repeated() -> None:
        for _ in range(case.steps):
            once()

    def run() -> float:
        return device.seconds(repeated) / case.steps

    return run
