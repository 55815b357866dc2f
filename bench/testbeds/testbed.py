"""A testbed: the parts that are attacked and measured together, and what it is called. One file a
testbed declares one; nothing else knows which it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.constraints import Domain, domains
from bench.contracts.card import TestbedKind
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import check_steps
from bench.diffusion.training import TrainingSettings
from bench.resources import Resources
from bench.testbeds.parts.part import (
    FIXED,
    LATER,
    Classifiers,
    Copies,
    Counts,
    Data,
    Features,
    GeneratorSource,
    Judge,
    Part,
    Sampling,
)

#: The fields of a :class:`Testbed` that hold its parts, in the order in which they are looked at.
PARTS = ("data", "generator", "features", "judge", "copies", "classifiers", "sampler", "counts")
#: What labels name first, whatever part it belongs to.
FIRST = (
    "sampler num_inference_steps spacing clip precision network_batch clean_samples "
    "triggered_samples guidance_scale class_samples generated_samples judged_images test_images"
).split()


class Undeclared:
    """Stands in for a part that a stage does not declare, so that nothing outside its key can
    decide its result.
    """

    def __init__(self, part: str) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own: nobody asks the part for anything
            raise AttributeError(name)
        raise LookupError(
            f"{name} was asked of the testbed's {self._part}, which is not among the parts that "
            f"this stage declares"
        )


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """What is attacked. Its parameters are those of its parts, so ``(name, params)`` rebuilds it.

    ``kind``: whether the generator is asked for nothing, for a class or by a prompt.
    ``classifiers``, ``judge``, ``copies``: ``None`` where nothing is classified, or copies are not
    looked for. ``embedded``: whether the
    weights ship with the package, so that nothing has to be fetched or made. ``typical_seconds``:
    of stages by name, on two CPU cores or one GPU, for forecasts before anything was run: of
    ``sample`` the clean samples, of ``train`` and ``repair`` a fine-tuning, as declared here
    (``bench/durations.py`` knows other counts). ``resources``: what any of its stages needs
    at most, as declared here; like durations part of no key and of no protocol.

    Raises ``ValueError`` naming the parameter, the constraint and the value.
    """

    name: str
    summary: str
    kind: TestbedKind
    data: Data
    generator: GeneratorSource
    features: Features
    sampler: Sampling
    counts: Counts
    judge: Judge | None = None
    copies: Copies | None = None
    classifiers: Classifiers | None = None
    embedded: bool = False
    typical_seconds: Mapping[str, float] = field(default_factory=dict)
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        for part_name, part in self.parts().items():
            if part.name != self.name:
                object.__setattr__(self, part_name, dataclasses.replace(part, name=self.name))

    def parts(self) -> dict[str, Part]:
        """Those there are, by field."""
        values = {part_name: getattr(self, part_name) for part_name in PARTS}
        return {part_name: part for part_name, part in values.items() if isinstance(part, Part)}

    def params(self, parts: Collection[str] = PARTS) -> dict[str, Any]:
        """JSON-ready parameters of ``parts``; of all, ``testbed.changed(**params) == testbed``.
        Without those that came later, where they are as before.
        """
        values = {
            name: getattr(part, name)
            for part_name, part in self.parts().items()
            if part_name in parts
            for silent in [unchanged(part)]
            for name in parameters(part)
            if name not in silent
        }
        return {name: values[name] for name in dict.fromkeys([*FIRST, *values]) if name in values}

    def domains(self) -> dict[str, Domain]:
        """What each parameter may be."""
        return {
            name: domains(type(part))[name]
            for part in self.parts().values()
            for name in parameters(part)
        }

    def changed(self, **params: Any) -> Testbed:
        """This testbed with other parameters."""
        left = dict(params)
        parts: dict[str, Any] = {}
        for part_name, part in self.parts().items():
            own = {name: left.pop(name) for name in parameters(part) if name in left}
            if own:
                parts[part_name] = dataclasses.replace(part, **own)
        if left:
            raise TypeError(f"{self.name}: there is no parameter {', '.join(left)}")
        return dataclasses.replace(self, **parts)

    def only(self, parts: Collection[str]) -> Testbed:
        """This testbed for a stage that uses ``parts``: whatever it asks of another is an error."""
        limited = copy.copy(self)
        for part_name in self.parts():
            if part_name not in parts:
                object.__setattr__(limited, part_name, Undeclared(part_name))
        return limited

    def has_classes(self) -> bool:
        """Whether the generator is asked for a class, by its label or in words."""
        return self.kind != "unconditional"

    def classes(self) -> int | None:
        """How many classes the generator is asked for; ``None`` if it is asked for nothing."""
        return len(self.data.class_names) if self.has_classes() else None

    def prompts(self) -> tuple[str, ...]:
        """What asks for each class, where the generator is asked by text; else nothing."""
        return self.data.prompts() if self.kind == "text" else ()

    def copy_extractor(self) -> str | None:
        """Name of the extractor in whose features copies of training images are looked for;
        ``None``: they are not.
        """
        return None if self.copies is None else self.copies.extractor

    def base_generator(self) -> Generator:
        """The clean, pretrained generator. Raises ``UserError`` saying what to download and where
        to put it.
        """
        return self.generator.prepared(self.generator.base(self.data))

    def fresh_generator(self, seed: int) -> Generator:
        """The same architecture with random weights, for the ``scratch`` scheme."""
        return self.generator.prepared(self.generator.fresh(seed, self.data))

    def load_generator(self, folder: Path) -> Generator:
        """A generator of this testbed that a stage has saved in ``folder``."""
        return self.generator.prepared(self.generator.load(folder, self.data))

    def asked(self, generator: Generator, labels: Tensor) -> tuple[Generator, Tensor]:
        """``generator`` as it is trained on rows with ``labels`` (n,), and what stands for each row
        there.
        """
        return self.generator.asked(generator, labels, self.data)

    def training_settings(self, scheme: str) -> TrainingSettings:
        """What ``finetune`` or ``scratch`` means here."""
        return self.generator.settings(scheme, self.data.rows)

    def fresh_classifier(self, seed: int, classes: int | None = None) -> Classifier:
        """An untrained classifier as users of this data set train one; ``classes``: outputs, by
        default one a class.
        """
        assert self.classifiers is not None  # no stage of such a testbed asks
        return self.classifiers.fresh(seed, classes or len(self.data.class_names))

    def classifier_settings(self) -> ClassifierSettings:
        """How such a classifier is trained."""
        assert self.classifiers is not None
        return self.classifiers.settings(self.data.rows)

    def evaluation_classifier(self) -> Classifier:
        """The harness's own, trained on clean data: it says which class a generated image shows."""
        assert self.judge is not None
        return self.judge.network(self.classifiers, self.data)


