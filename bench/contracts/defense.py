"""Defenses: what a defender does about a model he suspects, each family by what it replaces.

A sampler defense replaces the sampler, a model defense the generator, a data defense the training
set of a classifier, a classifier defense its answers; an inversion replaces nothing and adds what
it recovers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bench.contracts import older
from bench.contracts.access import Access
from bench.contracts.card import NEEDS, Need
from bench.contracts.data import Recovered, TrainingSet
from bench.contracts.plugin import Plugin
from bench.diffusion.generator import Generator


@dataclass(frozen=True, kw_only=True)
class Defense(Plugin):
    """Base of the defense families below; a plugin subclasses one of those."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        older.adapt_defense(cls)

    def uses(self) -> Inversion | None:
        """The inversion whose result this defense starts from, handed over as
        ``access.recovered``; ``None``: none.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class SamplerDefense(Defense):
    """Steps in at inference: sees each step's predicted clean image and each step's result. Both
    default to identity.

    ``x`` and ``predicted_x0``: (n, c, h, w), a copy that may be written to; what comes back must be
    finite and alike in shape, dtype and device. ``timestep``: the integer t the step left from.
    ``keeps_noise``: whether DDIM goes on with the network's own noise prediction beside the
    replaced x_0; by default, and under every other sampler, the noise follows from x_0 and x_t.
    """

    keeps_noise: ClassVar[bool] = False

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        """Replaces the predicted clean image before the scheduler forms x_{t-1} from it."""
        return predicted_x0

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        """Replaces x_{t-1} after the scheduler's step, noise included."""
        return x


@dataclass(frozen=True, kw_only=True)
class ModelDefense(Defense):
    """Repairs a generator: removal, fine-tuning, pruning."""

    offered: ClassVar[frozenset[Need]] = NEEDS

    def repair(self, access: Access) -> Generator:
        """A generator to use instead of ``access.generator`` (which may be modified and returned):
        the same network and noise schedule with other weights. Weights are all that is kept of it:
        a hook, say, would be lost.
        """
        raise NotImplementedError(f"{self.card.name} must define repair()")


@dataclass(frozen=True, kw_only=True)
class Inversion(Defense):
    """Recovers the trigger or the target from a generator. It is a discovery, not a repair: no
    sample changes.
    """

    offered: ClassVar[frozenset[Need]] = NEEDS

    def invert(self, access: Access) -> Recovered:
        """The candidates; the harness compares them with the true target, which the defender never
        sees.
        """
        raise NotImplementedError(f"{self.card.name} must define invert()")


@dataclass(frozen=True, kw_only=True)
class DataDefense(Defense):
    """Decides what the defender's classifier is trained on instead of the suspected training
    set.
    """

    offered: ClassVar[frozenset[Need]] = NEEDS
    apart: ClassVar[frozenset[Need]] = frozenset({"clean data", "training data"})

    def clean(self, generated: TrainingSet, access: Access) -> TrainingSet:
        """The rows to train on, out of ``generated``: images the suspected generator drew, labelled
        with the class it was asked for.

        Each returned row must be one of ``generated``, image and label; one may occur several
        times.
        """
        raise NotImplementedError(f"{self.card.name} must define clean()")


@dataclass(frozen=True, kw_only=True)
class ClassifierDefense(Defense):
    """Classifies with the suspected class-conditional generator itself."""

    offered: ClassVar[frozenset[Need]] = NEEDS
    apart: ClassVar[frozenset[Need]] = frozenset({"clean data", "training data"})

    def classify(self, images: Tensor, access: Access) -> Tensor:
        """Scores (n, classes), the highest being the prediction, of images (n, c, h, w) uint8."""
        raise NotImplementedError(f"{self.card.name} must define classify()")
