"""What a plugin must keep so that its numbers mean something, as functions: for its author, for the
tests, for whoever receives it.

Each check takes a plugin and raises :class:`Broken` in words that say what was expected and what
came. They run in seconds on a CPU, on a network and on data so small that no number matters: same
seed, same result; rows independent of each other; inputs left alone; parameters that survive JSON.
None of them says whether a method works.

    for verdict in verdicts(MyDefense()):
        print(verdict)
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample
from bench.errors import ContractError
from bench.plugin import (
    Access,
    Attack,
    Batch,
    ClassifierDefense,
    DataDefense,
    Detector,
    Evidence,
    Inversion,
    ModelDefense,
    NoiseDetector,
    Plugin,
    Query,
    SampleDetector,
    SamplerDefense,
    TrainingSet,
    Withheld,
    can_stamp,
)

SHAPE = (3, 16, 16)
CLASSES = 10
#: Parameters of these names are lowered, so that a method does its least.
LEAST = {
    "batch_size": 4,
    "draws": 1,
    "epochs": 1,
    "overlays": 3,
    "pgd_steps": 1,
    "samples": 4,
    "steps": 2,
    "steps_per_epoch": 1,
    "surrogate_steps": 2,
    "timesteps": 2,
    "training_steps": 1,
}


class Broken(ContractError):
    """A plugin does not keep its contract."""


@dataclass(frozen=True)
class Verdict:
    """``check``: its name; ``broken``: what was expected and what came, empty if all is well."""

    check: str
    broken: str = ""

    def __str__(self) -> str:
        return f"{'broken' if self.broken else 'ok'}: {self.check}" + (
            f": {self.broken}" if self.broken else ""
        )


def verdicts(plugin: Plugin) -> list[Verdict]:
    """Every check that applies to ``plugin``, in an order in which the first broken one says most.
    What a plugin raises by itself counts as broken.
    """
    found = []
    for check in checks_for(plugin):
        try:
            check(plugin)
            found.append(Verdict(check.__name__))
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            found.append(Verdict(check.__name__, words))
    return found


def checks_for(plugin: Plugin) -> list[Callable[[Any], None]]:
    """The checks of a plugin's families."""
    families: tuple[tuple[type, tuple[Callable[[Any], None], ...]], ...] = (
        (Plugin, (parameters_survive_json, a_plugin_is_frozen, not_a_number_is_refused)),
        (
            Attack,
            (
                poisoning_is_repeatable,
                a_stamp_is_of_its_row,
                training_gives_a_gradient,
                calls_are_of_their_row,
            ),
        ),
        (SamplerDefense, (sampler_steps_are_of_their_row, sampling_is_repeatable)),
        (ModelDefense, (repair_is_repeatable,)),
        (Inversion, (inversion_is_repeatable,)),
        (DataDefense, (cleaning_is_repeatable,)),
        (ClassifierDefense, (classification_is_of_its_row,)),
        (Detector, (scores_are_of_their_row,)),
    )
    return [check for family, checks in families if isinstance(plugin, family) for check in checks]


def expect(condition: bool, expected: str, came: object = "") -> None:
    """Raises :class:`Broken` unless ``condition`` holds."""
    if not condition:
        raise Broken(f"expected {expected}" + (f", got {came}" if came != "" else ""))


# --- every plugin ---------------------------------------------------------------------------------


def parameters_survive_json(plugin: Plugin) -> None:
    """``(name, params)`` is all that is kept of a plugin."""
    params = json.loads(json.dumps(plugin.params(), allow_nan=False))
    again = type(plugin)(**params)
    expect(again == plugin, f"type(plugin)(**params) == plugin after JSON, with {params}", again)