def parameters(part: Part) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a part that are parameters of the testbed."""
    return {one.name: one for one in dataclasses.fields(part) if not one.metadata.get(FIXED)}


def unchanged(part: Part) -> set[str]:
    """The parameters that came :func:`~bench.testbeds.parts.part.later` and are as before."""
    return {
        one.name
        for one in dataclasses.fields(part)
        if one.metadata.get(LATER) and getattr(part, one.name) == one.default
    }


def identity(part: Part) -> dict[str, Any]:
    """All that a part is declared and given, as JSON values: what its class makes of it depends on
    nothing else, but for the files that its fingerprint is of.
    """
    left_out = {"name", *part.locations, *unchanged(part)}
    return {name: value for name, value in dataclasses.asdict(part).items() if name not in left_out}


def fingerprints(testbed: Testbed) -> dict[str, str]:
    """A hash of the files behind each part. Raises ``UserError`` for one that is not there."""
    return {part_name: part.fingerprint() for part_name, part in testbed.parts().items()}


def faults(testbed: Testbed) -> list[str]:
    """One line for each thing a testbed names that cannot be run as it is; empty if all is well."""
    lines = [line for part in testbed.parts().values() for line in part.faults(testbed)]
    try:
        if (steps := testbed.generator.schedule_steps()) is not None:
            check_steps(testbed.sampler.settings(), steps)
    except ValueError as error:
        lines.append(f"{testbed.name}: {error}")
    return list(dict.fromkeys(lines))


def missing(testbed: Testbed) -> list[str]:
    """One line for each file not on this machine yet, saying where to get it; empty if the testbed
    can run offline.
    """
    lines = [line for part in testbed.parts().values() for line in part.missing()]
    return list(dict.fromkeys(lines))
