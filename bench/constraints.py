"""What a parameter may be, as data: read once from the annotation of its field.

    poison_rate: Annotated[float, Interval(gt=0, le=1), Note("for none use the attack 'none'")]

A parameter's type is ``float``, ``int``, ``bool``, ``str``, ``Literal``, a tuple of them, or one of
them ``| None``; ``Any`` accepts anything. Its constraints are those of annotated_types that are
data: ``Gt``, ``Ge``, ``Lt``, ``Le`` and ``Interval`` of a number, ``MultipleOf`` of a whole one,
``MinLen``, ``MaxLen`` and ``Len`` of text and tuples; and :class:`OneOf`, for names that are known
only at run time. A number is finite. Refusals, ``castlewalls show`` and the draws of the contract
tests read the same :class:`Domain`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import (
    BaseMetadata,
    Ge,
    GroupedMetadata,
    Gt,
    Le,
    Lt,
    MaxLen,
    MinLen,
    MultipleOf,
)

#: The supported annotations, for messages.
KNOWN = "float, int, bool, str, Literal, tuples of them, Any, or one of them and None"
_NOUNS: dict[Any, str] = {
    float: "number",
    int: "whole number",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
    Any: "anything",
}
_OF_NUMBERS: dict[type, tuple[str, str]] = {
    Gt: ("gt", "exclusive_minimum"),
    Ge: ("ge", "minimum"),
    Lt: ("lt", "exclusive_maximum"),
    Le: ("le", "maximum"),
}
_OF_WHOLE_NUMBERS = _OF_NUMBERS | {MultipleOf: ("multiple_of", "multiple_of")}
_OF_LENGTHS: dict[type, tuple[str, str]] = {
    MinLen: ("min_length", "min_length"),
    MaxLen: ("max_length", "max_length"),
}
_BOUNDS = _OF_WHOLE_NUMBERS | _OF_LENGTHS


@dataclass(frozen=True)
class OneOf:
    """One of these texts. Where they can be written down, ``Literal`` is shorter."""

    choices: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """A few words appended to the constraint: a unit, or what to do instead."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """Values of one type within bounds, named as in JSON Schema; ``None`` is no bound.

    ``type``: ``None`` for an annotation that is not known, which then stands in ``unknown``.
    ``choices``: all there are, if not empty. ``items``: of a tuple; ``repeated``: the one of
    ``items`` holds for each of any number.
    """

    type: Any
    unknown: str = ""
    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    exclusive_maximum: float | None = None
    multiple_of: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    choices: tuple[Any, ...] = ()
    items: tuple[Domain, ...] = ()
    repeated: bool = False

    @property
    def bounds(self) -> dict[str, float]:
        """Those that are given, by name."""
        names = [name for _, name in _BOUNDS.values()]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def constrained(self) -> bool:
        """Whether the type alone does not say all."""
        return bool(self.bounds or self.choices or any(item.constrained for item in self.items))

    def coerced(self, value: Any) -> tuple[bool, Any]:
        """Whether ``value`` has the type, or is one of the choices, and the value to use."""
        if self.choices:
            equal = (value == choice and type(value) is type(choice) for choice in self.choices)
            return any(equal), value
        if self.type is float:
            return _as_float(value)
        if self.type is int:
            return isinstance(value, int) and not isinstance(value, bool), value
        if self.type is tuple:
            return self._as_tuple(value)
        return self.type is Any or (self.type is not None and isinstance(value, self.type)), value

    def _as_tuple(self, value: Any) -> tuple[bool, Any]:
        if not isinstance(value, (list, tuple)):
            return False, value
        domains = self.items * len(value) if self.repeated else self.items
        if len(domains) != len(value):
            return False, value
        items = [domain.coerced(item) for domain, item in zip(domains, value, strict=True)]
        return all(fits for fits, _ in items), tuple(item for _, item in items)

    def within(self, value: Any) -> bool:
        """Whether a value of the type lies within the bounds, and its items within theirs."""
        size = len(value) if self.type in (str, tuple) else value
        return (
            (self.minimum is None or size >= self.minimum)
            and (self.exclusive_minimum is None or size > self.exclusive_minimum)
            and (self.maximum is None or size <= self.maximum)
            and (self.exclusive_maximum is None or size < self.exclusive_maximum)
            and (self.multiple_of is None or size % self.multiple_of == 0)
            and (self.min_length is None or size >= self.min_length)
            and (self.max_length is None or size <= self.max_length)
            and (self.type is not tuple or self._items_within(value))
        )

    def _items_within(self, value: Any) -> bool:
        domains = self.items * len(value) if self.repeated else self.items
        return not any(map(Domain.refusal, domains, value))

    @property
    def limits(self) -> str:
        """The bounds in words: ``in (0, 1]``, ``at least 2``, ``positive``; empty without."""
        texts = [_interval(self)] if _interval(self) else []
        if self.multiple_of is not None:
            texts.append(f"a multiple of {self.multiple_of}")
        if self.min_length is not None or self.max_length is not None:
            lowest, highest = self.min_length or 0, self.max_length
            upper = "or more" if highest is None else f"to {highest}"
            texts.append(f"of {lowest} {upper} {'letters' if self.type is str else 'items'}")
        return ", ".join(texts)

    @property
    def short(self) -> str:
        """:attr:`words` for somebody who knows the type."""
        return self.words if self.type is tuple else self.limits or self.words

    @property
    def words(self) -> str:
        """Type and bounds: ``a whole number of at least 2``."""
        if self.choices:
            choices = ", ".join(map(repr, self.choices))
            return f"one of {choices}" if len(self.choices) > 1 else choices
        noun, limits = _NOUNS.get(self.type, ""), self.limits
        if self.type is tuple:
            noun = _list_in_words(self)
        elif self.type in (float, int):
            noun = f"a positive {noun}" if limits.startswith("positive") else f"a {noun}"
            limits = limits.removeprefix("positive")
        between = ", " if self.type is tuple or limits.startswith("a ") else " "
        between = " of " if limits.startswith("at ") else "" if limits[:1] == "," else between
        return f"{noun}{between}{limits}" if limits else noun

    def description(self) -> dict[str, Any]:
        """The bounds as JSON values; empty without."""
        bounds: dict[str, Any] = dict(self.bounds)
        if self.choices:
            bounds["choices"] = list(self.choices)
        if any(item.constrained for item in self.items):
            items = [item.description() for item in self.items]
            bounds["items"] = items[0] if self.repeated else items
        return bounds


@dataclass(frozen=True, kw_only=True)
class Domain:
    """All values that one parameter may have: those of any of ``options``. ``notes``: the texts of
    its :class:`Note`.
    """

    options: tuple[Option, ...]
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether everything in the annotation could be read."""
        return all(
            option.type is not None and all(item.known for item in option.items)
            for option in self.options
        )

    @property
    def constrained(self) -> bool:
        """Whether the types alone do not say all."""
        return any(option.constrained for option in self.options)

    def coerced(self, value: Any) -> tuple[bool, Any]:
        """Whether ``value`` has a type of the annotation, and the value to use.

        An integer becomes a float where a float is wanted, so that ``1`` and ``1.0`` are one
        parameter; so does a string such as ``1e-3``, which YAML does not read as a number; a list
        becomes a tuple.
        """
        for option in self.options:
            fits, converted = option.coerced(value)
            if fits:
                return True, converted
        return False, value

    def refusal(self, value: Any) -> str:
        """What ``value`` must be, in words; empty if it may stand."""
        near = [
            option
            for option in self.options
            if option.coerced(value)[0] and not (option.type is float and isinstance(value, str))
        ]
        numeric = any(option.type is float for option in self.options)
        if numeric and isinstance(value, float) and not math.isfinite(value):
            return "a finite number"
        # What an annotation that is not known allows is the class's own affair.
        if any(option.within(value) for option in near) or not (near or self.known):
            return ""
        texts = [option.short if near else option.words for option in self.options]
        return ", or ".join(texts) + self._remarks

    @property
    def words(self) -> str:
        """What a value must be: ``a positive number, or null``."""
        return ", or ".join(option.words for option in self.options) + self._remarks

    @property
    def constraint(self) -> str:
        """:attr:`words` without what the type says already; empty if that is all."""
        texts = [option.short for option in self.options if option.constrained]
        return (", or ".join(texts) + self._remarks).strip()

    @property
    def _remarks(self) -> str:
        return f" ({'; '.join(self.notes)})" if self.notes else ""

    @property
    def type(self) -> str:
        """The annotation without constraints, as Python writes it: ``int | None``."""
        return " | ".join(dict.fromkeys(map(_in_python, self.options)))

    def description(self) -> dict[str, Any]:
        """As JSON values: the bounds and ``choices`` of its one type, or ``any_of`` several;
        ``nullable`` if true; ``note`` if there is one. Empty if the type says all.
        """
        own = [option for option in self.options if option.type is not types.NoneType]
        description = own[0].description() if len(own) == 1 else {}
        if len(own) > 1 and self.constrained:
            description = {"any_of": [option.description() for option in own]}
        if len(own) < len(self.options):
            description["nullable"] = True
        return description | ({"note": "; ".join(self.notes)} if self.notes else {})


