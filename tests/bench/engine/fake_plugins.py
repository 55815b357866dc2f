"""Plugins from outside the packages, one of each family."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval

from bench.plugin import (
    Call,
    Card,
    DrawImage,
    Inversion,
    ModelDefense,
    SamplerDefense,
    TrainingAttack,
)


@dataclass(frozen=True, kw_only=True)
class FakeAttack(TrainingAttack):
    """A backdoor that is none."""

    card: ClassVar[Card] = Card(name="fake_attack", summary="for tests")
    calls: ClassVar[tuple[Call, ...]] = (Call("noise"), Call("image"))

    poison_rate: Annotated[float, Interval(gt=0, le=1)] = 0.1
    trigger: Literal["box", "sign"] = "box"
    size: tuple[int, int] | None = None

    def goal(self):
        return DrawImage(torch.zeros)


@dataclass(frozen=True, kw_only=True)
class TextAttack(TrainingAttack):
    """Applies where there are prompts."""

    card: ClassVar[Card] = Card(
        name="fake_text_attack", summary="for tests", applies_to=frozenset({"text"})
    )


@dataclass(frozen=True, kw_only=True)
class FakeSampler(SamplerDefense):
    """Changes nothing."""

    card: ClassVar[Card] = Card(name="fake_sampler", summary="for tests")
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FakeRepair(ModelDefense):
    """Changes nothing."""

    card: ClassVar[Card] = Card(name="fake_repair", summary="for tests")


@dataclass(frozen=True, kw_only=True)
class FakeInvert(Inversion):
    """Finds nothing."""

    card: ClassVar[Card] = Card(name="fake_invert", summary="for tests")
