"""Who looks at garments: the judge and the features of FID, one shipped network
(:mod:`bench.testbeds.parts.fashion_cnn`), and the classifier that users train, a smaller one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.testbeds.data.fashion import CHANNELS
from bench.testbeds.parts.digits_unet import shipped_faults
from bench.testbeds.parts.fashion_cnn import NAME, WEIGHTS, load_fashion_cnn, seeded
from bench.testbeds.parts.part import Classifiers, Composition, Copies, Data, Features, Judge


def _weights_hash() -> str:
    return hashlib.sha256(WEIGHTS.read_bytes() if WEIGHTS.is_file() else b"missing").hexdigest()


@dataclass(frozen=True, kw_only=True)
class FashionFeatures(Features):
    """The judge's pooled features, in which garments differ."""

    extractor: ClassVar[str] = NAME

    def register(self) -> None:
        # torch-fidelity imports torchvision, which takes seconds that planning does not need.
        from bench.testbeds.parts import fashion_extractor

        fashion_extractor.register()

    def fingerprint(self) -> str:
        return _weights_hash()

    def faults(self, testbed: Composition) -> list[str]:
        return shipped_faults(self.name, WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class FashionCopies(Copies):
    """The network of FID: no copy detector, but it tells garments apart, and needs no download."""

    @property
    def extractor(self) -> str:
        return NAME

    def register(self) -> None:
        from bench.testbeds.parts import fashion_extractor

        fashion_extractor.register()

    def fingerprint(self) -> str:
        return _weights_hash()


@dataclass(frozen=True, kw_only=True)
class FashionJudge(Judge):
    """The shipped network."""

    def network(self, classifiers: Classifiers | None, data: Data) -> Classifier:
        return load_fashion_cnn()

    def fingerprint(self) -> str:
        return _weights_hash()

    def faults(self, testbed: Composition) -> list[str]:
        return shipped_faults(self.name, WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class FashionClassifiers(Classifiers):
    """The judge's kind of network, halved in size at once: a third of the work."""

    def fresh(self, seed: int, classes: int) -> Classifier:
        sizes = ((CHANNELS, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        return seeded(seed, classes, *sizes)

    def settings(self, rows: int) -> ClassifierSettings:
        return ClassifierSettings(steps=800)
