"""How sampling goes back: the part of a sampler that an attack may bring itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class Reverse(Protocol):
    """One batch's way from noise to an image: a step for each of the network's answers.

    ``call``: which answer it is, from 0; x, prediction, clean: (n, c, h, w). Between the network
    and the step stand sampler defenses, which see the clean image that a prediction implies and may
    put another in its place: so both directions must be known, and be each other's inverse.
    """

    @property
    def timesteps(self) -> Sequence[int]:
        """At which the network is asked, one for each call."""
        ...

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        """x_0 as the network's ``prediction`` for ``x`` implies it."""
        ...

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        """The prediction that implies ``clean``."""
        ...

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        """The next x. ``noise()``: standard normal like ``x``, from each row's own stream."""
        ...
