"""A plugin used once as a stage uses it, on the least work and on tiny data, each result checked
at the border.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.checking import planted
from bench.contracts.access import Access
from bench.contracts.attack import Attack, EditingAttack, TrainingAttack, learns
from bench.contracts.card import Need
from bench.contracts.data import Query, TrainingSet
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.entitled import entitled
from bench.contracts.plugin import Plugin
from bench.contracts.tiny_text import PROMPTS, text_to_image
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.sampling import Start, sample
from bench.diffusion.text_to_image import TextToImage
from bench.stages import border, border_attacks

#: Parameters of these names are lowered, so that a method has an effect in seconds.
MODEST = {
    "batch_size": 64,
    "draws": 10,
    "epochs": 5,
    "inner_steps": 2,
    "noises": 4,
    "overlays": 50,
    "pgd_steps": 5,
    "samples": 32,
    "steps": 100,
    "steps_per_epoch": 20,
    "surrogate_steps": 50,
    "timesteps": 40,
    "training_steps": 150,
}


def conditional(plugin: Plugin) -> bool:
    """Whether the plugin is shown a generator that is asked for classes: unless it applies to
    unconditional ones.
    """
    return isinstance(plugin, (ClassifierDefense, DataDefense)) or (
        "unconditional" not in plugin.card.applies_to
    )


def generator_for(plugin: Plugin, which: planted.Which = "planted") -> Generator:
    """The generator of a kind that the plugin applies to; a random one if it is asked by text."""
    classes = isinstance(plugin, (ClassifierDefense, DataDefense))
    if plugin.card.applies_to == {"text"} and not classes:
        return text_to_image()
    return planted.generator(which, conditional(plugin))


def access(plugin: Any, generator: Generator | None = None, patch: str = "badnets1") -> Access:
    """What the card entitles ``plugin`` to, of the planted models. ``generator``: the suspected
    one, if not the planted; an attack edits the honest one. ``patch``: on the poisoned rows.
    """
    which: planted.Which = "honest" if isinstance(plugin, EditingAttack) else "planted"
    model = generator_for(plugin, which) if generator is None else generator

    def draw(query: Query) -> Tensor:
        return drawn_of(model, query)

    def sampled(of: Generator, count: int) -> Tensor:
        return planted.drawn(of, count, seed=9)

    def unmarked() -> TrainingSet:
        rows = planted.suspected(patch)
        return replace(rows, poisoned=torch.zeros_like(rows.poisoned))

    sources: dict[str, tuple[Need, Callable[[], Any]]] = {
        "generator": ("weights", lambda: model),
        "sample": ("weights", lambda: sampled),
        "base_generator": ("base weights", lambda: generator_for(plugin, "honest")),
        "draw": ("queries", lambda: draw),
        "clean_data": ("clean data", lambda: planted.discs(256, 5)),
        "train_set": ("training data", unmarked),
        "classifier": ("classifier", lambda: planted.classifier(patch)),
    }
    values = entitled(plugin.card, sources)
    used = None if isinstance(plugin, Attack) else plugin.uses()
    if used is not None:
        quick = lowered(used, MODEST)
        # Of the model that is judged: the honest one has no trigger to recover.
        own = None if generator is None else generator.clone()
        inverted = quick.invert(access(quick, own))
        values["recovered"] = border.recovered(quick, inverted, planted.SHAPE)
    return Access(rng=np.random.default_rng(3), **values)


def drawn_of(model: Generator, query: Query) -> Tensor:
    """What ``model`` draws for ``query``."""
    start = Start(
        noise=query.noise,
        labels=query.labels,
        prompts=query.prompts if isinstance(model, TextToImage) else None,
        known=query.known,
        mask=query.mask,
    )
    return sample(model, len(query.noise), 0, planted.SETTINGS, start=lambda *_: start)


def query(plugin: Plugin, count: int) -> Query:
    """A user's: standard normal noise, held-out images, labels and prompts, where there are any."""
    of = generator_for(plugin)
    draw = torch.Generator().manual_seed(11)
    return Query(
        noise=torch.randn((count, *of.noise_shape), generator=draw),
        images=to_unit_range(planted.discs(count, 6).images),
        labels=None if of.classes is None else torch.arange(count) % of.classes,
        prompts=prompts(count) if "text" in plugin.card.applies_to else None,
    )


def prompts(count: int) -> tuple[str, ...]:
    """``count`` harmless ones."""
    return tuple(PROMPTS[row % len(PROMPTS)] for row in range(count))


