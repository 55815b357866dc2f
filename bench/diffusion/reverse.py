"""The reverse process: the part of a sampler that an attack may replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class Reverse(Protocol):
    """The reverse process of one batch, from noise to images: one step per call of the network.

    ``call``: index of the call, from 0; x, prediction, clean: (n, c, h, w). Sampler defenses act
    between the network and the step: they see the clean image that a prediction implies and may
    replace it. So both directions, :meth:`clean` and :meth:`prediction`, are required, and must be
    inverse to each other.
    """

    @property
    def timesteps(self) -> Sequence[int]:
        """The timesteps at which the network is called, one for each call."""
        ...

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        """x_0, implied by the network's ``prediction`` for ``x``."""
        ...

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        """The prediction that implies ``clean``."""
        ...

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        """The next x. ``noise()``: standard normal like ``x``, from each row's own stream."""
        ...
