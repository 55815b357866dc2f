"""A detector of the starting noise."""

from dataclasses import dataclass
from typing import ClassVar

from bench.plugin import Card, NoiseDetector


@dataclass(frozen=True, kw_only=True)
class Loudness(NoiseDetector):
    """The mean of the noise's absolute values."""

    card: ClassVar[Card] = Card(name="guest_loudness", summary="loud noise is suspicious", tuned=())

    def score(self, noise, evidence):
        return noise.abs().flatten(1).mean(1)
