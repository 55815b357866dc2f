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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.constraints import domains, outside
from bench.contracts.attack import Attack, EditingAttack, TrainingAttack, learns
from bench.contracts.data import Batch, Query, TrainingSet, TrainingStep
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.goals import FEWEST_EXAMPLES, DrawFromSet, DrawImage, Goal
from bench.contracts.plugin import Plugin
from bench.contracts.tiny import (
    SHAPE,
    access,
    floats,
    generator,
    generator_for,
    least,
    pixels,
    training_set,
)
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample
from bench.errors import ContractError

_Attack = TypeVar("_Attack", bound=Attack)


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
    results = []
    for check in checks_for(plugin):
        try:
            check(plugin)
            results.append(Verdict(check.__name__))
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            results.append(Verdict(check.__name__, words))
    return results


def checks_for(plugin: Plugin) -> list[Callable[[Any], None]]:
    """The checks of a plugin's families."""
    families: tuple[tuple[type, tuple[Callable[[Any], None], ...]], ...] = (
        (
            Plugin,
            (
                parameters_survive_json,
                a_plugin_is_frozen,
                not_a_number_is_refused,
                constraints_are_kept,
            ),
        ),
        (Attack, (a_goal_can_be_drawn, a_stamp_is_of_its_row, calls_are_of_their_row)),
        (TrainingAttack, (poisoning_is_repeatable, training_gives_a_gradient)),
        (EditingAttack, (implanting_is_repeatable,)),
        (
            SamplerDefense,
            (a_sampler_defense_steps_in, sampler_steps_are_of_their_row, sampling_is_repeatable),
        ),
        (ModelDefense, (repair_is_repeatable,)),
        (Inversion, (inversion_is_repeatable,)),
        (DataDefense, (cleaning_is_repeatable,)),
        (ClassifierDefense, (classification_is_of_its_row,)),
        (Detector, (scores_are_of_their_row,)),
    )
    applying = [
        check for family, checks in families if isinstance(plugin, family) for check in checks
    ]
    return [*applying, learning_is_repeatable] if learns(plugin) else applying


def expect(condition: bool, expected: str, came: object = "") -> None:
    """Raises :class:`Broken` unless ``condition`` holds."""
    if not condition:
        raise Broken(f"expected {expected}" + (f", got {came}" if came != "" else ""))


# --- every plugin ---------------------------------------------------------------------------------


def parameters_survive_json(plugin: Plugin) -> None:
    """``(name, params)`` is all that is kept of a plugin."""
    text = json.dumps(plugin.params(), allow_nan=False, ensure_ascii=False)
    expect(_encodable(text), "texts that UTF-8 can hold", ascii(text))
    params = json.loads(text)
    again = type(plugin)(**params)
    expect(again == plugin, f"type(plugin)(**params) == plugin after JSON, with {params}", again)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def constraints_are_kept(plugin: Plugin) -> None:
    """What ``show`` says of a parameter would not be so; the likely cause is a ``__post_init__``
    that does not call its base's.
    """
    for name, allowed in domains(type(plugin)).items():
        for value in outside(allowed):
            try:
                dataclasses.replace(plugin, **{name: value})
            except ValueError as error:
                expect(name in str(error), f"the refusal of {value!r} to name {name}", str(error))
                continue
            raise Broken(f"expected {name} to be {allowed.words}, but {value!r} is not refused")


# --- attacks --------------------------------------------------------------------------------------