def use(plugin: Plugin, make_access: Callable[[Any], Access] = access) -> None:
    """Calls every method of its family once. Raises :class:`~bench.errors.ContractError` for a
    result that breaks the contract; whatever the plugin raises passes through.
    """
    if isinstance(plugin, Attack):
        _use_attack(plugin, make_access)
    elif isinstance(plugin, SamplerDefense):
        few = replace(planted.SETTINGS, num_inference_steps=4, network_batch=4)
        planted.drawn(generator_for(plugin), 3, guards=[plugin], settings=few)
    elif isinstance(plugin, ModelDefense):
        repaired: object = plugin.repair(make_access(plugin))
        border.repaired(plugin, repaired, generator_for(plugin), None)
    elif isinstance(plugin, Inversion):
        recovered: object = plugin.invert(make_access(plugin))
        border.recovered(plugin, recovered, planted.SHAPE)
    elif isinstance(plugin, DataDefense):
        border.cleaned(plugin, planted.discs(40, 4), make_access(plugin), planted.CLASSES)
    elif isinstance(plugin, ClassifierDefense):
        scores: object = plugin.classify(planted.discs(4, 4).images, make_access(plugin))
        border.class_scores(plugin, scores, 4, planted.CLASSES)
    elif isinstance(plugin, Detector):
        for subject in type(plugin).subjects:
            judged, own = judged_of(plugin, subject, 6, make_access)
            border.scores(plugin, plugin.score(judged, own), 1 if subject == "model" else 6)


def judged_of(
    detector: Detector, subject: str, count: int, make_access: Callable[[Any], Access] = access
) -> tuple[Any, Access]:
    """``count`` clean ones of what a detector judges, and its access."""
    own, asked = make_access(detector), query(detector, count)
    if subject == "model":
        return own.generator if "weights" in detector.card.needs else None, own
    if subject == "prompts":
        return prompts(count), own
    return asked.noise if subject == "noise" else planted.discs(count, 4).images, own


def _use_attack(attack: Attack, make_access: Callable[[Any], Access]) -> None:
    asked, attack = query(attack, 4), taught(attack)
    border_attacks.aimed_at(attack, planted.SHAPE, planted.CLASSES, PROMPTS)
    border_attacks.drawn_trigger(attack, planted.SHAPE)
    border_attacks.stamped(attack, planted.discs(4, 4).images)
    for call in type(attack).calls:
        border_attacks.invoked(attack, asked, call.name, planted.CLASSES)
    if isinstance(attack, EditingAttack):
        edited: object = attack.implant(make_access(attack))
        implanted_in_copy(attack, edited)
    elif isinstance(attack, TrainingAttack):
        model = generator_for(attack, "honest")
        rows, timesteps = torch.arange(4), torch.tensor([0, 10, 500, 999])
        batch = drawn(attack, model, poisoned(attack), rows, asked.noise, timesteps)
        border_attacks.training_loss(attack, *batch).backward()


def taught(attack: Attack) -> Attack:
    """The attack after one batch, if it learns something beside the network."""
    if not learns(attack):
        return attack
    learning = border_attacks.Learning(attack, planted.SHAPE)
    rows, timesteps = torch.arange(4), torch.tensor([0, 10, 500, 999])
    model = generator_for(attack, "honest")
    learning.learn(*drawn(attack, model, poisoned(attack), rows, query(attack, 4).noise, timesteps))
    return learning.knowing()


def implanted_in_copy(attack: EditingAttack, edited: object) -> Generator:
    """The harness's own copy of the honest generator with the weights of what ``attack`` made."""
    kept = generator_for(attack, "honest")
    border.implanted(attack, edited, kept)
    return kept


def poisoned(attack: TrainingAttack) -> TrainingSet:
    """The honest set after ``attack``; it has labels where the attack is shown classes."""
    sets = [planted.discs(planted.ROWS, 0) for _ in range(2)]
    if not conditional(attack):
        sets = [replace(rows, labels=None) for rows in sets]
    return border_attacks.poisoned(
        attack, sets[0], sets[1], np.random.default_rng(0), planted.CLASSES
    )


def drawn(
    attack: TrainingAttack,
    model: Generator,
    rows: TrainingSet,
    chosen: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> tuple[Any, ...]:
    """What the loss of the ``chosen`` rows (n,) is made of, with ``noise`` (n, c, h, w) at
    ``timesteps`` (n,).
    """
    held = {"images": to_unit_range(rows.images), "poisoned": rows.poisoned, "labels": rows.labels}
    batch = {name: values[chosen] for name, values in held.items() if values is not None}

    def predict(x: Tensor, timesteps: Tensor, condition: Any = None) -> Tensor:
        own = batch.get("labels") if condition is None else condition
        return model.predict_noise(x, timesteps, own)

    teacher: Any = None
    if type(attack).has_teacher:
        teacher = generator_for(attack, "honest").predict_noise
    return predict, batch, noise, timesteps, model.schedule, teacher


def lowered(plugin: Any, limits: Mapping[str, int]) -> Any:
    """The same method with less work: parameters named in ``limits`` that are larger, or left to
    the harness, are set to them; none is raised.
    """
    names = {field.name for field in fields(plugin)} & set(limits)
    values = {name: getattr(plugin, name) for name in names}
    less = {
        name: limits[name]
        for name, value in values.items()
        if value is None or (isinstance(value, int) and value > limits[name])
    }
    return replace(plugin, **less)
