"""What a plugin says of itself, as JSON values: its class, and what planning asks of an instance.

A third party's code runs in a process of its own (:mod:`bench.card_child`), and this is what that
process says. :mod:`bench.stand_in` reads it back, as from a stranger.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
from collections.abc import Mapping
from typing import Any, Literal

from bench.constraints import Domain, Option, domains
from bench.contracts.attack import Attack, EditingAttack, TrainingAttack
from bench.contracts.card import Card
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Defense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.goals import DrawConcept, DrawFromSet, DrawImage, DrawStyle, Goal, ReachClass
from bench.contracts.plugin import Plugin
from bench.errors import UserError

#: The base classes by which planning tells plugins apart.
BASES: Mapping[str, type[Plugin]] = {
    base.__name__: base
    for base in (
        TrainingAttack,
        EditingAttack,
        Attack,
        SamplerDefense,
        ModelDefense,
        DataDefense,
        ClassifierDefense,
        Inversion,
        Defense,
        Detector,
        Plugin,
    )
}
GOALS: Mapping[str, type[Goal]] = {
    goal.__name__: goal
    for goal in (DrawImage, DrawFromSet, ReachClass, DrawConcept, DrawStyle, Goal)
}
#: What a parameter's type is called.
TYPES: Mapping[str, Any] = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "tuple": tuple,
    "null": types.NoneType,
    "anything": Any,
    "choice": Literal,
    "unknown": None,
}
#: Methods that planning calls, of which it need not ask where they are the contract's own.
ASKED: Mapping[str, tuple[type[Plugin], ...]] = {
    "uses": (Defense, Detector),
    "faults": (Attack,),
    "sealed": (Attack,),
    "stepped": (SamplerDefense,),
}


def class_data(cls: type[Plugin]) -> dict[str, Any]:
    """Of a class, all that planning and ``castlewalls show`` need. Raises :class:`UserError` for
    what has no JSON form.
    """
    bases = [base for base in BASES.values() if issubclass(cls, base)]
    nearest = [
        base.__name__
        for base in bases
        if not any(issubclass(other, base) and other is not base for other in bases)
    ]
    calls = [dataclasses.asdict(call) for call in cls.calls] if issubclass(cls, Attack) else []
    return {
        "key": f"{cls.__module__}:{cls.__qualname__}",
        "name": cls.__name__,
        "bases": nearest,
        "card": _card(cls.card),
        "parameters": _parameters(cls),
        "always_shown": list(cls.always_shown),
        "calls": calls,
        "learns": issubclass(cls, TrainingAttack) and cls.learns,
        "subjects": list(cls.subjects) if issubclass(cls, Detector) else [],
        "defines": [name for name, bases in ASKED.items() if _defines(cls, name, bases)],
        "doc": documentation(cls),
    }


def _defines(cls: type[Plugin], name: str, bases: tuple[type[Plugin], ...]) -> bool:
    return any(
        issubclass(cls, base) and getattr(cls, name) is not getattr(base, name) for base in bases
    )


def instance_data(plugin: Plugin) -> dict[str, Any]:
    """Of an instance: its parameters, and what its methods answer that planning asks."""
    data: dict[str, Any] = {
        "params": {name: packed(value) for name, value in plugin.params().items()},
        "goal": None,
        "adds": None,
        "uses": None,
    }
    if isinstance(plugin, Attack):
        data["goal"] = _goal(plugin.goal())
        trigger = plugin.adds()
        if trigger is not None:
            drawn, stamped = trigger.picture is not None, trigger.stamp is not None
            data["adds"] = {"picture": drawn, "stamp": stamped, "words": trigger.words}
    elif isinstance(plugin, Defense | Detector):
        inversion = plugin.uses()
        if inversion is not None:
            data["uses"] = [inversion.card.name, packed(inversion.params())]
    return data


def _goal(goal: Goal | None) -> dict[str, Any] | None:
    if goal is None:
        return None
    names = [name for name, cls in GOALS.items() if isinstance(goal, cls)]
    if not names:
        raise UserError(f"goal() must return a Goal or None, got {type(goal).__name__}")
    data: dict[str, Any] = {"kind": names[0]}
    if isinstance(goal, ReachClass):
        data["label"] = operator.index(goal.label)
    elif isinstance(goal, DrawConcept | DrawStyle):
        data["prompt"] = goal.prompt
    return data


def _card(card: Card) -> dict[str, Any]:
    sets = {name: sorted(getattr(card, name)) for name in ("applies_to", "alters", "needs")}
    tuned = None if card.tuned is None else [dataclasses.asdict(one) for one in card.tuned]
    return {
        "name": card.name,
        "summary": card.summary,
        "paper": None if card.paper is None else dataclasses.asdict(card.paper),
        **sets,
        "tuned": tuned,
        "files": list(card.files),
    }


def _parameters(cls: type[Plugin]) -> list[dict[str, Any]]:
    try:
        allowed = domains(cls)
    except TypeError as error:
        raise UserError(str(error)) from error
    data = []
    for field in dataclasses.fields(cls):
        if not field.init:
            raise UserError(
                f"{cls.card.name}: {field.name} must be a parameter, and has init=False"
            )
        one = {"name": field.name, "domain": _domain(allowed[field.name]), "filled": False}
        if field.default is not dataclasses.MISSING:
            one["default"] = packed(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            one["filled"] = True  # by the class itself, whenever one is made
        data.append(one)
    return data


def _domain(domain: Domain) -> dict[str, Any]:
    return {"options": [_option(one) for one in domain.options], "notes": list(domain.notes)}


def _option(option: Option) -> dict[str, Any]:
    name = next(name for name, kind in TYPES.items() if kind is option.type)
    return {
        "type": name,
        "unknown": option.unknown,
        "bounds": dict(option.bounds),
        "choices": [packed(choice) for choice in option.choices],
        "items": [_domain(item) for item in option.items],
        "repeated": option.repeated,
    }


def packed(value: Any) -> Any:
    """A parameter as a JSON value from which :func:`bench.stand_in.unpacked` makes the same one.
    Raises :class:`UserError` if there is none.
    """
    if isinstance(value, tuple):
        return {"tuple": [packed(item) for item in value]}
    if isinstance(value, list):
        return [packed(item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"dict": {name: packed(item) for name, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"a parameter must be a JSON value, got a {type(value).__name__}")


def documentation(cls: type[Any]) -> str:
    """The docstrings of the file, the class and the bases that bring parameters: that is where
    parameters are explained.
    """
    if "__documentation__" in vars(cls):
        return str(vars(cls)["__documentation__"])
    module = inspect.getmodule(cls)
    bases = [
        base
        for base in cls.__mro__
        if dataclasses.is_dataclass(base) and "__annotations__" in vars(base)
    ]
    texts = [inspect.cleandoc((module.__doc__ if module else None) or "")]
    texts += [
        inspect.cleandoc(base.__doc__ or "")
        for base in bases
        if base.__module__ != "bench.plugin" or _adds_parameters(base)
    ]
    return "\n\n".join(
        dict.fromkeys(text for text in texts if text and "(*," not in text[: len(cls.__name__) + 4])
    )


def _adds_parameters(cls: type[Any]) -> bool:
    return any(field.name in vars(cls)["__annotations__"] for field in dataclasses.fields(cls))
