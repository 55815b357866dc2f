"""A testbed without data or weights, for tests that only plan."""

from dataclasses import dataclass
from typing import ClassVar

from bench.diffusion.training import TrainingSettings
from bench.testbeds.parts.part import Counts, Data, Features, GeneratorSource, Sampling
from bench.testbeds.testbed import Testbed


@dataclass(frozen=True, kw_only=True)
class Nothing(Data):
    """Holds nothing."""

    locations: ClassVar[frozenset[str]] = frozenset({"data"})

    data: str = "here"

    @property
    def rows(self):
        return 0

    def fingerprint(self):
        return "data"


@dataclass(frozen=True, kw_only=True)
class NoGenerator(GeneratorSource):
    """Is trained for a step."""

    def settings(self, scheme, rows):
        return TrainingSettings(steps=1, batch_size=12, accumulation_steps=2)

    def schedule_steps(self):
        return None

    def fingerprint(self):
        return "weights"


@dataclass(frozen=True, kw_only=True)
class NoFeatures(Features):
    """Sees nothing."""

    extractor: ClassVar[str] = "fake"


TINY = Testbed(
    name="tiny",
    summary="nothing at all",
    kind="unconditional",
    data=Nothing(),
    generator=NoGenerator(),
    features=NoFeatures(),
    sampler=Sampling(),
    counts=Counts(),
    typical_seconds={
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
    },
)