def domain(annotation: Any) -> Domain:
    """What an annotation allows. Raises ``TypeError`` for a constraint that is none of those
    known here, or none of its type's.
    """
    notes: list[str] = []
    options = tuple(_options(annotation, (), notes))
    return Domain(options=options, notes=tuple(dict.fromkeys(notes)))


def domains(cls: type[Any]) -> Mapping[str, Domain]:
    """Of every parameter of a dataclass, by name. Raises ``TypeError`` naming the one whose
    annotation cannot be read.
    """
    read: Any = _domains  # mypy takes no class for hashable
    domains_by_name: Mapping[str, Domain] = read(cls)
    return domains_by_name


@cache
def _domains(cls: Any) -> Mapping[str, Domain]:
    if "__domains__" in vars(cls):  # read elsewhere (:mod:`bench.stand_in`)
        stated: Mapping[str, Domain] = vars(cls)["__domains__"]
        return stated
    fields = [field.name for field in dataclasses.fields(cls) if field.init]
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = {name: text for name, text in inspect.get_annotations(base).items() if name in fields}
        for name, text in own.items():
            annotations[name] = _evaluated(base, name, text)
    domains_by_name = {}
    for name in fields:
        try:
            domains_by_name[name] = domain(annotations[name])
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {name}: {error}") from error
    return types.MappingProxyType(domains_by_name)


