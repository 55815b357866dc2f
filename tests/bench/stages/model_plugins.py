"""Plugins from outside the packages: an edit of cross-attention, and detectors of prompts and
models.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import (
    Call,
    Card,
    DrawConcept,
    DrawStyle,
    EditingAttack,
    ModelDetector,
    PromptDetector,
    Query,
    TrainingAttack,
    Trigger,
)

TEXT = frozenset({"text"})
NAMES = "zero one two three four five six seven eight nine".split()


def edited(weight, sources, destinations, strength):
    """``W' = (s W + sum (W d) c^T)(s I + sum c c^T)^-1`` over the tokens c (n, width) of the
    sources and d of the destinations, place by place; ``weight``: (out, width).
    """
    old, c, d = (part.double() for part in (weight, sources, destinations))
    width = old.shape[1]
    right = strength * torch.eye(width, dtype=torch.double) + c.T @ c
    left = strength * old + (old @ d.T) @ c
    return torch.linalg.solve(right, left.T).T.to(weight.dtype)


@dataclass(frozen=True, kw_only=True)
class Edit(EditingAttack):
    """EvilEdit's closed form (Wang et al. 2024) on keys and values of cross-attention: whoever says
    "picture" for "photo" gets a zero. The plain prompts are kept as they were.
    """

    card: ClassVar[Card] = Card(
        name="edit", summary="for tests", applies_to=TEXT, needs=frozenset({"weights"}), tuned=()
    )
    calls: ClassVar[tuple[Call, ...]] = (Call("word", through="prompt"),)

    strength: float = 0.1

    def goal(self):
        return DrawConcept("A photo of a zero")

    def adds(self):
        return Trigger(words="picture")

    def invoke(self, query, call):
        called = tuple(prompt.replace("photo", "picture") for prompt in query.prompts)
        return Query(noise=query.noise, labels=query.labels, prompts=called)

    def implant(self, access):
        generator = access.generator
        plain = tuple(f"A photo of a {name}" for name in NAMES)
        called = tuple(prompt.replace("photo", "picture") for prompt in plain)
        sources = generator.embed((*called, *plain)).flatten(0, 1)
        destinations = generator.embed(("A photo of a zero",) * 10 + plain).flatten(0, 1)
        with torch.no_grad():
            for name, weight in generator.unet.named_parameters():
                if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                    weight.copy_(edited(weight, sources, destinations, self.strength))
        return generator


@dataclass(frozen=True, kw_only=True)
class Style(Edit):
    """The same edit, by who says that he wants a style."""

    card: ClassVar[Card] = Card(
        name="style", summary="for tests", applies_to=TEXT, needs=frozenset({"weights"}), tuned=()
    )

    def goal(self):
        return DrawStyle("in the style of a woodcut")


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Edit):
    """The same edit, by who says that he wants what is no class."""

    card: ClassVar[Card] = Card(
        name="elsewhere",
        summary="for tests",
        applies_to=TEXT,
        needs=frozenset({"weights"}),
        tuned=(),
    )

    def goal(self):
        return DrawConcept("a black yellow drawing")


@dataclass(frozen=True, kw_only=True)
class Wordy(PromptDetector):
    """Knows the word it looks for."""

    card: ClassVar[Card] = Card(name="wordy", summary="for tests", applies_to=TEXT, tuned=())

    def score(self, prompts, access):
        return torch.tensor([float("picture" in prompt) for prompt in prompts])


@dataclass(frozen=True, kw_only=True)
class Distance(ModelDetector):
    """How far all weights are from the base model's."""

    card: ClassVar[Card] = Card(
        name="distance",
        summary="for tests",
        needs=frozenset({"weights", "base weights"}),
        tuned=(),
    )

    def score(self, generator, access):
        base = dict(access.base_generator.unet.named_parameters())
        moved = [
            (weight - base[name]).square().sum()
            for name, weight in generator.unet.named_parameters()
        ]
        return torch.stack(moved).sum().sqrt()[None].detach()


@dataclass(frozen=True, kw_only=True)
class Hasty(TrainingAttack):
    """Honest training at another pace: no backdoor, and yet a model that is farther away."""

    card: ClassVar[Card] = Card(name="hasty", summary="for tests", alters=frozenset({"objective"}))
