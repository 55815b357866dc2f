"""Plugins as they were written before goals, triggers and calls were objects; they go on working.

``invocations``, ``target_image``, ``target_label``, ``trigger_image``, ``stamp`` on the class,
``training_loss`` of five arguments and ``clean(generated, rng)`` are read as what they are called
today. Nothing of ours uses them.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import Tensor

from bench.contracts.data import TrainingStep
from bench.contracts.goals import Call, DrawImage, Goal, ReachClass, Trigger

#: Arguments of a loss beside self.
_LOSS = ("predict_noise", "batch", "noise", "timesteps", "schedule")


def adapt(cls: type[Any]) -> None:
    """Gives ``cls`` what it lacks of today's contract. Raises ``TypeError`` for names of calls that
    cannot be.
    """
    own = vars(cls)
    if "invocations" in own:
        cls.calls = _calls(cls, own["invocations"])
    inherits = [vars(base) for base in cls.__mro__ if base.__module__ != "bench.contracts.attack"]
    defined = {name for names in inherits for name in names}
    if "goal" not in defined and defined & {"target_image", "target_label"}:
        cls.goal = _goal
    if "adds" not in defined and defined & {"trigger_image", "stamp"}:
        cls.adds = _adds
    loss = own.get("training_loss")
    if inspect.isfunction(loss) and tuple(inspect.signature(loss).parameters)[1:] == _LOSS:
        cls.training_loss = _of_step(loss)


def adapt_defense(cls: type[Any]) -> None:
    """As :func:`adapt`: a ``clean`` that was handed a random generator, and nothing else."""
    clean = vars(cls).get("clean")
    if inspect.isfunction(clean) and tuple(inspect.signature(clean).parameters)[2:] == ("rng",):

        @functools.wraps(clean)
        def of_access(self: Any, generated: Any, access: Any) -> Any:
            return clean(self, generated, getattr(access, "rng", access))

        cls.clean = of_access


def _calls(cls: type[Any], names: object) -> tuple[Call, ...]:
    if not isinstance(names, tuple) or len(set(map(repr, names))) < len(names):
        raise TypeError(f"{cls.__name__}: invocations must be a tuple of different words")
    try:
        return tuple(Call(name) for name in names)
    except ValueError as error:
        raise TypeError(f"{cls.__name__}: {error}") from error


def _goal(attack: Any) -> Goal | None:
    if hasattr(attack, "target_image"):
        return DrawImage(attack.target_image)
    label = attack.target_label()
    return None if label is None else ReachClass(label)


def _adds(attack: Any) -> Trigger:
    return Trigger(getattr(attack, "trigger_image", None), getattr(attack, "stamp", None))


def _of_step(loss: Any) -> Any:
    @functools.wraps(loss)
    def training_loss(self: Any, *args: Any, **named: Any) -> Tensor:
        if len(args) == 1 and isinstance(args[0], TrainingStep):
            step = args[0]
            args = (step.predict_noise, step.batch, step.noise, step.timesteps, step.schedule)
        value: Tensor = loss(self, *args, **named)
        return value

    return training_loss
