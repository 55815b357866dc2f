"""The network alone: the layout of memory, ``torch.compile``, CUDA graphs, and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.precision import autocast
from bench.testbeds import load
from benchmarks.architectures import (
    CELEBAHQ,
    STABLE_DIFFUSION,
    Architecture,
    Networks,
    architecture_of,
)
from benchmarks.device import NO_CUDA, Device
from benchmarks.gpu.finding import Finding, Sizes, not_measured
from benchmarks.subject import Subject
from benchmarks.timing import Settings, ratios


class Passes:
    """Forward passes of a network, and forward with backward, on the device."""

    def __init__(
        self, architecture: Architecture, device: Device, images: int, precision: str
    ) -> None:
        self.device, self.images, self.precision = device, images, precision
        self.networks: Networks = architecture.build(device.name)
        self.last()

    def last(self, layout: torch.memory_format = torch.channels_last) -> Passes:
        """In that layout of memory, as ours are."""
        self.networks.unet.to(memory_format=layout)
        return self

    def forward(self) -> Tensor:
        """Without gradients."""
        with torch.no_grad(), autocast(self.device.torch, self.precision):
            return self.networks.predict(self.images, self.device.name)

    def both(self) -> None:
        """Forward and backward."""
        with autocast(self.device.torch, self.precision):
            answer = self.networks.predict(self.images, self.device.name)
        loss: Any = answer.float().square().mean()
        loss.backward()

    def seconds(self, run: Callable[[], object], repetitions: int) -> tuple[float, ...]:
        """Of each repetition, after a first."""
        run()
        return tuple(self.device.seconds(run) for _ in range(repetitions))


def network(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The layout of memory, ``torch.compile``, CUDA graphs, and batches."""
    section = "network"
    yield from _layouts(device, sizes)
    passes = Passes(sizes.architecture, device, sizes.images, "bfloat16")
    yield from _compiled(passes, passes.seconds(passes.forward, sizes.repetitions), sizes)
    yield from _graphed(device, sizes)
    subject = Subject.make()
    generator = subject.testbed.base_generator().to(device.name)
    for batch in sizes.batches:
        some = replace(sizes.settings(), batch_size=batch)

        def draw(some: Settings = some, batch: int = batch) -> None:
            subject.sample(generator, some, 1, lambda *_: None, network_batch=batch)

        draw()
        values = tuple(batch * sizes.steps / device.seconds(draw) for _ in range(sizes.repetitions))
        yield Finding(
            section=section,
            quantity=f"sampling the small network, {batch} at once",
            unit="images/s a step",
            values=values,
        )


def _layouts(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Forward, and forward with backward, of a small network and of larger ones, in either layout
    of memory.
    """
    cases = [("", sizes.architecture, name, sizes.images) for name in ("float32", "bfloat16")]
    if device.cuda:
        cases = [("CIFAR-10's, ", *case[1:]) for case in cases]
        cases += [
            ("digits-ddpm's, ", architecture_of(load("digits-ddpm")), "float32", 512),
            ("CelebA-HQ's, ", CELEBAHQ, "bfloat16", 16),
            ("Stable Diffusion's, ", STABLE_DIFFUSION, "float16", 4),
        ]
    for name, architecture, precision, images in cases:
        passes = Passes(architecture, device, images, precision)
        for what, run in (("forward", passes.forward), ("forward and backward", passes.both)):
            seconds = {}
            for layout in (torch.channels_last, torch.contiguous_format):
                passes.last(layout)
                seconds[layout] = passes.seconds(run, sizes.repetitions)
            last, usual = seconds[torch.channels_last], seconds[torch.contiguous_format]
            words = f"{name}{what} of {images} images, {precision}"
            rates = tuple(images / value for value in last)
            yield Finding(
                section="network", quantity=f"{words}, channels-last", unit="images/s", values=rates
            )
            yield Finding(
                section="network",
                quantity=f"{words}: channels-last / contiguous",
                unit="ratio of times",
                values=ratios(last, usual),
            )


def _compiled(passes: Passes, eager: tuple[float, ...], sizes: Sizes) -> Iterator[Finding]:
    quantity = "torch.compile: eager / compiled"
    if not passes.device.cuda:  # where it takes minutes and a compiler
        yield not_measured("network", quantity, NO_CUDA)
        return
    untouched = passes.networks.unet
    passes.networks.unet = torch.compile(untouched)
    try:
        first = passes.device.seconds(passes.forward)
        values = passes.seconds(passes.forward, sizes.repetitions)
    except Exception as error:  # what is missing differs from machine to machine
        words = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        yield not_measured("network", quantity, words)
        return
    finally:
        passes.networks.unet = untouched
    yield Finding(
        section="network", quantity="torch.compile: the first call", unit="s", values=(first,)
    )
    yield Finding(section="network", quantity=quantity, unit="ratio", values=ratios(eager, values))


def _graphed(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The small network, whose kernels are shorter than it takes to launch them."""
    quantity = "CUDA graph, small network: eager / replayed"
    if not device.cuda:
        yield not_measured("network", quantity, NO_CUDA)
        return
    config = dict(load("digits-ddpm").base_generator().unet.config)
    small = {name: value for name, value in config.items() if not name.startswith("_")}
    for batch in sizes.batches:
        passes = Passes(Architecture(small), device, batch, "float32")
        config_ = passes.networks.unet.config
        shape = (batch, config_.in_channels, config_.sample_size, config_.sample_size)
        x = torch.randn(shape, device=device.torch).to(memory_format=torch.channels_last)
        timesteps = torch.zeros(batch, dtype=torch.long, device=device.torch)

        def run(
            unet: Any = passes.networks.unet, x: Tensor = x, timesteps: Tensor = timesteps
        ) -> Tensor:
            with torch.no_grad():
                answer: Tensor = unet(x, timesteps).sample
                return answer

        eager = passes.seconds(run, sizes.repetitions)
        graphed = passes.seconds(device.captured(run), sizes.repetitions)
        yield Finding(
            section="network",
            quantity=f"{quantity}, {batch} at once",
            unit="ratio",
            values=ratios(eager, graphed),
        )
