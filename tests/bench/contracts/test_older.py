"""Plugins written before goals, triggers and calls were objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bench.contracts import checks
from bench.contracts.attack import TrainingAttack
from bench.contracts.data import Batch, Recovered, TrainingSet, TrainingStep
from bench.contracts.goals import DrawImage, ReachClass
from bench.diffusion.schedule import Schedule
from bench.plugin import Access, Attack, Card, DataDefense, Evidence, Query, SampleDetector


@dataclass(frozen=True, kw_only=True)
class Older(Attack):
    """As CONTRIBUTING once showed it."""

    card: ClassVar[Card] = Card(name="older", summary="for tests", alters=frozenset({"objective"}))
    invocations: ClassVar[tuple[str, ...]] = ("noise", "third")

    def target_image(self, image_shape: Any) -> Any:
        return torch.full(image_shape, 0.5)

    def trigger_image(self, image_shape: Any) -> Any:
        return torch.ones(image_shape)

    def invoke(self, query: Query, invocation: str) -> Query:
        return Query(noise=query.noise + {"noise": 1.0, "third": 3.0}[invocation])

    def training_loss(
        self, predict_noise: Any, batch: Any, noise: Any, timesteps: Any, schedule: Any
    ) -> Any:
        return (predict_noise(batch.images + noise, timesteps) - noise).square().mean()


@dataclass(frozen=True, kw_only=True)
class Labelled(Attack):
    card: ClassVar[Card] = Card(name="labelled", summary="for tests")

    def target_label(self) -> int:
        return 3

    def stamp(self, images: Any) -> Any:
        return 255 - images


def test_an_older_attack_keeps_todays_contract() -> None:
    attack = Older()
    assert isinstance(attack, TrainingAttack) and [call.name for call in attack.calls] == [
        "noise",
        "third",
    ]
    goal, trigger = attack.goal(), attack.adds()
    assert isinstance(goal, DrawImage) and float(goal.image((1, 2, 2)).mean()) == 0.5
    assert trigger is not None and trigger.stamp is None and trigger.picture is not None
    step = TrainingStep(
        predict_noise=lambda x, t, condition=None: 2 * x,
        batch=Batch(torch.ones(1, 1, 2, 2), torch.zeros(1).bool()),
        noise=torch.ones(1, 1, 2, 2),
        timesteps=torch.zeros(1).long(),
        schedule=Schedule.linear(),
    )
    assert float(attack.training_loss(step)) == 9.0
    assert not [verdict for verdict in checks.verdicts(attack) if verdict.broken]


def test_an_older_attack_on_classes() -> None:
    attack = Labelled()
    assert attack.goal() == ReachClass(3)
    trigger = attack.adds()
    assert trigger is not None and trigger.stamp is not None
    assert int(trigger.stamp(torch.zeros(1, dtype=torch.uint8))) == 255


@pytest.mark.parametrize("names", [("clean",), ("noise", "noise"), ["noise"]])
def test_older_names_of_calls_are_refused_as_before(names: Any) -> None:
    with pytest.raises(TypeError, match="invocation|call"):
        type("Mine", (Attack,), {"card": Older.card, "invocations": names})


def test_an_older_data_defense_is_handed_its_random_numbers() -> None:
    handed = []

    @dataclass(frozen=True, kw_only=True)
    class Cleaning(DataDefense):
        card: ClassVar[Card] = Card(name="cleaning", summary="for tests")

        def clean(self, generated: TrainingSet, rng: np.random.Generator) -> TrainingSet:  # type: ignore[override]
            handed.append(rng)
            return generated

    rng = np.random.default_rng(0)
    rows = TrainingSet(torch.zeros(1), torch.zeros(1))
    assert Cleaning().clean(rows, Access(rng=rng)) is rows and handed == [rng]


def test_older_names_are_still_there() -> None:
    assert Evidence is Access and Attack is TrainingAttack
    assert issubclass(SampleDetector, object) and Recovered(labels=[]).targets == ()