def refusals_of(instance: Any, *, strict: bool = False) -> Iterator[tuple[str, str]]:
    """The fields of a dataclass that are not what their constraints say, and what they must be.

    A field without constraints need only be finite if it is a number: its type is the class's
    own affair, unless ``strict``.
    """
    for name, allowed in domains(type(instance)).items():
        value = getattr(instance, name)
        unusual = isinstance(value, float) and not math.isfinite(value)
        wanted = allowed.refusal(value) if strict or allowed.constrained or unusual else ""
        if wanted:
            yield name, wanted


def outside(allowed: Domain) -> list[Any]:
    """A few values just outside the constraints; none for a type without."""
    near: list[Any] = []
    for option in allowed.options:
        near += [value for name, value in option.bounds.items() if name.startswith("exclusive")]
        near += [] if option.minimum is None else [option.minimum - 1]
        near += [] if option.maximum is None else [option.maximum + 1]
        near += [] if option.multiple_of is None else [option.multiple_of + 1]
        near += ["", "no such choice"] if option.choices else []
    return [value for value in near if allowed.refusal(value)]


def _evaluated(base: type, name: str, annotation: Any) -> Any:
    """A field's annotation as an object; in most files it is text."""
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    # As for classes everywhere: a module's name comes before one of the class.
    names = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
    try:
        return typing.get_type_hints(holder, dict(vars(base)), names, include_extras=True)[name]
    except Exception as error:
        raise TypeError(
            f"{base.__name__}: {name} must have an annotation that can be evaluated, got "
            f"{annotation!r}: {error}"
        ) from error


