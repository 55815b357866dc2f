"""Clocks, spreads and what a benchmark hands back. Knows nothing of what is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured. ``threads``: of torch; the workers of a run have one. ``repetitions``:
    of every contender, in turn.

    ``steps``: training steps a repetition. ``batch_size``: rows a step, in training and in
    sampling. ``num_inference_steps``: ``None`` for the testbed's own. ``quick``: the
    smallest amount of work that still compares everything, for ``peers``. ``device``: ``cpu`` or
    ``cuda``, of ``peers``.
    """

    threads: int = 1
    repetitions: int = 5
    steps: int = 10
    batch_size: int = 128
    num_inference_steps: int | None = None
    quick: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("threads", "repetitions", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Moment:
    """A reading of two clocks, in seconds: ``wall``, and ``cpu`` of all threads of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Moment) -> Moment:
        return Moment(self.wall - earlier.wall, self.cpu - earlier.cpu)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured quantity: its value in every repetition, in the order they were made.

    ``goal``: what the median should reach, from below if ``at_least``, from above otherwise;
    ``None`` for a number without one.
    """

    quantity: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None
    at_least: bool = True

    @property
    def median(self) -> float:
        """Of the repetitions."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; ``None`` without a goal."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def as_json(self) -> dict[str, Any]:
        """With the median, the smallest and the largest value spelt out."""
        return {
            "quantity": self.quantity,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
            "goal": self.goal,
            "goal_is": None if self.goal is None else "at least" if self.at_least else "at most",
            "reached": self.reached,
        }


def interleaved(contenders: Mapping[str, Callable[[], T]], repetitions: int) -> dict[str, list[T]]:
    """Calls them in turn, A B A B ..., ``repetitions`` times each, so that a machine that slows
    down slows them all.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, run in contenders.items():
            results[name].append(run())
    return results


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, ...]:
    """Of neighbours in time: the i-th repetition of one over the i-th of the other."""
    return tuple(over / under for over, under in zip(numerators, denominators, strict=True))