def a_plugin_is_frozen(plugin: Plugin) -> None:
    """Two stages that hold one plugin must see the same parameters."""
    for field in dataclasses.fields(plugin):
        try:
            setattr(plugin, field.name, getattr(plugin, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise Broken(f"expected a frozen dataclass, but {field.name} can be set")


def not_a_number_is_refused(plugin: Plugin) -> None:
    """A parameter that is NaN gives a column of NaN, hours later."""
    for field in dataclasses.fields(plugin):
        value = getattr(plugin, field.name)
        if isinstance(value, float):
            try:
                dataclasses.replace(plugin, **{field.name: math.nan})
            except ValueError as error:
                expect(
                    field.name in str(error), f"the refusal of NaN to name {field.name}", str(error)
                )
                continue
            raise Broken(f"expected {field.name} to refuse NaN with a ValueError")


# --- attacks --------------------------------------------------------------------------------------


def poisoning_is_repeatable(attack: Attack) -> None:
    """The same rows for every stage that asks, and the set it was given as it was."""
    given = training_set(200)
    kept = TrainingSet(*(value.clone() for value in (given.images, given.poisoned, _labels(given))))
    first, again, other = (
        least(attack).poison(given, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    expect(_same(given, kept), "poison() to leave the set it is given alone")
    expect(_same(first, again), "poison() to give the same set for the same seed")
    expect(
        len(first.images) == len(given.images),
        f"as many rows as before, {len(given.images)}",
        len(first.images),
    )
    expect(first.images.dtype == torch.uint8, "uint8 images", first.images.dtype)
    touched = bool(first.poisoned.any())
    says = "data" in attack.card.alters
    expect(
        touched is says,
        f"rows marked as poisoned {'because' if says else 'only if'} the card's alters holds "
        f"'data'",
        touched,
    )
    expect(
        not touched or not torch.equal(first.poisoned, other.poisoned),
        "other rows for another seed",
    )


def a_stamp_is_of_its_row(attack: Attack) -> None:
    """The harness stamps test images with it: a stamp that depended on the batch would make every
    rate depend on it.
    """
    images = pixels(5)
    stamped = attack.stamp(images.clone())
    says = can_stamp(attack)
    expect(
        (stamped is not None) is says,
        "stamp() to be defined only if there is an image trigger",
        stamped,
    )
    if stamped is None:
        return
    expect(
        stamped.dtype == torch.uint8 and stamped.shape == images.shape,
        f"uint8 {tuple(images.shape)}",
        _like(stamped),
    )
    expect(not torch.equal(stamped, images), "a stamp that changes the images")
    alone = attack.stamp(images[2:3].clone())
    expect(alone is not None and torch.equal(alone, stamped[2:3]), "the same stamp for a row alone")


def training_gives_a_gradient(attack: Attack) -> None:
    """Training minimises one finite number, which must reach the weights and be the same when asked
    again.
    """
    model, batch = (
        generator(),
        Batch(floats(4, 0), torch.tensor([True, False, True, False]), torch.arange(4)),
    )
    kept, noise, timesteps = batch.images.clone(), floats(4, 1), torch.tensor([0, 10, 500, 999])
    losses = [
        attack.training_loss(model.predict_noise, batch, noise, timesteps, model.schedule)
        for _ in range(2)
    ]
    expect(losses[0].ndim == 0 and bool(torch.isfinite(losses[0])), "one finite number", losses[0])
    expect(torch.equal(losses[0], losses[1]), "the same loss for the same batch", losses)
    expect(torch.equal(batch.images, kept), "training_loss() to leave its batch alone")
    losses[0].backward()
    reached = any(
        value.grad is not None and bool(value.grad.abs().sum() > 0)
        for value in model.unet.parameters()
    )
    expect(reached, "a gradient that reaches the network")


def calls_are_of_their_row(attack: Attack) -> None:
    """Each way to call the backdoor changes the query, row by row, and never the one it is
    given.
    """
    query = Query(noise=floats(5, 0), images=floats(5, 1).clamp(-1, 1))
    assert query.images is not None
    kept = query.noise.clone()
    for call in type(attack).invocations:
        whole = attack.invoke(query, call).noise
        expect(torch.equal(query.noise, kept), f"invoke() by {call} to leave its query alone")
        expect(
            whole.shape == kept.shape and not torch.equal(whole, kept),
            f"another noise of the same shape by {call}",
        )
        alone = attack.invoke(Query(noise=kept[2:3].clone(), images=query.images[2:3]), call).noise
        expect(torch.equal(alone[0], whole[2]), f"the same noise for a row alone by {call}")
    says, aims = bool(type(attack).invocations), attack.target_image(SHAPE) is not None
    expect(
        says is aims,
        "calls of the noise if and only if there is a target image to draw",
        (says, aims),
    )


# --- defenses -------------------------------------------------------------------------------------


def sampler_steps_are_of_their_row(defense: SamplerDefense) -> None:
    """Otherwise the number would depend on who else is in the batch."""
    x = 2 * floats(6, 0)
    for method in (defense.predicted_x0, defense.stepped):
        whole = method(x.clone(), 500)
        expect(
            whole.shape == x.shape,
            f"{method.__name__}() to keep the shape {tuple(x.shape)}",
            _like(whole),
        )
        alone = torch.cat([method(row[None].clone(), 500) for row in x])
        expect(_close(alone, whole, 1e-6), f"{method.__name__}() to treat every row alone")


def sampling_is_repeatable(defense: SamplerDefense) -> None:
    """The batch size, another run, and the seed alone decide nothing and everything."""
    settings = SamplerSettings(num_inference_steps=4)
    one, whole, again = (
        sample(generator(), 5, 0, settings, guards=[defense], batch_size=size)
        for size in (1, 64, 64)
    )
    expect(_close(one, whole, 1e-5), "the same samples for every batch size")
    expect(torch.equal(whole, again), "the same samples for the same seed")


def repair_is_repeatable(defense: ModelDefense) -> None:
    """A repaired model is a function of the model and the seed."""
    first, again = (least(defense).repair(access(defense)) for _ in range(2))
    expect(isinstance(first, Generator), "a Generator", type(first).__name__)
    states = first.unet.state_dict(), again.unet.state_dict()
    expect(
        all(torch.equal(value, states[1][key]) for key, value in states[0].items()),
        "the same weights for the same seed",
    )
    expect(all(bool(torch.isfinite(value).all()) for value in states[0].values()), "finite weights")


def inversion_is_repeatable(defense: Inversion) -> None:
    """What is recovered are pictures, the same for the same seed."""
    first, again = (least(defense).invert(access(defense)) for _ in range(2))
    pairs = [
        *zip([*first.targets, *first.triggers], [*again.targets, *again.triggers], strict=True)
    ]
    expect(bool(pairs), "targets or triggers")
    for one, other in pairs:
        expect(
            one.shape[1:] == SHAPE,
            f"candidates (n, {', '.join(map(str, SHAPE))})",
            tuple(one.shape),
        )
        expect(
            -1 <= float(one.min()) and float(one.max()) <= 1,
            "pixels in [-1, 1]",
            (float(one.min()), float(one.max())),
        )
        expect(torch.equal(one, other), "the same candidates for the same seed")
    entries = max(len(first.targets), len(first.triggers))
    expect(
        len(first.labels) == entries, f"a label for each of {entries} entries", len(first.labels)
    )


def cleaning_is_repeatable(defense: DataDefense) -> None:
    """The rows a classifier is trained on, out of those that were generated, which stay as they
    are.
    """
    generated = training_set(40)
    kept = generated.images.clone()
    first, again = (defense.clean(generated, np.random.default_rng(3)) for _ in range(2))
    expect(torch.equal(generated.images, kept), "clean() to leave the set it is given alone")
    expect(_same(first, again), "the same set for the same seed")
    expect(
        0 < len(first.images) == len(_labels(first)), "rows with a label each", len(first.images)
    )


def classification_is_of_its_row(defense: ClassifierDefense) -> None:
    """Scores for every class, each image alone."""
    images, quick = pixels(6), least(defense)

    def scores(of: Tensor) -> Tensor:
        found: Tensor = quick.classify(of.clone(), access(defense, conditional=True))
        return found

    whole = scores(images)
    expect(
        whole.shape == (6, 3) and bool(torch.isfinite(whole).all()),
        "finite scores (6, 3)",
        _like(whole),
    )
    expect(torch.equal(scores(images), whole), "the same scores for the same seed")
    expect(_close(scores(images[3:5]), whole[3:5], 1e-4), "the same scores for a few rows alone")


# --- detectors ------------------------------------------------------------------------------------


def scores_are_of_their_row(detector: SampleDetector | NoiseDetector) -> None:
    """A score that depends on who else is judged cannot be compared between a training set and a
    generated one.
    """
    quick = least(detector)
    judged = floats(7, 0) if isinstance(detector, NoiseDetector) else pixels(7)
    whole = quick.score(judged.clone(), evidence(detector))
    expect(
        whole.shape == (7,) and bool(torch.isfinite(whole).all()),
        "finite scores (7,)",
        _like(whole),
    )
    expect(
        torch.equal(quick.score(judged.clone(), evidence(detector)), whole),
        "the same scores for the same seed",
    )
    order = torch.tensor([4, 0, 6])
    moved = quick.score(judged[order], evidence(detector))
    expect(
        _close(moved, whole[order], 1e-4 * max(1.0, float(whole.abs().max()))),
        "the same score in another order",
    )


# --- what a plugin is handed ----------------------------------------------------------------------


def least(plugin: Any) -> Any:
    """The same method with the least work: one epoch, one step, few samples."""
    return dataclasses.replace(
        plugin, **{name: value for name, value in LEAST.items() if hasattr(plugin, name)}
    )


def pixels(count: int) -> Tensor:
    """(count, 3, 16, 16) uint8, the same on every call."""
    return torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def floats(count: int, seed: int) -> Tensor:
    """(count, 3, 16, 16), standard normal, the same on every call."""
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def training_set(count: int) -> TrainingSet:
    """An honest set of ten classes."""
    return TrainingSet(
        pixels(count), torch.zeros(count, dtype=torch.bool), torch.arange(count) % CLASSES
    )


@cache
def _network(classes: int | None) -> Any:
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=SHAPE[1],
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
            num_class_embeds=classes,
        ).eval()


def generator(classes: int | None = None) -> Generator:
    """A tiny diffusion model with random weights, a copy on every call; ``classes``: those it can
    be asked for, and none.
    """
    table = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
    }
    return Generator(_network(None if classes is None else classes + 1), table).clone()


def access(defense: Any, seed: int = 3, conditional: bool = False) -> Access:
    """As a stage hands it over: what the card does not ask for cannot be read."""
    needs, name = defense.card.needs, defense.card.name
    settings = SamplerSettings(num_inference_steps=2)
    given: dict[str, Any] = {
        "generator": generator(3 if conditional else None)
        if "weights" in needs
        else Withheld(name, "weights"),
        "sample": (lambda model, count: sample(model, count, 0, settings))
        if "weights" in needs
        else Withheld(name, "weights"),
        "clean_images": pixels(8) if "clean data" in needs else Withheld(name, "clean data"),
    }
    return Access(rng=np.random.default_rng(seed), **given)


def evidence(detector: Any, seed: int = 3) -> Evidence:
    """As a stage hands it over, with a classifier that knows nothing."""
    needs, name = detector.card.needs, detector.card.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        network = Classifier(body, torch.nn.Linear(8, CLASSES)).eval()
    given: dict[str, Any] = {
        "classifier": network if "classifier" in needs else Withheld(name, "classifier"),
        "train_set": training_set(60)
        if "training data" in needs
        else Withheld(name, "training data"),
    }
    return Evidence(rng=np.random.default_rng(seed), **given)


def _labels(of: TrainingSet) -> Tensor:
    return torch.zeros(0) if of.labels is None else of.labels


def _same(one: TrainingSet, other: TrainingSet) -> bool:
    pairs: Iterable[tuple[Tensor, Tensor]] = (
        (one.images, other.images),
        (one.poisoned, other.poisoned),
        (_labels(one), _labels(other)),
    )
    return all(torch.equal(first, second) for first, second in pairs)


def _close(one: Tensor, other: Tensor, slack: float) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= slack)


def _like(value: Any) -> str:
    return (
        f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    )
