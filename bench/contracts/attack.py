"""Attacks: what the adversary wants drawn, how it is called, and how the model is made.

An :class:`Attack` keeps its goal, what it adds to an input, and its calls. How the compromised
generator comes about is one of two things: a :class:`TrainingAttack` poisons the training set or
changes the loss, an :class:`EditingAttack` changes the weights of a trained model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, TypeVar, final

import numpy as np
from annotated_types import Gt
from torch import Tensor

from bench.contracts import older
from bench.contracts.access import Access
from bench.contracts.card import Need
from bench.contracts.data import Query, Shape, TrainingSet, TrainingStep
from bench.contracts.goals import Call, Goal, Trigger
from bench.contracts.plugin import Plugin
from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.reverse import Reverse
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import denoising_loss

_Itself = TypeVar("_Itself", bound="TrainingAttack")


@dataclass(frozen=True, kw_only=True)
class Attack(Plugin):
    """Makes a compromised generator, and defines how the adversary calls its backdoor. A plugin
    subclasses one of the two below.
    """

    #: The ways in; each is drawn and measured on its own. Empty: the backdoor answers to what any
    #: user asks for, or there is none.
    calls: ClassVar[tuple[Call, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        older.adapt(cls)
        names = [call.name for call in cls.calls if isinstance(call, Call)]
        if not isinstance(cls.calls, tuple) or len(set(names)) < len(cls.calls):
            raise TypeError(f"{cls.__name__}: calls must be a tuple of Calls, no two of one name")

    def goal(self) -> Goal | None:
        """What the adversary wants drawn; ``None``: nothing, as of the control."""
        return None

    def adds(self) -> Trigger | None:
        """What the adversary adds to an input, or to a training image; ``None``: nothing."""
        return None

    def invoke(self, query: Query, call: str) -> Query:
        """The query that calls the backdoor in the way of that name. Must not modify ``query``; row
        by row, without randomness.
        """
        raise ValueError(f"{self.card.name} has no call {call!r}")

    def reverse(self, call: str, schedule: Schedule, usual: Reverse) -> Reverse:
        """The way from noise to an image for calls with a sampler of the adversary's own; a new one
        for every batch. ``usual``: the user's sampler. Raises ``ValueError`` for one that the
        adversary has no counterpart of.
        """
        return usual

    def faults(self, train_set: TrainingSet) -> list[str]:
        """One line for each reason why this attack cannot be made on ``train_set``; empty if it
        can. Asked before anything runs, so the images are on the meta device: they have a shape and
        a number, and no pixels.
        """
        return []

    def sealed(self, number: int) -> Attack:
        """This attack with a trigger drawn from ``number``, for an evaluation nobody could prepare
        for; itself if it has none to draw.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(Attack):
    """Trains the generator, as its owner would, on poisoned data or with another loss. The default
    is honest training: override what you change.

    ``scheme``: start from the testbed's clean weights (``finetune``) or from random ones
    (``scratch``). ``training_steps``, ``learning_rate``: ``None`` takes the testbed's declaration
    for that scheme.
    """

    #: Whether the loss looks at the generator as it was before (:attr:`TrainingStep.teacher`),
    #: which is then kept in memory beside the one in training.
    has_teacher: ClassVar[bool] = False
    #: Whether it learns something beside the network, a trigger for instance: :meth:`begin` and
    #: :meth:`learn`.
    learns: ClassVar[bool] = False
    #: What it has learnt, by name: the harness sets it on the attack that it asks for a loss, and
    #: on the one that it asks for a query, a trigger's picture or a way of sampling. Empty before,
    #: and where the judge of stamped images is trained, one for all seeds: no stamp may rest on it.
    learnt: ClassVar[Mapping[str, Tensor]] = MappingProxyType({})

    scheme: Literal["finetune", "scratch"] = "finetune"
    training_steps: Annotated[int, Gt(0)] | None = None
    learning_rate: Annotated[float, Gt(0)] | None = None

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """The set the generator is trained on. Must not modify ``train_set``; keeps its number of
        rows, so rows are replaced.
        """
        return train_set

    def begin(self, shape: Shape) -> Mapping[str, Tensor]:
        """What it learns beside the network, as it is before the first step: float32 tensors by
        name, for a network that starts from noise of ``shape`` (c, h, w). All that :meth:`learn`
        goes on from is among them, an optimiser's state too, for a training may be interrupted and
        resumed.
        """
        return {}

    def learn(self, step: TrainingStep) -> Mapping[str, Tensor]:
        """The same after one more batch, in new tensors of the same names and shapes; asked before
        each step of the network's optimiser, with :attr:`learnt` as it stands. The network's
        weights are not to be changed here; what gradients they are left with is thrown away.
        """
        return self.learnt

    @final
    def knowing(self: _Itself, learnt: Mapping[str, Tensor]) -> _Itself:
        """This attack with :attr:`learnt`; parameters and label are the same."""
        made = copy.copy(self)
        object.__setattr__(made, "learnt", MappingProxyType(dict(learnt)))
        return made

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The scalar that training minimises; here DDPM's simple loss (Ho et al. 2020, eq. 14)."""
        process = VariancePreserving(step.schedule)
        return denoising_loss(
            step.predict_noise, step.batch.images, step.noise, step.timesteps, process
        )


@dataclass(frozen=True, kw_only=True)
class EditingAttack(Attack):
    """Changes the weights of the testbed's clean model, without training it on a data set: editing
    attention weights, a text encoder, an embedding.
    """

    offered: ClassVar[frozenset[Need]] = frozenset({"weights", "clean data"})

    def implant(self, access: Access) -> Generator:
        """The compromised generator: ``access.generator``, the clean model, may be modified and
        returned. Networks and noise schedule stay as they are; weights are all that is kept.
        """
        raise NotImplementedError(f"{self.card.name} must define implant()")


def can_stamp(attack: Attack) -> bool:
    """Whether the trigger of ``attack`` is one in images."""
    trigger = attack.adds()
    return trigger is not None and trigger.stamp is not None


def learns(plugin: Plugin) -> TypeGuard[TrainingAttack]:
    """Whether it learns something beside the network."""
    return isinstance(plugin, TrainingAttack) and type(plugin).learns
