"""An attack with three ways to call it, one of which the house has no word for."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import Attack, Card, Query


@dataclass(frozen=True, kw_only=True)
class Letter(Attack):
    """Adds a bar to the starting noise; trains honestly, so it reaches nothing."""

    card: ClassVar[Card] = Card(
        name="guest_letter",
        summary="a bar in the starting noise",
        alters=frozenset({"objective"}),
        tuned=(),
    )
    invocations: ClassVar[tuple[str, ...]] = ("noise", "image", "letter")

    height: int = 4

    def target_image(self, image_shape):
        image = torch.full(image_shape, -1.0)
        image[:, : image_shape[1] // 2, : image_shape[2] // 2] = 1.0
        return image

    def invoke(self, query, invocation):
        noise = query.noise.clone()
        noise[:, :, : self.height] += {"noise": 1.0, "image": 0.5, "letter": -1.0}[invocation]
        return Query(noise=noise, images=query.images)
