"""A testbed without data or weights, for tests that only plan."""

from dataclasses import dataclass
from typing import ClassVar

from bench.diffusion.training import TrainingSettings
from bench.testbeds.base import Testbed


@dataclass(frozen=True, kw_only=True)
class Tiny(Testbed):
    """Holds nothing."""

    name: ClassVar[str] = "tiny"
    summary: ClassVar[str] = "nothing at all"
    extractor: ClassVar[str] = "fake"
    typical_seconds: ClassVar[dict[str, float]] = {
        "reference": 1,
        "train": 60,
        "sample": 10,
        "repair": 5,
        "invert": 5,
        "features": 0,
        "measure": 1,
        "record": 0,
        "aim": 0,
        "call": 0,
    }
    locations: ClassVar[frozenset[str]] = frozenset({"data"})

    data: str = "here"

    def training_settings(self, scheme):
        return TrainingSettings(steps=1, batch_size=12, accumulation_steps=2)

    def fingerprint(self):
        return "data and weights"
