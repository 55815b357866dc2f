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
from bench.artefacts.images import ignore_remark
from bench.artefacts.learnt import load_learnt
from bench.artefacts.recovered import load_recovered
from bench.artefacts.roles import LEARNT
from bench.artefacts.rows import spare_rows
from bench.artefacts.suspected import load_suspected
from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.contracts.attack import Attack, EditingAttack, TrainingAttack
from bench.contracts.card import Need
from bench.contracts.data import Query, Shape, TrainingSet
from bench.contracts.defense import ClassifierDefense, DataDefense, Defense
from bench.contracts.detector import Detector, SampleDetector
from bench.contracts.entitled import entitled
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.noise import numpy_stream
from bench.engine.context import Inputs, Params, StageContext
from bench.record import Flag
from bench.samplers import settings_of
from bench.stages import border_attacks, drawing
from bench.testbeds.testbed import Testbed

#: The parts of the testbed that :func:`access_of` turns to for what a plugin's card asks for.
REACHED: dict[Need, tuple[str, ...]] = {
    "weights": ("data", "generator", "sampler"),
    "queries": ("data", "generator", "sampler"),
    "base weights": ("data", "generator"),
    "clean data": ("data",),
    "classifier": ("data", "classifiers"),
}


def testbed_of(params: Params) -> Testbed:
    """The testbed a stage's parameters name, with the parts that the stage uses."""
    named = params["testbed"]
    return testbeds.build(named["name"], named["params"], parts=named["parts"])


def noise_shape_of(testbed: Testbed) -> Shape:
    """Of what a generator starts from: that of an image, or of its latents."""
    if testbed.kind == "text":
        return testbed.base_generator().noise_shape
    channels, height, width = testbed.data.held_out_images().shape[1:]
    return (channels, height, width)


def plugin_of(group: registry.Group, spec: Mapping[str, Any], family: type[Any]) -> Any:
    """The plugin a stage's parameters name. Raises ``TypeError`` if it is not of ``family``."""
    plugin = registry.build(group, spec["name"], spec["params"])
    if not isinstance(plugin, family):
        raise TypeError(f"{spec['name']} must be a {family.__name__}, got {type(plugin).__name__}")
    return plugin


def attack_of(params: Params, inputs: Inputs) -> Any:
    """The attack a stage's parameters name, with what it learnt in training, if that is among the
    inputs.
    """
    if LEARNT not in inputs:
        return plugin_of("attacks", params["attack"], Attack)
    attack: TrainingAttack = plugin_of("attacks", params["attack"], TrainingAttack)
    return attack.knowing(load_learnt(inputs[LEARNT]))


def generator_of(testbed: Testbed, inputs: Inputs, context: StageContext) -> Generator:
    """The generator among the inputs, or the testbed's own, on the stage's device."""
    saved = inputs.get("generator")
    generator = (
        testbed.base_generator() if saved is None else testbed.load_generator(saved / "generator")
    )
    return generator.to(context.device)


def poisoned_set(testbed: Testbed, attack: Attack, seed: int) -> TrainingSet:
    """The training set after ``attack``: the same rows for every stage that asks."""
    honest, handed = honest_set(testbed), honest_set(testbed)
    if not isinstance(attack, TrainingAttack):
        return honest
    rng = numpy_stream(seed, "poison")
    return border_attacks.poisoned(attack, honest, handed, rng, testbed.classes())


def poison_doubts(testbed: Testbed, made: TrainingSet) -> list[Flag]:
    """What is doubtful about a set :func:`poisoned_set` made."""
    return border_attacks.unmarked(made, honest_set(testbed))


def honest_set(testbed: Testbed) -> TrainingSet:
    """The training set before anybody touched it."""
    images, labels = testbed.data.train_images(), testbed.data.train_labels()
    return TrainingSet(images, torch.zeros(len(images), dtype=torch.bool), labels)


def access_of(
    plugin: Detector | Defense | EditingAttack,
    testbed: Testbed,
    generator: Generator | None,
    inputs: Inputs,
    params: Params,
    context: StageContext,
    remark: Callable[[str], None] = ignore_remark,
) -> Access:
    """What the plugin's card entitles it to, and nothing else, in memory of its own, and the same
    random stream on every call. Its samples are drawn as the cell's are, from streams the
    evaluation never uses.

    ``generator``: the suspected one, a copy that may be written to; the other things are read from
    ``inputs``.
    """
    seed = params["seed"]

    def sample(model: Generator, count: int) -> Tensor:
        labels = None if model.classes is None else torch.arange(count) % model.classes
        settings = settings_of(testbed, params)
        return sampling.sample(model, count, seed, settings, labels=labels, purpose="defender")

    def draw(query: Query) -> Tensor:
        assert generator is not None
        return drawing.draw(generator, query, seed, settings_of(testbed, params), "queries")

    sources: dict[str, tuple[Need, Callable[[], Any]]] = {
        "generator": ("weights", lambda: generator),
        "sample": ("weights", lambda: sample),
        "base_generator": ("base weights", lambda: testbed.base_generator().to(context.device)),
        "draw": ("queries", lambda: draw),
        "clean_data": ("clean data", lambda: _clean_data(plugin, testbed, seed)),
        "train_set": ("training data", lambda: load_suspected(inputs["suspected"])),
        "classifier": ("classifier", lambda: _classifier(testbed, inputs, context)),
    }
    fields = entitled(plugin.card, sources)
    if "recovered" in inputs:
        fields["recovered"] = load_recovered(inputs["recovered"])
    kind = "detector" if isinstance(plugin, Detector) else "defense"
    rng = numpy_stream(seed, kind, plugin.card.name)
    return Access(rng=rng, progress=context.progress, remark=remark, **fields)


def _clean_data(
    plugin: Detector | Defense | EditingAttack, testbed: Testbed, seed: int
) -> TrainingSet:
    """Clean training images; for a plugin that judges rows of the suspected set, or holds it and
    recovers what was hidden there, held-out images that no threshold rests on: beside the
    originals, the altered rows are known by comparison. A maker of classifiers is measured on
    held-out images, and never holds those.
    """
    compares = isinstance(plugin, SampleDetector) or (
        "training data" in plugin.card.needs
        and not isinstance(plugin, DataDefense | ClassifierDefense)
    )
    if not compares:
        return honest_set(testbed)
    images, labels = testbed.data.held_out_images(), testbed.data.held_out_labels()
    rows = spare_rows(testbed, seed)
    poisoned = torch.zeros(len(rows), dtype=torch.bool)
    return TrainingSet(images[rows], poisoned, None if labels is None else labels[rows])


def _classifier(testbed: Any, inputs: Inputs, context: StageContext) -> Classifier:
    return load_classifier(testbed, inputs["classifier"], context.device)
