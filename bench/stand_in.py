"""A third party's plugin as this process knows it: a class made of what its own process said
(:mod:`bench.described`), checked as a stranger's words are. Its code is not here.

A stand-in has the card, the parameters with their bounds, the name, the label and the family of the
plugin. What planning asks of an instance (:data:`bench.described.ASKED`, its goal, what it adds,
whether its parameters fit together) is asked of the other process. What only a run needs is not
there: a run imports the plugin itself, isolated.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from bench.constraints import Domain, Option
from bench.contracts.attack import Attack, TrainingAttack
from bench.contracts.card import Card, Paper, Tuning
from bench.contracts.data import TrainingSet
from bench.contracts.defense import Inversion
from bench.contracts.detector import Detector
from bench.contracts.goals import (
    Call,
    DrawConcept,
    DrawFromSet,
    DrawImage,
    DrawStyle,
    Goal,
    ReachClass,
    Trigger,
)
from bench.contracts.plugin import Plugin
from bench.described import ASKED, BASES, TYPES, packed
from bench.errors import UserError
from bench.names import brief
from bench.params import construct, unfit
from bench.text import one_line

LONGEST_DOC, LONGEST_TEXT, MOST_PARAMETERS, MOST_LINES = 100_000, 20_000, 200, 100
_BOUNDS = frozenset(
    "minimum exclusive_minimum maximum exclusive_maximum multiple_of min_length max_length".split()
)
#: The value of a parameter that the plugin's own class fills in.
_LEFT_OUT: Any = object()

#: Puts a question to the plugin's process. Raises :class:`UserError` where there is no answer, and
#: ``ValueError`` with what a plugin itself refuses.
Ask = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class _GoalData:
    kind: Literal["DrawImage", "DrawFromSet", "ReachClass", "DrawConcept", "DrawStyle", "Goal"]
    label: int | None = None
    prompt: str | None = None

    def goal(self) -> Goal:
        """As the contract has it, without a picture."""
        if self.kind == "ReachClass" and self.label is not None:
            return ReachClass(self.label)
        if self.kind == "DrawConcept" and self.prompt is not None:
            return DrawConcept(self.prompt)
        if self.kind == "DrawStyle" and self.prompt is not None:
            return DrawStyle(self.prompt)
        if self.label is not None or self.prompt is not None or self.kind not in _BARE:
            raise UserError(f"goal: {self.kind} must have its own fields and no others")
        pictured = _PICTURED.get(self.kind)
        return Goal() if pictured is None else pictured(_absent)


_PICTURED = {"DrawImage": DrawImage, "DrawFromSet": DrawFromSet}
_BARE = (*_PICTURED, "Goal")


@dataclass(frozen=True)
class _TriggerData:
    picture: bool
    stamp: bool
    words: str = ""


@dataclass(frozen=True)
class _InstanceData:
    """Of an instance, as :func:`bench.described.instance_data` says it."""

    params: Any
    goal: Any
    adds: Any
    uses: Any


@dataclass(frozen=True)
class _Parameter:
    name: str
    domain: Any
    filled: bool
    default: Any = _LEFT_OUT


@dataclass(frozen=True)
class _ClassData:
    """As :func:`bench.described.class_data` says it."""

    key: str
    name: str
    bases: tuple[str, ...]
    card: Any
    parameters: tuple[Any, ...]
    always_shown: tuple[str, ...]
    calls: tuple[Any, ...]
    learns: bool
    subjects: tuple[Literal["rows", "images", "noise", "prompts", "model"], ...]
    defines: tuple[Literal["uses", "faults", "sealed", "stepped"], ...]
    doc: str


def stand_in(
    data: Any, ask: Ask, source: Path, inversion: Callable[[str, Mapping[str, Any]], Plugin]
) -> type[Plugin]:
    """The class that ``data`` describes. ``source``: its file; ``inversion``: the plugin of a name
    with parameters, for those that start from another's result.

    Raises :class:`UserError` for what is no description, or one that the contract refuses.
    """
    whole = _read(_ClassData, "a plugin", data)
    bases = tuple(BASES[name] for name in whole.bases if name in BASES)
    if not bases or len(bases) < len(whole.bases) or not whole.name.isidentifier():
        raise UserError(f"a plugin must have bases among {', '.join(BASES)}, got {whole.bases}")
    parameters = [_read(_Parameter, "a parameter", one) for one in whole.parameters]
    names = [parameter.name for parameter in parameters]
    if len(set(names)) < len(names) or len(names) > MOST_PARAMETERS:
        raise UserError(f"a plugin must have at most {MOST_PARAMETERS} parameters of its own names")
    members: dict[str, Any] = {
        "__module__": "castlewalls_stand_ins",  # no module, and none of ours
        "__doc__": whole.doc,
        "__documentation__": whole.doc,
        "__source__": source,
        "__domains__": types.MappingProxyType(
            {parameter.name: _domain(parameter.domain) for parameter in parameters}
        ),
        "__post_init__": _asked_first(whole.key, ask),
        "card": _card(whole.card),
        "always_shown": whole.always_shown,
    }
    if any(issubclass(base, Attack) for base in bases):
        calls = tuple(_read(Call, "a call", call) for call in whole.calls)
        members |= {"calls": calls, "goal": _goal, "adds": _adds}
    if any(issubclass(base, TrainingAttack) for base in bases):
        members["learns"] = whole.learns
    if any(issubclass(base, Detector) for base in bases):
        members["subjects"] = whole.subjects
    members |= _asking(whole, ask, inversion)
    taken = {*members, "params", "label"}
    if bad := [name for name in names if name in taken or name.startswith("__")]:
        raise UserError(f"a parameter must not be named {bad[0]}")
    fields = [(one.name, Any, _default(one)) for one in parameters]
    try:
        made = dataclasses.make_dataclass(
            whole.name, fields, bases=bases, namespace=members, frozen=True, kw_only=True
        )
    except (TypeError, ValueError) as error:
        raise UserError(one_line(str(error))) from error
    missing = {field.name for field in dataclasses.fields(made)} - set(names)
    if missing:
        raise UserError(f"{whole.name} must say of its parameter {min(missing)} what it may be")
    return made


def _read(cls: type[Any], what: str, data: Any) -> Any:
    """A dataclass from the values of its fields."""
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise UserError(f"{what} must be fields and values, got {brief(data)}")
    for name, value in data.items():
        if isinstance(value, str):
            _short(value, LONGEST_DOC if name == "doc" else LONGEST_TEXT)
    return construct(cls, what, data)


def _short(text: str, limit: int) -> None:
    if len(text) > limit:
        raise UserError(f"a text must have at most {limit} letters, got {len(text)}")


def _card(data: Any) -> Card:
    if not isinstance(data, dict):
        raise UserError(f"a card must be fields and values, got {brief(data)}")
    values = dict(data)
    for name in ("applies_to", "alters", "needs"):
        values[name] = frozenset(_texts(values.get(name, []), f"card: {name}"))
    values["files"] = tuple(_texts(values.get("files", []), "card: files"))
    if values.get("paper") is not None:
        values["paper"] = _read(Paper, "card: paper", values["paper"])
    if values.get("tuned") is not None:
        tuned = values["tuned"] if isinstance(values["tuned"], list) else [values["tuned"]]
        values["tuned"] = tuple(_read(Tuning, "card: tuned", one) for one in tuned)
    try:
        return Card(**values)
    except (TypeError, ValueError) as error:
        raise UserError(one_line(str(error))) from error


def _texts(data: Any, what: str) -> list[str]:
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise UserError(f"{what} must be a list of texts, got {brief(data)}")
    for text in data:
        _short(text, LONGEST_TEXT)
        if wanted := unfit(text):
            raise UserError(f"{what} must be {wanted}, got {brief(text)}")
    return data


def unpacked(data: Any) -> Any:
    """A parameter's value, from what :func:`bench.described.packed` made of it. Raises
    :class:`UserError` for anything else.
    """
    if isinstance(data, list):
        return [unpacked(item) for item in data]
    if isinstance(data, dict) and len(data) == 1:
        (kind, value), *_ = data.items()
        if kind == "tuple" and isinstance(value, list):
            return tuple(unpacked(item) for item in value)
        if kind == "dict" and isinstance(value, dict):
            return {name: unpacked(item) for name, item in value.items()}
    if isinstance(data, dict):
        raise UserError(f"a parameter must be a JSON value, got {brief(data)}")
    if wanted := unfit(data):
        raise UserError(f"a parameter must be {wanted}, got {brief(data)}")
    return data


def _default(parameter: _Parameter) -> Any:
    if parameter.filled:
        return dataclasses.field(default_factory=lambda: _LEFT_OUT)
    if parameter.default is _LEFT_OUT:
        return dataclasses.field()
    value = unpacked(parameter.default)
    # As for the plugin itself: dataclasses refuse lists and the like.
    return dataclasses.field(default=value)


def _domain(data: Any) -> Domain:
    if not isinstance(data, dict) or set(data) != {"options", "notes"}:
        raise UserError(f"a parameter's values must be options and notes, got {brief(data)}")
    options = data["options"] if isinstance(data["options"], list) else []
    if not options:
        raise UserError(f"a parameter must have a type, got {brief(data)}")
    notes = tuple(_texts(data["notes"], "a parameter's notes"))
    return Domain(options=tuple(_option(one) for one in options), notes=notes)


def _option(data: Any) -> Option:
    fields = {"type", "unknown", "bounds", "choices", "items", "repeated"}
    if not isinstance(data, dict) or set(data) != fields or data["type"] not in TYPES:
        raise UserError(f"a parameter's type must be among {', '.join(TYPES)}, got {brief(data)}")
    bounds, items, choices = data["bounds"], data["items"], data["choices"]
    if not (isinstance(bounds, dict) and isinstance(items, list) and isinstance(choices, list)):
        raise UserError(f"a parameter's bounds must be names and numbers, got {brief(data)}")
    for name, value in bounds.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in _BOUNDS or not number or math.isnan(value):
            raise UserError(f"a bound must be a number, got {brief(name)}: {brief(value)}")
    (unknown,) = _texts([data["unknown"]], "a parameter's type")
    return Option(
        type=TYPES[data["type"]],
        unknown=unknown,
        choices=tuple(unpacked(choice) for choice in choices),
        items=tuple(_domain(item) for item in items),
        repeated=data["repeated"] is True,
        **bounds,
    )


# --- the methods ----------------------------------------------------------------------------------


def _absent(*args: Any, **named: Any) -> NoReturn:
    raise UserError("a third party's plugin is run in a process of its own, and not in this one")


def _asked_first(key: str, ask: Ask) -> Callable[[Any], None]:
    def __post_init__(self: Any) -> None:
        """Its own class makes one first: what it refuses, and fills in, only it knows."""
        fields = {field.name for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in fields}
        question = {
            "build": key,
            "params": {name: packed(one) for name, one in values.items() if one is not _LEFT_OUT},
        }
        data = _read(_InstanceData, "a plugin", ask(question))
        if not isinstance(data.params, dict) or set(data.params) != fields:
            raise UserError(f"a plugin's parameters must be {sorted(fields)}, got {brief(data)}")
        for name, value in data.params.items():
            object.__setattr__(self, name, unpacked(value))
        Plugin.__post_init__(self)
        object.__setattr__(self, "_answers", data)
        if isinstance(self, Attack):
            self.goal(), self.adds()

    return __post_init__


def _goal(self: Any) -> Goal | None:
    data = self._answers.goal
    return None if data is None else _read(_GoalData, "goal", data).goal()


def _adds(self: Any) -> Trigger | None:
    if self._answers.adds is None:
        return None
    data = _read(_TriggerData, "adds", self._answers.adds)
    _short(data.words, LONGEST_TEXT)
    picture, stamp = (_absent if one else None for one in (data.picture, data.stamp))
    return Trigger(picture=picture, stamp=stamp, words=data.words)


def _asking(
    whole: _ClassData, ask: Ask, inversion: Callable[[str, Mapping[str, Any]], Plugin]
) -> dict[str, Any]:
    """The methods of :data:`ASKED` that the plugin defines, as questions."""

    def uses(self: Any) -> Inversion | None:
        """As the contract's."""
        data = self._answers.uses
        if data is None:
            return None
        if isinstance(data, list) and len(data) == 2 and isinstance(data[0], str):
            params = unpacked(data[1])
            plugin = inversion(data[0], params) if isinstance(params, dict) else None
            if isinstance(plugin, Inversion):
                return plugin
        raise UserError(f"{self.card.name}: uses() must be an inversion, got {brief(data)}")

    def faults(self: Any, train_set: TrainingSet) -> list[str]:
        """As the contract's."""
        labels = None if train_set.labels is None else train_set.labels.tolist()
        outline = {"shape": list(train_set.images.shape), "labels": labels}
        question = {"faults": whole.key, "params": _params(self), "train_set": outline}
        lines = _answered(self, "faults", lambda: ask(question))
        return [one_line(line) for line in _texts(lines, "faults")[:MOST_LINES]]

    def sealed(self: Any, number: int) -> Plugin:
        """As the contract's."""
        question = {"sealed": whole.key, "params": _params(self), "number": number}
        params = _answered(self, "sealed", lambda: ask(question))
        if not isinstance(params, dict):
            raise UserError(f"{self.card.name}: sealed() must be parameters, got {brief(params)}")
        values = {name: unpacked(value) for name, value in params.items()}
        made: Plugin = construct(type(self), self.card.name, values)
        return made

    methods = {"uses": uses, "faults": faults, "sealed": sealed, "stepped": _absent}
    return {name: methods[name] for name in ASKED if name in whole.defines}


def _answered(plugin: Plugin, method: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ValueError as error:
        raise UserError(f"{plugin.card.name}: {method}() fails: {error}") from error


def _params(plugin: Plugin) -> dict[str, Any]:
    return {name: packed(value) for name, value in plugin.params().items()}
