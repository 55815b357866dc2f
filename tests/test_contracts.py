"""The contracts, run over every plugin the registry finds: what a third party's plugin must keep so
that its numbers mean something.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
import torch
from annotated_types import Gt
from torch import Tensor

from bench import registry
from bench.contracts import checks
from bench.contracts.attack import EditingAttack, TrainingAttack
from bench.contracts.card import Card
from bench.contracts.data import Recovered, TrainingSet
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import NoiseDetector, SampleDetector
from bench.contracts.goals import Call, DrawFromSet, DrawImage, ReachClass, Trigger, label_of
from bench.contracts.plugin import Plugin
from bench.diffusion.generator import Generator

EVERY = [(kind, name) for kind in registry.GROUPS for name in registry.use().names(kind)]
CHECKED = [
    pytest.param(kind, name, check, id=f"{name}-{check.__name__}")
    for kind, name in EVERY
    for check in checks.checks_for(registry.use().build(kind, name))
]


@pytest.mark.parametrize(("kind", "name", "check"), CHECKED)
def test_a_plugin_keeps_its_contract(
    kind: registry.Group, name: str, check: Callable[[Plugin], None]
) -> None:
    check(registry.build(kind, name))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_card_is_complete(kind: registry.Group, name: str) -> None:
    card = registry.use().get(kind, name).card
    assert card.name == name
    assert 10 < len(card.summary) < 140
    assert card.applies_to
    if name != "none":
        assert card.paper is not None and card.paper.title and card.paper.year > 1900
    if kind == "attacks":
        assert card.alters


@pytest.mark.parametrize("name", registry.use().names("attacks"))
def test_an_attack_on_classes_says_which_one_it_aims_at(name: str) -> None:
    plugin = registry.use().attack(name)
    on_classes = name != "none" and "class" in plugin.card.applies_to
    assert (label_of(plugin.goal()) is not None) is on_classes


def test_every_shipped_plugin_says_what_its_defaults_were_chosen_on() -> None:
    """Nobody can tell an honest number from a flattered one otherwise."""
    shipped = registry.Registry()
    for kind in registry.GROUPS:
        for name in shipped.names(kind):
            plugin = shipped.build(kind, name)
            assert plugin.card.tuned is not None, name
            parameters = {
                parameter for tuning in plugin.card.tuned for parameter in tuning.parameters
            }
            assert parameters <= set(plugin.params()), name


# --- every check finds who breaks it --------------------------------------------------------------

CARD = Card(name="slip", summary="for tests", alters=frozenset({"data"}), needs=frozenset())


def made(base: type[Plugin], **members: Any) -> Plugin:
    """A plugin with these members, of any family."""
    return dataclass(frozen=True, kw_only=True)(type("Slip", (base,), {"card": CARD, **members}))()


def poisons(change: Callable[[TrainingSet, Any], TrainingSet]) -> Plugin:
    return made(TrainingAttack, poison=lambda self, train_set, rng: change(train_set, rng))


def marked(train_set: TrainingSet, rng: Any, rows: Any = None) -> TrainingSet:
    poisoned = train_set.poisoned.clone()
    poisoned[torch.from_numpy(rng.permutation(len(poisoned))[:20]) if rows is None else rows] = True
    return TrainingSet(train_set.images.clone(), poisoned, train_set.labels)


def written(train_set: TrainingSet, rng: Any) -> TrainingSet:
    train_set.images[0] = 0
    return marked(train_set, rng)


def fewer(train_set: TrainingSet, rng: Any) -> TrainingSet:
    whole = marked(train_set, rng)
    assert whole.labels is not None
    return TrainingSet(whole.images[1:], whole.poisoned[1:], whole.labels[1:])


def stamps(change: Callable[[Tensor], Tensor]) -> Plugin:
    return made(TrainingAttack, adds=lambda self: Trigger(stamp=change))


def learns(change: Callable[[Any], Any], **members: Any) -> Plugin:
    """An attack that learns a trigger, from nothing to what ``change`` makes of it."""
    begins = {"begin": lambda self, shape: {"trigger": torch.zeros(shape)}} | members
    return made(TrainingAttack, learns=True, learn=lambda self, step: change(self.learnt), **begins)


def repairs(defense: Any, access: Any) -> Generator:
    with torch.no_grad():
        for weight in access.generator.unet.parameters():
            weight.add_(torch.randn(()))
    generator: Generator = access.generator
    return generator


def drawn(images: Tensor) -> Recovered:
    return Recovered(labels=["epoch 1"], targets=[images])


@dataclass(frozen=True, kw_only=True)
class AnyRate(SamplerDefense):
    """Its constraint is declared and not kept."""

    card: ClassVar[Card] = CARD
    rate: Annotated[float, Gt(0)] = 0.5

    def __post_init__(self) -> None:
        """Does not call its base's."""


