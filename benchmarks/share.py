"""Share of CPU time spent inside the generator's network, in our training loop and in our sampling
loop.

The clock is ``time.process_time``: user and system CPU time of all threads of this process. The
loops are ``bench.diffusion.training.train`` and ``bench.diffusion.sampling.sample`` themselves,
unchanged; readings are taken from outside:

- forward: from a pre-hook to a hook on the diffusers network, so the casts of autocast are inside
  and our loss, noise and scheduler arithmetic are outside;
- backward: from the moment the gradient reaches the network's output (a tensor hook on it) until
  ``Tensor.backward`` returns, so the backward pass of the loss above the network is outside; the
  gradients' accumulation into the weights is inside;
- the whole: between two of the loop's own progress reports, so drawing batches and noise, loss,
  gradient clipping, optimiser, scheduler step and the reports are all in it. Start-up (a few
  training steps; the first batch of samples) is left out; the start of every later batch is in.

Share = (forward + backward) / whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.subject import Subject
from benchmarks.timing import Row, Settings

GOAL = 0.85
WARM_UP_STEPS = 3


class NetworkClock:
    """CPU seconds inside one network since the clock was attached: ``forward`` and ``backward``."""

    def __init__(self) -> None:
        self.forward = 0.0
        self.backward = 0.0
        self._forward_began = 0.0
        self._backward_began: float | None = None

    @contextmanager
    def attached(self, network: nn.Module) -> Iterator[NetworkClock]:
        """Watches ``network``, and every ``Tensor.backward`` of this process, until the block
        ends.
        """
        original = torch.Tensor.backward

        def backward(tensor: Tensor, *arguments: Any, **options: Any) -> None:
            original(tensor, *arguments, **options)  # type: ignore[no-untyped-call]
            if self._backward_began is not None:
                self.backward += time.process_time() - self._backward_began
                self._backward_began = None

        hooks = [
            network.register_forward_pre_hook(self._enter),
            network.register_forward_hook(self._leave),
        ]
        torch.Tensor.backward = backward  # type: ignore[assignment,method-assign]
        try:
            yield self
        finally:
            torch.Tensor.backward = original  # type: ignore[method-assign]
            for hook in hooks:
                hook.remove()

    def _enter(self, network: nn.Module, arguments: Any) -> None:
        self._forward_began = time.process_time()

    def _leave(self, network: nn.Module, arguments: Any, output: Any) -> None:
        self.forward += time.process_time() - self._forward_began
        if output.sample.requires_grad:
            output.sample.register_hook(self._gradient_arrives)

    def _gradient_arrives(self, gradient: Tensor) -> None:
        self._backward_began = time.process_time()


class Laps:
    """A progress callback that reads the clocks after ``start`` steps and after every ``length``
    steps from there.
    """

    def __init__(self, clock: NetworkClock, start: int, length: int) -> None:
        self.clock, self.start, self.length = clock, start, length
        self.readings: list[tuple[float, float, float]] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        if done >= self.start and (done - self.start) % self.length == 0:
            self.readings.append((time.process_time(), self.clock.forward, self.clock.backward))

    def parts(self) -> list[tuple[float, float, float]]:
        """For every lap, CPU seconds in all, in forward, in backward."""
        return [
            (after[0] - before[0], after[1] - before[1], after[2] - before[2])
            for before, after in zip(self.readings, self.readings[1:], strict=False)
        ]


def share(settings: Settings) -> list[Row]:
    """The shares of training and of sampling, one value a lap: ``steps`` training steps, or one
    whole batch of samples.
    """
    subject = Subject.make()
    generator = subject.testbed.base_generator()
    clock = NetworkClock()

    laps = Laps(clock, WARM_UP_STEPS, settings.steps)
    with clock.attached(generator.unet):
        subject.train(
            generator, settings, WARM_UP_STEPS + settings.repetitions * settings.steps, laps
        )
    training = laps.parts()

    steps = subject.sampler_settings(settings).num_inference_steps
    laps = Laps(clock, steps, steps)
    generator.to("cpu")
    with clock.attached(generator.unet):
        subject.sample(generator, settings, 1 + settings.repetitions, laps)
    sampling = laps.parts()

    def row(quantity: str, values: list[float], goal: float | None = None) -> Row:
        return Row(quantity=quantity, unit="of CPU", values=tuple(values), goal=goal)

    return [
        row(
            "training: forward + backward",
            [(forward + backward) / whole for whole, forward, backward in training],
            GOAL,
        ),
        row("training: forward", [forward / whole for whole, forward, _ in training]),
        row("training: backward", [backward / whole for whole, _, backward in training]),
        row("sampling: forward", [forward / whole for whole, forward, _ in sampling], GOAL),
    ]
