"""A defense of the sampler and one of the weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import Card, ModelDefense, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class Dampen(SamplerDefense):
    """Pulls the predicted clean image towards grey."""

    card: ClassVar[Card] = Card(name="guest_dampen", summary="pulls x_0 towards grey", tuned=())
    factor: float = 0.9

    def predicted_x0(self, predicted_x0, timestep):
        return predicted_x0 * self.factor


@dataclass(frozen=True, kw_only=True)
class Soften(ModelDefense):
    """Shrinks every weight a little."""

    card: ClassVar[Card] = Card(
        name="guest_soften", summary="shrinks every weight", needs=frozenset({"weights"}), tuned=()
    )
    factor: float = 0.99

    def repair(self, access):
        with torch.no_grad():
            for weight in access.generator.unet.parameters():
                weight.mul_(self.factor)
        return access.generator