def poisoning_is_repeatable(attack: TrainingAttack) -> None:
    """The same rows for every stage that asks, and its input unchanged."""
    data = training_set(200)
    before = TrainingSet(*(value.clone() for value in (data.images, data.poisoned, _labels(data))))
    first, again, other = (
        least(attack).poison(data, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    expect(_same(data, before), "poison() to leave the set it is given alone")
    expect(_same(first, again), "poison() to give the same set for the same seed")
    expect(
        len(first.images) == len(data.images),
        f"as many rows as before, {len(data.images)}",
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


def a_goal_can_be_drawn(attack: Attack) -> None:
    """An image that is the goal is one; and whoever calls a backdoor wants something."""
    goal = attack.goal()
    expect(goal is None or isinstance(goal, Goal), "goal() to return a Goal or None", goal)
    if isinstance(goal, DrawImage):
        image = goal.image(SHAPE)
        expect(image.shape == SHAPE, f"an image {SHAPE} for a goal", _like(image))
        expect(bool((image.abs() <= 1).all()), "the goal's pixels in [-1, 1]")
    if isinstance(goal, DrawFromSet):
        images = goal.images(SHAPE)
        expect(images.shape[1:] == SHAPE, f"images (n, *{SHAPE}) for a goal", _like(images))
        expect(len(images) >= FEWEST_EXAMPLES, f"{FEWEST_EXAMPLES} examples", len(images))
        expect(bool((images.abs() <= 1).all()), "the goal's pixels in [-1, 1]")
        expect(torch.equal(images, goal.images(SHAPE)), "the same examples on every call")
    expect(goal is not None or not type(attack).calls, "a goal, where there are calls")


def a_stamp_is_of_its_row(attack: Attack) -> None:
    """The harness stamps test images with it: a stamp that depended on the batch would make every
    rate depend on it.
    """
    trigger, images = _taught(attack).adds(), pixels(5)
    if trigger is None or trigger.stamp is None:
        return
    stamped = trigger.stamp(images.clone())
    expect(
        stamped.dtype == torch.uint8 and stamped.shape == images.shape,
        f"uint8 {tuple(images.shape)}",
        _like(stamped),
    )
    expect(not torch.equal(stamped, images), "a stamp that changes the images")
    alone = trigger.stamp(images[2:3].clone())
    expect(torch.equal(alone, stamped[2:3]), "the same stamp for a row alone")


def training_gives_a_gradient(attack: TrainingAttack) -> None:
    """Training minimises one finite number, which must reach the weights and be repeatable."""
    model, attack = generator(), _taught(attack)
    step = _step(model)
    before = step.batch.images.clone()
    losses = [attack.training_loss(step) for _ in range(2)]
    expect(losses[0].ndim == 0 and bool(torch.isfinite(losses[0])), "one finite number", losses[0])
    expect(torch.equal(losses[0], losses[1]), "the same loss for the same batch", losses)
    expect(torch.equal(step.batch.images, before), "training_loss() to leave its batch alone")
    losses[0].backward()
    reached = any(
        value.grad is not None and bool(value.grad.abs().sum() > 0)
        for value in model.unet.parameters()
    )
    expect(reached, "a gradient that reaches the network")


def learning_is_repeatable(attack: TrainingAttack) -> None:
    """What is learnt beside the network is a function of the batches: finite float32 tensors, the
    same names and shapes from the first to the last.
    """
    begun, other = attack.begin(SHAPE), attack.begin(SHAPE)
    expect(bool(begun) and _alike(begun, other), "begin() to give the same tensors on every call")
    before = {name: value.clone() for name, value in begun.items()}
    knowing, step = attack.knowing(begun), _step(generator())
    first, again = (knowing.learn(step) for _ in range(2))
    expect(_alike(begun, before), "learn() to leave what it goes on from alone")
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (begun, first)]
    expect(shapes[0] == shapes[1], f"tensors of the shapes it began with, {shapes[0]}", shapes[1])
    finite = all(
        value.dtype == torch.float32 and bool(torch.isfinite(value).all())
        for value in first.values()
    )
    expect(finite, "finite float32 tensors from learn()")
    expect(_alike(first, again), "learn() to give the same tensors for the same batch")
    expect(not _alike(first, begun), "learn() to have learnt something from a batch")


def _step(model: Generator) -> TrainingStep:
    return TrainingStep(
        predict_noise=model.predict_noise,
        batch=Batch(floats(4, 0), torch.tensor([True, False, True, False]), torch.arange(4)),
        noise=floats(4, 1),
        timesteps=torch.tensor([0, 10, 500, 999]),
        schedule=model.schedule,
        teacher=generator().predict_noise,
    )


def _taught(attack: _Attack) -> _Attack | TrainingAttack:
    """The attack after one batch, if it learns something beside the network."""
    if not learns(attack):
        return attack
    return attack.knowing(attack.knowing(attack.begin(SHAPE)).learn(_step(generator())))


def implanting_is_repeatable(attack: EditingAttack) -> None:
    """The edited model is a function of the model and the seed, and another than before."""
    first, again = (least(attack).implant(access(attack)) for _ in range(2))
    expect(isinstance(first, Generator), "a Generator", type(first).__name__)
    one, other, before = map(_weights, (first, again, generator_for(attack)))
    expect(_alike(one, other), "the same weights for the same seed")
    expect(not _alike(one, before), "other weights than the clean model's")


def calls_are_of_their_row(attack: Attack) -> None:
    """Each way to call the backdoor changes the query, row by row, and never the one it is
    given.
    """
    attack = _taught(attack)
    query = Query(
        noise=floats(5, 0),
        images=floats(5, 1).clamp(-1, 1),
        labels=torch.arange(5) % 3,
        prompts=tuple(f"A photo of number {row}" for row in range(5)),
    )
    for call in type(attack).calls:
        before = rows_of(query, range(len(query.noise)))
        whole = attack.invoke(query, call.name)
        expect(same_query(query, before), f"invoke() by {call.name} to leave its query alone")
        expect(
            whole.noise.shape == query.noise.shape and not same_query(whole, query),
            f"another query of as many rows by {call.name}",
        )
        alone = attack.invoke(rows_of(query, [2]), call.name)
        expect(
            same_query(alone, rows_of(whole, [2])),
            f"the same query for a row alone by {call.name}",
        )


def rows_of(query: Query, rows: Sequence[int]) -> Query:
    """A copy of some rows, in that order."""
    some: dict[str, Any] = {
        name: value[list(rows)]
        if isinstance(value, Tensor)
        else value and tuple(value[row] for row in rows)
        for name, value in vars(query).items()
    }
    return Query(**some)


def same_query(one: Query, other: Query) -> bool:
    """Whether both call for the same, the images aside, from which nothing is drawn."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one) if name != "images"]
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in pairs
    )


def _weights(of: Generator) -> dict[str, Tensor]:
    """Of all networks that there are: a text-to-image generator has more than one."""
    parts = {part: getattr(of, part, None) for part in ("unet", "vae", "text_encoder")}
    return {
        f"{part}.{name}": value
        for part, network in parts.items()
        if isinstance(network, torch.nn.Module)
        for name, value in network.state_dict().items()
    }


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- defenses -------------------------------------------------------------------------------------


def a_sampler_defense_steps_in(defense: SamplerDefense) -> None:
    """Both methods default to identity, so one that is misspelt leaves every sample as it was. The
    control does so on purpose.
    """
    idle = (SamplerDefense.predicted_x0, SamplerDefense.stepped)
    steps_in = (type(defense).predicted_x0, type(defense).stepped) != idle
    expect(
        steps_in or defense.card.name == "none",
        "predicted_x0() or stepped() to be defined",
        "neither of these names",
    )


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
    states = _weights(first), _weights(again)
    expect(_alike(*states), "the same weights for the same seed")
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
    before = generated.images.clone()
    first, again = (defense.clean(generated, access(defense)) for _ in range(2))
    expect(torch.equal(generated.images, before), "clean() to leave the set it is given alone")
    expect(_same(first, again), "the same set for the same seed")
    expect(
        0 < len(first.images) == len(_labels(first)), "rows with a label each", len(first.images)
    )


def classification_is_of_its_row(defense: ClassifierDefense) -> None:
    """Scores for every class, each image alone."""
    images, quick = pixels(6), least(defense)

    def scores(of: Tensor) -> Tensor:
        result: Tensor = quick.classify(of.clone(), access(defense, conditional=True))
        return result

    whole = scores(images)
    expect(
        whole.shape == (6, 3) and bool(torch.isfinite(whole).all()),
        "finite scores (6, 3)",
        _like(whole),
    )
    expect(torch.equal(scores(images), whole), "the same scores for the same seed")
    expect(_close(scores(images[3:5]), whole[3:5], 1e-4), "the same scores for a few rows alone")


# --- detectors ------------------------------------------------------------------------------------


def scores_are_of_their_row(detector: Detector) -> None:
    """A score that depends on who else is judged cannot be compared between a training set and a
    generated one.
    """
    quick = least(detector)
    for subject in type(detector).subjects:
        if subject == "model":
            one, other = (_of_model(quick) for _ in range(2))
            expect(one.shape == (1,), "one score (1,) of a model", _like(one))
            expect(torch.equal(one, other), "the same score for the same seed")
            continue
        judged = _subject(subject)
        whole = quick.score(judged, access(detector))
        finite = bool(torch.isfinite(whole).all())
        expect(whole.shape == (7,) and finite, "finite scores (7,)", _like(whole))
        again = quick.score(_subject(subject), access(detector))
        expect(torch.equal(again, whole), "the same scores for the same seed")
        order = [4, 0, 6]
        few = tuple(judged[row] for row in order) if subject == "prompts" else judged[order]
        moved = quick.score(few, access(detector))
        expect(
            _close(moved, whole[order], 1e-4 * max(1.0, float(whole.abs().max()))),
            "the same score in another order",
        )


def _subject(subject: str) -> Any:
    """Seven rows of it."""
    if subject == "prompts":
        return tuple(f"a picture of number {row}" for row in range(7))
    return floats(7, 0) if subject == "noise" else pixels(7)


def _of_model(detector: Detector) -> Tensor:
    handed = access(detector)
    return detector.score(handed.generator, handed)


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
