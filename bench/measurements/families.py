"""Why a column changes no sample, or no classifier: said in one place, for every measurement that
looks at either.
"""

from __future__ import annotations

from bench.measurements.measurement import REAL_IMAGES, Situation

_NO_SAMPLE = {
    "inversion": "an inversion changes no sample",
    "data": "a data defense leaves the generator as it is",
    "classifier": "a classifier defense draws no image",
    "sample detector": "a detector changes no sample",
    "noise detector": "a detector changes no sample",
}
_NO_CLASSIFIER = {
    "sampler": "a sampler defense changes no classifier",
    "model": "a model defense changes no classifier",
    "inversion": "an inversion changes no classifier",
    "sample detector": "a detector changes no classifier",
    "noise detector": "a detector changes no classifier",
}
NO_TRIGGER = "this attack has no trigger"


def no_sample(situation: Situation) -> str:
    """Why a cell draws no samples of its own; empty if it does."""
    if situation.anchor == REAL_IMAGES:
        return "real images are not drawn by a generator"
    return _NO_SAMPLE.get(situation.family, "")


def no_classifier(situation: Situation) -> str:
    """Why a cell has no classifier of its own; empty if it has."""
    if situation.family == "anchor":
        return "an anchor has no classifier"
    return _NO_CLASSIFIER.get(situation.family, "")
