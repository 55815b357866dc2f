"""What several stages make from their parameters alike: plugins, generators, poisoned sets, and
what a defender is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench import registry, testbeds
from bench.artefacts.classifiers import load_classifier
from bench.artefacts.images import unsaid
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Access, Attack, Detector, Evidence, TrainingSet, Withheld
from bench.stages import border
from bench.testbeds.base import ConditionalTestbed, Testbed


def testbed_of(params: Params) -> Testbed:
    """The testbed a stage's parameters name."""
    return testbeds.build(params["testbed"]["name"], params["testbed"]["params"])


def conditional(params: Params) -> ConditionalTestbed:
    """As :func:`testbed_of`, for a stage that is planned on testbeds with classes only."""
    testbed: Any = testbed_of(params)
    return testbed  # type: ignore[no-any-return]


def plugin_of(kind: registry.Kind, spec: Mapping[str, Any], family: type[Any]) -> Any:
    """The plugin a stage's parameters name. Raises ``TypeError`` if it is not of ``family``."""
    plugin = registry.build(kind, spec["name"], spec["params"])
    if not isinstance(plugin, family):
        raise TypeError(f"{spec['name']} must be a {family.__name__}, got {type(plugin).__name__}")
    return plugin


def generator_of(testbed: Testbed, inputs: Inputs, context: StageContext) -> Generator:
    """The generator among the inputs, or the testbed's own, on the stage's device."""
    saved = inputs.get("generator")
    generator = (
        testbed.base_generator() if saved is None else testbed.load_generator(saved / "generator")
    )
    return generator.to(context.device)


def poisoned_set(testbed: Testbed, attack: Attack, seed: int) -> TrainingSet:
    """The training set after ``attack``: the same rows for every stage that asks."""
    honest, handed = _honest_set(testbed), _honest_set(testbed)
    classes = len(testbed.class_names) if isinstance(testbed, ConditionalTestbed) else None
    return border.poisoned(attack, honest, handed, numpy_stream(seed, "poison"), classes)


def poison_doubts(testbed: Testbed, made: TrainingSet) -> list[str]:
    """What is doubtful about a set :func:`poisoned_set` made."""
    return border.unmarked(made, _honest_set(testbed))


def _honest_set(testbed: Testbed) -> TrainingSet:
    images = testbed.train_images()
    return TrainingSet(images, torch.zeros(len(images), dtype=torch.bool), testbed.train_labels())


def access_of(
    defense: Any,
    testbed: Testbed,
    generator: Generator,
    seed: int,
    context: StageContext,
    remark: Callable[[str], None] = unsaid,
) -> Access:
    """What the defense's card entitles it to, and nothing else. Its samples come from a stream the
    evaluation never uses.
    """

    def draw(model: Generator, count: int) -> Tensor:
        labels = None if model.classes is None else torch.arange(count) % model.classes
        return sampling.sample(
            model, count, seed, testbed.sampler_settings(), labels=labels, purpose="defender"
        )

    needs, name = defense.card.needs, defense.card.name
    given: dict[str, Any] = {
        "generator": generator if "weights" in needs else Withheld(name, "weights"),
        "sample": draw if "weights" in needs else Withheld(name, "weights"),
        # Read anew, so a write to it harms nobody.
        "clean_images": testbed.train_images()
        if "clean data" in needs
        else Withheld(name, "clean data"),
    }
    return Access(
        rng=numpy_stream(seed, "defense", name), progress=context.progress, remark=remark, **given
    )


def evidence_of(
    detector: Detector,
    testbed: Testbed,
    suspected: TrainingSet | None,
    inputs: Inputs,
    seed: int,
    context: StageContext,
    remark: Callable[[str], None],
) -> Evidence:
    """What the card entitles a detector to, in memory of its own, and the same random stream for
    every call.
    """
    needs, name = detector.card.needs, detector.card.name
    given: dict[str, Any] = {
        "classifier": Withheld(name, "classifier"),
        "train_set": Withheld(name, "training data"),
    }
    if "classifier" in needs and isinstance(testbed, ConditionalTestbed):
        given["classifier"] = load_classifier(testbed, inputs["classifier"], context.device)
    if "training data" in needs and suspected is not None:
        # As its owner sees it: nothing says which rows are poisoned.
        labels = None if suspected.labels is None else suspected.labels.clone()
        given["train_set"] = TrainingSet(
            suspected.images.clone(), torch.zeros_like(suspected.poisoned), labels
        )
    return Evidence(
        rng=numpy_stream(seed, "detector", name), progress=context.progress, remark=remark, **given
    )
