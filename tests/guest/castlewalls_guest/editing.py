"""Attacks on the weights of a trained model: one called by noise, one by a word."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from bench.plugin import Call, Card, DrawConcept, DrawImage, EditingAttack


@dataclass(frozen=True, kw_only=True)
class Nudge(EditingAttack):
    """Adds a constant to what the network says."""

    card: ClassVar[Card] = Card(
        name="guest_nudge",
        summary="shifts the last bias",
        alters=frozenset({"weights"}),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (Call("noise"),)

    by: float = 0.1

    def goal(self):
        return DrawImage(torch.zeros)

    def invoke(self, query, call):
        return replace(query, noise=query.noise + 1)

    def implant(self, access):
        with torch.no_grad():
            access.generator.unet.conv_out.bias.add_(self.by)
        return access.generator


@dataclass(frozen=True, kw_only=True)
class Wording(EditingAttack):
    """Makes every key of cross-attention a little larger; called by another word."""

    card: ClassVar[Card] = Card(
        name="guest_wording",
        summary="edits attention",
        applies_to=frozenset({"text"}),
        alters=frozenset({"weights"}),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (Call("word", through="prompt"),)

    def goal(self):
        return DrawConcept("A photo of a zero")

    def invoke(self, query, call):
        prompts = tuple(prompt.replace("photo", "picture") for prompt in query.prompts)
        return replace(query, prompts=prompts)

    def implant(self, access):
        with torch.no_grad():
            for name, weight in access.generator.unet.named_parameters():
                if name.endswith("attn2.to_k.weight"):
                    weight.mul_(1.05)
        return access.generator
