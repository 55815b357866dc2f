"""What several stages make from their parameters alike: plugins, generators, poisoned sets, and what a defender is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.noise import numpy_stream
from bench.engine import border
from bench.engine.artefacts import unsaid
from bench.engine.context import StageContext
from bench.plugin import Access, Attack, TrainingSet, Withheld
from bench.testbeds.base import ConditionalTestbed, Testbed


def plugin_of(kind: registry.Kind, spec: Mapping[str, Any], family: type[Any]) -> Any:
    """The plugin a stage's parameters name. Raises ``TypeError`` if it is not of ``family``."""
    plugin = registry.build(kind, spec["name"], spec["params"])
    if not isinstance(plugin, family):
        raise TypeError(f"{spec['name']} must be a {family.__name__}, got {type(plugin).__name__}")
    return plugin


def generator_of(testbed: Testbed, inputs: Mapping[str, Path], context: StageContext) -> Generator:
    """The generator among the inputs, or the testbed's own, on the stage's device."""
    saved = inputs.get("generator")
    generator = testbed.base_generator() if saved is None else testbed.load_generator(saved / "generator")
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


def asked_for(testbed: Testbed, what: str, label: int | None) -> Tensor | None:
    """The classes (n,) a conditional generator is asked for: all alike for ``clean`` and ``generated``, ``label`` for ``target``."""
    if not isinstance(testbed, ConditionalTestbed):
        return None
    if what == "target" and label is not None:
        return torch.full((testbed.class_samples,), label)
    count = testbed.clean_samples if what == "clean" else testbed.generated_samples or len(testbed.train_labels())
    return torch.arange(count) % len(testbed.class_names)


def access_of(
    defense: Any,
    testbed: Testbed,
    generator: Generator,
    seed: int,
    context: StageContext,
    remark: Callable[[str], None] = unsaid,
) -> Access:
    """What the defense's card entitles it to, and nothing else. Its samples come from a stream the evaluation never uses."""

    def draw(model: Generator, count: int) -> Tensor:
        labels = None if model.classes is None else torch.arange(count) % model.classes
        return sampling.sample(model, count, seed, testbed.sampler_settings(), labels=labels, purpose="defender")

    needs, name = defense.card.needs, defense.card.name
    given: dict[str, Any] = {
        "generator": generator if "weights" in needs else Withheld(name, "weights"),
        "sample": draw if "weights" in needs else Withheld(name, "weights"),
        # Read anew, so a write to it harms nobody.
        "clean_images": testbed.train_images() if "clean data" in needs else Withheld(name, "clean data"),
    }
    return Access(rng=numpy_stream(seed, "defense", name), progress=context.progress, remark=remark, **given)
