"""An attack with three ways to call it, one of which the house has no word for."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from bench.plugin import Call, Card, DrawImage, TrainingAttack


@dataclass(frozen=True, kw_only=True)
class Letter(TrainingAttack):
    """Adds a bar to the starting noise, or keeps one in the picture; trains honestly, so it reaches
    nothing.
    """

    card: ClassVar[Card] = Card(
        name="guest_letter",
        summary="a bar in the starting noise",
        alters=frozenset({"objective"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (
        Call("noise"),
        Call("image"),
        Call("letter", through="mask", words="a bar that is kept"),
    )

    height: int = 4

    def goal(self):
        def image(shape):
            drawn = torch.full(shape, -1.0)
            drawn[:, : shape[1] // 2, : shape[2] // 2] = 1.0
            return drawn

        return DrawImage(image)

    def invoke(self, query, call):
        rows = slice(0, self.height)
        if call == "letter":
            known, mask = query.images.clone(), torch.zeros(len(query.noise), 1, 16, 16).bool()
            known[:, :, rows], mask[:, :, rows] = 1.0, True
            return replace(query, known=known, mask=mask)
        noise = query.noise.clone()
        noise[:, :, rows] += {"noise": 1.0, "image": 0.5}[call]
        return replace(query, noise=noise)