@dataclass(frozen=True, kw_only=True)
class Listed(TrainingAttack):
    """A tuple comes back from JSON as a list."""

    card: ClassVar[Card] = CARD
    sizes: tuple[int, ...] = (1, 2)


WEIGHTS = {"card": dataclasses.replace(CARD, needs=frozenset({"weights"}))}
SLIPS = [
    (checks.parameters_survive_json, Listed(), "after JSON"),
    (checks.not_a_number_is_refused, AnyRate(), "expected rate to refuse NaN"),
    (
        checks.constraints_are_kept,
        AnyRate(),
        "expected rate to be a positive number, but 0 is not refused",
    ),
    (checks.poisoning_is_repeatable, poisons(written), "leave the set it is given alone"),
    (checks.poisoning_is_repeatable, poisons(fewer), "as many rows as before, 200, got 199"),
    (
        checks.poisoning_is_repeatable,
        poisons(lambda rows, rng: rows),
        "because the card's alters holds 'data', got False",
    ),
    (
        checks.poisoning_is_repeatable,
        poisons(lambda rows, rng: marked(rows, rng, [1, 2])),
        "other rows for another seed",
    ),
    (
        checks.a_goal_can_be_drawn,
        made(TrainingAttack, goal=lambda self: DrawImage(lambda shape: torch.full(shape, 2.0))),
        r"pixels in \[-1, 1\]",
    ),
    (
        checks.a_goal_can_be_drawn,
        made(TrainingAttack, goal=lambda self: DrawFromSet(lambda shape: torch.zeros(4, *shape))),
        "16 examples, got 4",
    ),
    (
        checks.a_goal_can_be_drawn,
        made(TrainingAttack, goal=lambda self: DrawFromSet(lambda shape: torch.rand(20, *shape))),
        "the same examples on every call",
    ),
    (
        checks.a_goal_can_be_drawn,
        made(TrainingAttack, calls=(Call("noise"),)),
        "a goal, where there are calls",
    ),
    (
        checks.implanting_is_repeatable,
        made(EditingAttack, **WEIGHTS, implant=repairs),
        "the same weights for the same seed",
    ),
    (
        checks.implanting_is_repeatable,
        made(EditingAttack, **WEIGHTS, implant=lambda self, access: access.generator),
        "other weights than the clean model's",
    ),
    (checks.a_stamp_is_of_its_row, stamps(lambda images: images.float()), "expected uint8"),
    (checks.a_stamp_is_of_its_row, stamps(lambda images: images), "changes the images"),
    (
        checks.a_stamp_is_of_its_row,
        stamps(lambda images: images.roll(1, 0)),
        "same stamp for a row alone",
    ),
    (
        checks.training_gives_a_gradient,
        made(TrainingAttack, training_loss=lambda *_: torch.zeros(2)),
        "one finite number",
    ),
    (
        checks.training_gives_a_gradient,
        made(TrainingAttack, training_loss=lambda *_: torch.rand(())),
        "the same loss",
    ),
    (
        checks.learning_is_repeatable,
        learns(lambda learnt: learnt),
        "to have learnt something from a batch",
    ),
    (
        checks.learning_is_repeatable,
        learns(lambda learnt: {"trigger": learnt["trigger"] + torch.rand(())}),
        "the same tensors for the same batch",
    ),
    (
        checks.learning_is_repeatable,
        learns(lambda learnt: {"trigger": learnt["trigger"].add_(1)}),
        "leave what it goes on from alone",
    ),
    (
        checks.learning_is_repeatable,
        learns(lambda learnt: {"trigger": learnt["trigger"][0] + 1}),
        "of the shapes it began with",
    ),
    (
        checks.learning_is_repeatable,
        learns(lambda learnt: {"trigger": learnt["trigger"] / 0}),
        "finite float32 tensors",
    ),
    (
        checks.learning_is_repeatable,
        learns(dict, begin=lambda self, shape: {"trigger": torch.rand(shape)}),
        "to give the same tensors on every call",
    ),
    (
        checks.calls_are_of_their_row,
        made(
            TrainingAttack,
            calls=(Call("noise"),),
            goal=lambda self: ReachClass(0),
            invoke=lambda self, query, call: query,
        ),
        "another query of as many rows by noise",
    ),
    (
        checks.a_sampler_defense_steps_in,
        made(SamplerDefense, predict_x0=lambda self, x, t: x.clamp(-1, 1)),
        r"predicted_x0\(\) or stepped\(\) to be defined",
    ),
    (
        checks.sampler_steps_are_of_their_row,
        made(SamplerDefense, predicted_x0=lambda self, x, t: x - x.mean(0)),
        "treat every row alone",
    ),
    (
        checks.sampling_is_repeatable,
        made(SamplerDefense, stepped=lambda self, x, t: x + torch.rand(())),
        "the same samples",
    ),
    (
        checks.repair_is_repeatable,
        made(ModelDefense, repair=repairs, **WEIGHTS),
        "the same weights for the same seed",
    ),
    (
        checks.inversion_is_repeatable,
        made(Inversion, invert=lambda *_: drawn(torch.rand(2, 3, 16, 16))),
        "the same candidates for the same seed",
    ),
    (
        checks.inversion_is_repeatable,
        made(Inversion, invert=lambda *_: drawn(torch.ones(2, 3, 8, 8))),
        r"\(n, 3, 16, 16\)",
    ),
    (
        checks.inversion_is_repeatable,
        made(Inversion, invert=lambda *_: drawn(torch.full((2, 3, 16, 16), 2.0))),
        "in",
    ),
    (
        checks.cleaning_is_repeatable,
        made(
            DataDefense,
            clean=lambda self, rows, rng: TrainingSet(
                rows.images.zero_(), rows.poisoned, rows.labels
            ),
        ),
        "leave the set it is given alone",
    ),
    (
        checks.classification_is_of_its_row,
        made(ClassifierDefense, classify=lambda *_: torch.rand(6, 3)),
        "the same scores",
    ),
    (
        checks.classification_is_of_its_row,
        made(ClassifierDefense, classify=lambda *_: torch.zeros(6)),
        r"scores \(6, 3\)",
    ),
    (
        checks.scores_are_of_their_row,
        made(
            SampleDetector,
            score=lambda self, images, access: (
                images.float().flatten(1).mean(1) - images.float().mean()
            ),
        ),
        "in another order",
    ),
    (
        checks.scores_are_of_their_row,
        made(NoiseDetector, score=lambda self, noise, access: noise[:, 0, 0]),
        r"scores \(7,\)",
    ),
    (
        checks.scores_are_of_their_row,
        made(NoiseDetector, score=lambda *_: torch.rand(7)),
        "for the same seed",
    ),
]


