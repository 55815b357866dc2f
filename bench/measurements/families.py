"""Why a column changes no sample, or no classifier, for every measurement of either."""

from __future__ import annotations

from bench.contracts.goals import DrawConcept, DrawStyle
from bench.measurements.measurement import REAL_IMAGES, Situation

_NO_SAMPLE = {
    "inversion": "an inversion changes no sample",
    "data": "a data defense leaves the generator as it is",
    "classifier": "a classifier defense draws no image",
    "sample detector": "a detector changes no sample",
    "noise detector": "a detector changes no sample",
    "prompt detector": "a detector changes no sample",
    "model detector": "a detector changes no sample",
}
_NO_CLASSIFIER = {
    "sampler": "a sampler defense changes no classifier",
    "model": "a model defense changes no classifier",
    "inversion": "an inversion changes no classifier",
    "sample detector": "a detector changes no classifier",
    "noise detector": "a detector changes no classifier",
    "prompt detector": "a detector changes no classifier",
    "model detector": "a detector changes no classifier",
}
#: What each kind of detector judges.
_JUDGED = {
    "sample detector": "images",
    "noise detector": "the starting noise",
    "prompt detector": "prompts",
    "model detector": "the whole model",
}
NO_TRIGGER = "this attack has no trigger"


def no_sample(situation: Situation) -> str:
    """Why a cell draws no samples of its own; empty if it does."""
    if situation.anchor == REAL_IMAGES:
        return "real images are not drawn by a generator"
    return _NO_SAMPLE.get(situation.family, "")


def no_call(situation: Situation) -> str:
    """Why a cell draws no samples as an adversary calls them; empty if it does."""
    called = situation.invoked is not None and type(situation.invoked).calls
    return no_sample(situation) or ("" if called else "this attack calls nothing")


def no_classifier(situation: Situation) -> str:
    """Why a cell has no classifier of its own; empty if it has."""
    if situation.family == "anchor":
        return "an anchor has no classifier"
    return _NO_CLASSIFIER.get(situation.family, "")


def judges_other(situation: Situation, role: str) -> str:
    """Why a cell has no scores of that role; empty if it has."""
    judged = _JUDGED.get(situation.family)
    if judged is None:
        return "only a detector has this number"
    return "" if role in situation.roles else f"it judges {judged} alone"


def no_class(situation: Situation) -> str:
    """Why an attack aims at no class that the evaluation classifier could see; empty if it does."""
    if isinstance(situation.goal, DrawStyle):
        return "this attack aims at a style, which no testbed has a judge of"
    if isinstance(situation.goal, DrawConcept) and situation.label is None:
        return "this attack aims at a concept that is no class of this testbed: nothing judges it"
    return "this attack aims at no class" if situation.label is None else ""
