"""What ``castlewalls new`` can write. Light: the command line reads it at every start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Singular = Literal["attack", "defense", "detector"]


@dataclass(frozen=True)
class Sort:
    """What can be written. ``template``: of its module; ``base``: the class it subclasses;
    ``subjects``: what a detector of images judges, if not all its base does; ``suite``: the shipped
    one to try it on.
    """

    template: str
    base: str
    suite: str
    subjects: str = ""


#: By group, and by family or subject.
SORTS: dict[Singular, dict[str, Sort]] = {
    "attack": {
        "training": Sort("training", "TrainingAttack", "poison"),
        "editing": Sort("editing", "EditingAttack", "digits"),
    },
    "defense": {
        "sampler": Sort("sampler", "SamplerDefense", "digits"),
        "model": Sort("model", "ModelDefense", "digits"),
        "data": Sort("data", "DataDefense", "poison"),
        "classifier": Sort("classifier", "ClassifierDefense", "poison"),
        "inversion": Sort("inversion", "Inversion", "digits"),
    },
    "detector": {
        "samples": Sort("images", "SampleDetector", "poison"),
        "rows": Sort("images", "SampleDetector", "poison", "rows"),
        "images": Sort("images", "SampleDetector", "poison", "images"),
        "noise": Sort("noise", "NoiseDetector", "digits"),
        "prompts": Sort("prompts", "PromptDetector", "sd"),
        "model": Sort("model_detector", "ModelDetector", "digits"),
    },
}