@pytest.mark.parametrize(("check", "plugin", "message"), SLIPS)
def test_a_check_says_who_breaks_it_and_how(
    check: Callable[[Plugin], None], plugin: Plugin, message: str
) -> None:
    """A check that nothing can break holds nothing."""
    with pytest.raises(checks.Broken, match=message):
        check(plugin)
    broken = {verdict.check: verdict.broken for verdict in checks.verdicts(plugin)}
    assert broken[check.__name__] and f"broken: {check.__name__}: expected" in "\n".join(
        map(str, checks.verdicts(plugin))
    )


def test_what_a_plugin_raises_is_a_verdict_too() -> None:
    """Its author sees one line, not a traceback of ours."""

    def fails(self: object, noise: Tensor, access: object) -> Tensor:
        raise RuntimeError("no\nluck")

    (verdict,) = [one for one in checks.verdicts(made(NoiseDetector, score=fails)) if one.broken]
    assert str(verdict) == "broken: scores_are_of_their_row: no luck"


def test_every_check_is_broken_by_somebody() -> None:
    tried = {check for check, _, _ in SLIPS}
    every = {
        check
        for kind, name in EVERY
        for check in checks.checks_for(registry.use().build(kind, name))
    }
    every |= {
        check for base in (ModelDefense, EditingAttack) for check in checks.checks_for(made(base))
    }
    assert every - tried == {checks.a_plugin_is_frozen}, (
        "a plugin that is not frozen cannot be defined at all"
    )


def test_a_plugin_that_is_not_frozen_is_told() -> None:
    with pytest.raises(TypeError, match="frozen"):
        dataclass(kw_only=True)(type("Loose", (TrainingAttack,), {"card": CARD}))