def _options(hint: Any, metadata: tuple[Any, ...], notes: list[str]) -> list[Option]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _options(args[0], (*args[1:], *metadata), notes)
    if origin in (typing.Union, types.UnionType):
        return [option for each in args for option in _options(each, metadata, notes)]
    if hint in (None, types.NoneType):
        return [Option(type=types.NoneType)]
    bounds = _bounds(metadata, notes)
    if origin is Literal:
        result = Option(type=Literal, choices=args, **_checked(bounds, hint, {}))
    elif origin is tuple:
        repeated = len(args) == 2 and args[1] is Ellipsis
        items = tuple(domain(item) for item in (args[:1] if repeated else args))
        lengths = _checked(bounds, hint, _OF_LENGTHS)
        result = Option(type=tuple, items=items, repeated=repeated, **lengths)
    elif hint in (float, int):
        of_numbers = _OF_NUMBERS if hint is float else _OF_WHOLE_NUMBERS
        result = Option(type=hint, **_checked(bounds, hint, of_numbers))
    elif hint is str:
        result = Option(type=str, **_checked(bounds, hint, _OF_LENGTHS | {OneOf: ("", "choices")}))
    else:
        known = bool if hint is bool else Any if hint in (Any, object) else None
        unknown = "" if known else _name(hint)
        result = Option(type=known, unknown=unknown, **_checked(bounds, hint, {}))
    return [result]


def _bounds(metadata: Iterable[Any], notes: list[str]) -> dict[str, Any]:
    """What ``metadata`` bounds, by the name of the bound. What is no constraint of anybody's is
    for others to read.
    """
    bounds: dict[str, Any] = {}
    for item in _flat(metadata):
        if isinstance(item, Note):
            notes.append(item.text)
        elif isinstance(item, OneOf):
            bounds |= _once(bounds, "choices", item.choices)
        elif type(item) in _BOUNDS:
            attribute, name = _BOUNDS[type(item)]
            bounds |= _once(bounds, name, getattr(item, attribute))
        elif isinstance(item, BaseMetadata):
            known = ", ".join(each.__name__ for each in _BOUNDS)
            raise TypeError(f"a constraint must be one of {known}, OneOf, got {item!r}")
    for end in ("minimum", "maximum"):
        if {end, f"exclusive_{end}"} <= set(bounds):
            raise TypeError(f"there must be one {end}, got two")
    return bounds


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, GroupedMetadata):
            yield from _flat(item)
        else:
            yield item


def _once(bounds: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    if name in bounds:
        raise TypeError(f"{name} must be given once, got {bounds[name]!r} and {value!r}")
    # The lower end of every length.
    return {} if (name, value) == ("min_length", 0) else {name: value}


def _checked(
    bounds: dict[str, Any], hint: Any, of: Mapping[Any, tuple[str, str]]
) -> dict[str, Any]:
    names = {name for _, name in of.values()}
    for name in bounds:
        if name not in names:
            raise TypeError(f"{name} must be of a type that can have it, got {_name(hint)}")
    return bounds


def _name(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "")


def _in_python(option: Option) -> str:
    if option.type is None:
        return option.unknown
    if option.choices:
        return " | ".join(dict.fromkeys(type(choice).__name__ for choice in option.choices))
    if option.type is tuple:
        items = [item.type for item in option.items] + ["..."] * option.repeated
        return f"tuple[{', '.join(items) or '()'}]"
    return "None" if option.type is types.NoneType else _name(option.type)


def _list_in_words(option: Option) -> str:
    if option.repeated:
        return f"a list of {option.items[0].words}"
    return f"a list [{', '.join(item.words for item in option.items)}]"


def _interval(option: Option) -> str:
    """``in (0, 1]``, ``from 1 to 9``, ``at least 2``, ``below 1``, ``positive``."""
    low = option.minimum if option.exclusive_minimum is None else option.exclusive_minimum
    high = option.maximum if option.exclusive_maximum is None else option.exclusive_maximum
    open_low, open_high = option.exclusive_minimum is not None, option.exclusive_maximum is not None
    if low is not None and high is not None and not (open_low or open_high):
        return f"from {low:,} to {high:,}"
    if low is not None and high is not None:
        return f"in {'(' if open_low else '['}{low!r}, {high!r}{')' if open_high else ']'}"
    if low is not None:
        return ("positive" if low == 0 else f"above {low!r}") if open_low else f"at least {low!r}"
    if high is not None:
        return f"below {high!r}" if open_high else f"at most {high!r}"
    return ""


def _as_float(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False, value
    try:
        return True, float(value)
    except (ValueError, OverflowError):
        return False, value
