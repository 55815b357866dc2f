"""Who looks at digits: the judge and the features of FID, one shipped network
(:mod:`bench.testbeds.parts.digits_cnn`), and the classifier that users train, a smaller one or one
built otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from bench import testbeds
from bench.classification.classifier import Classifier
from bench.classification.small import small_classifier
from bench.classification.training import ClassifierSettings
from bench.testbeds.parts import digits_cnn
from bench.testbeds.parts.part import (
    Classifiers,
    Composition,
    Copies,
    Data,
    Features,
    Judge,
    later,
)


def _weights_hash() -> str:
    path = digits_cnn.WEIGHTS
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"missing").hexdigest()


def _faults(name: str) -> list[str]:
    """Of the shipped network."""
    return [
        f"{name}: {line}; `castlewalls pretrain digits-ddpm` makes it anew"
        for line in testbeds.damaged_files()
        if line.startswith(str(digits_cnn.WEIGHTS))
    ]


@dataclass(frozen=True, kw_only=True)
class DigitsFeatures(Features):
    """The judge's pooled features, in which digits differ."""

    extractor: ClassVar[str] = digits_cnn.NAME

    def register(self) -> None:
        # torch-fidelity imports torchvision, which takes seconds that planning does not need.
        from bench.testbeds.parts import digits_extractor

        digits_extractor.register()

    def fingerprint(self) -> str:
        return _weights_hash()

    def faults(self, testbed: Composition) -> list[str]:
        return _faults(self.name)


@dataclass(frozen=True, kw_only=True)
class DigitsCopies(Copies):
    """The network of FID: no copy detector, but it tells digits and photographs apart, and needs no
    download.
    """

    @property
    def extractor(self) -> str:
        return digits_cnn.NAME

    def register(self) -> None:
        from bench.testbeds.parts import digits_extractor

        digits_extractor.register()

    def fingerprint(self) -> str:
        return _weights_hash()


@dataclass(frozen=True, kw_only=True)
class DigitsJudge(Judge):
    """The shipped network."""

    def network(self, classifiers: Classifiers | None, data: Data) -> Classifier:
        network = digits_cnn.load_digits_cnn()
        return Classifier(network.body, network.head).eval()

    def fingerprint(self) -> str:
        return _weights_hash()

    def faults(self, testbed: Composition) -> list[str]:
        return _faults(self.name)


@dataclass(frozen=True, kw_only=True)
class DigitsClassifiers(Classifiers):
    """``classifier``: what users train. ``cnn``: the judge's kind of network with a layer less, and
    halved in size one layer earlier: half the work, for half a point of accuracy; ``vgg`` and
    ``densenet``: torchvision's VGG-16 and DenseNet-121 cut down to 16 x 16 pixels
    (:mod:`bench.classification.small`).
    """

    classifier: Literal["cnn", "vgg", "densenet"] = later("cnn")

    def fresh(self, seed: int, classes: int) -> Classifier:
        if self.classifier != "cnn":
            return small_classifier(self.classifier, classes, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = digits_cnn.blocks((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2), (64, 64, 1))
            head = torch.nn.Linear(64, classes)
        return Classifier(body, head)

    def settings(self, rows: int) -> ClassifierSettings:
        return ClassifierSettings(steps=400)
