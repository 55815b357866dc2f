"""A defense of the sampler, two of the weights, and an inversion that one of them starts from."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import Card, Inversion, ModelDefense, Recovered, SamplerDefense


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


@dataclass(frozen=True, kw_only=True)
class Recall(Inversion):
    """Takes the mean of what the model draws for the target."""

    card: ClassVar[Card] = Card(
        name="guest_recall", summary="a mean of samples", needs=frozenset({"weights"}), tuned=()
    )
    count: int = 4

    def invert(self, access):
        drawn = access.sample(access.generator, self.count).mean(0, keepdim=True)
        return Recovered(labels=["mean"], targets=[drawn], triggers=[-drawn])


@dataclass(frozen=True, kw_only=True)
class Undo(ModelDefense):
    """Moves the last bias away from the mean of what was recovered."""

    card: ClassVar[Card] = Card(
        name="guest_undo", summary="starts from a recall", needs=frozenset({"weights"}), tuned=()
    )

    def uses(self):
        return Recall(count=2)

    def repair(self, access):
        with torch.no_grad():
            access.generator.unet.conv_out.bias.sub_(0.01 * access.recovered.targets[0].mean())
        return access.generator
