"""Torchvision's classifiers, as users of the papers' data sets train them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Gt

from bench.classification.architectures import Architecture, torchvision_classifier
from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.errors import UserError
from bench.testbeds.data.images import content_hash, expanded, faults_of
from bench.testbeds.parts.part import GUIDE, Classifiers, Composition, fixed
from bench.testbeds.parts.published import steps_of


@dataclass(frozen=True, kw_only=True)
class TorchvisionClassifiers(Classifiers):
    """``classifier``: what a user trains on the suspected set, for ``classifier_epochs``: resnet18,
    resnet50, vgg16 or densenet121.
    """

    classifier: Architecture
    classifier_epochs: Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class SmallImageClassifiers(TorchvisionClassifiers):
    """With the stem for small images (Pan et al. 2024, appendix A.4): SGD, 1e-2, weight decay 5e-4.
    The flips are ours; they carry a trigger in one corner into the other.
    """

    def fresh(self, seed: int, classes: int) -> Classifier:
        return torchvision_classifier(self.classifier, classes, seed, small_images=True)

    def settings(self, rows: int) -> ClassifierSettings:
        steps = steps_of(rows, 128, self.classifier_epochs)
        return ClassifierSettings(steps=steps, learning_rate=1e-2, horizontal_flip=True)


@dataclass(frozen=True, kw_only=True)
class ImagenetClassifiers(TorchvisionClassifiers):
    """Classifiers, the trigger classifier and the evaluation classifier among them, that start from
    ``imagenet_weights``, torchvision's as a safetensors file; ``None``: from random ones.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"imagenet_weights"})

    imagenet_weights: str | None
    rate: float = fixed(1e-2)

    def fresh(self, seed: int, classes: int) -> Classifier:
        return torchvision_classifier(
            self.classifier, classes, seed, imagenet_weights=self.imagenet_weights
        )

    def settings(self, rows: int) -> ClassifierSettings:
        """Images are flipped, as in the authors' code, which carries a trigger in one corner into
        the other.
        """
        return ClassifierSettings(
            steps=steps_of(rows, 25, self.classifier_epochs),
            batch_size=25,
            learning_rate=self.rate,
            horizontal_flip=True,
        )

    def _imagenet_file(self) -> Path | None:
        if self.imagenet_weights is None:
            return None
        path = expanded(self.imagenet_weights)
        if not path.is_file():
            raise UserError(
                f"{self.name}: no imagenet_weights at {self.imagenet_weights!r}; save "
                f"torchvision's {self.classifier} there as "
                f"safetensors, or set imagenet_weights to null to train classifiers from nothing "
                f"({GUIDE})"
            )
        return path

    def fingerprint(self) -> str:
        file = self._imagenet_file()
        return "" if file is None else content_hash(file)

    def missing(self) -> list[str]:
        return faults_of([self._imagenet_file])

    def faults(self, testbed: Composition) -> list[str]:
        return self.missing()
