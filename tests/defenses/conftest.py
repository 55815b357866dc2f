"""What tests of repairs share: how strong the planted backdoor still is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.checking import planted
from bench.diffusion.generator import Generator

SAMPLES = 16


def distance_to_target(model: Generator) -> float:
    """Mean squared error to the target of samples with the trigger in their noise: 0.001 for the
    planted model as it is; higher is a better repair.
    """
    called = planted.drawn(model, SAMPLES, triggered=True)
    return float((called - planted.target()).square().mean())


@pytest.fixture
def to_target() -> Callable[[Generator], float]:
    return distance_to_target
