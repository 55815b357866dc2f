"""Building a frozen dataclass (a plugin, a testbed) from a person's parameters, with one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from bench.errors import UserError
from bench.names import unknown_name

T = TypeVar("T")


def construct(cls: type[T], what: str, params: Mapping[str, Any], where: str = "") -> T:
    """``cls(**params)``. ``what``: e.g. ``attack baddiffusion``, for messages; ``where``: the file the parameters stand in.

    Raises :class:`UserError` for an unknown parameter (naming the nearest), a wrong type, or whatever ``cls`` itself refuses.
    """
    prefix = f"{where}: " if where else ""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    values = {}
    for name, value in params.items():
        if name not in fields:
            raise unknown_name(f"parameter of {what}:", name, fields, where)
        fits, values[name] = coerce(value, hints[name])
        if not fits:
            raise UserError(f"{prefix}{what}: {name} must be {describe(hints[name])}, got {value!r}")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise UserError(f"{prefix}{what}: {missing[0]} must be given")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{prefix}{' '.join(str(error).split())}") from error


def coerce(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether ``value`` fits the annotation, and the value to use.

    An integer becomes a float where a float is wanted, so that ``1`` and ``1.0`` are one parameter; so does a string such as
    ``1e-3``, which YAML does not read as a number; a list becomes a tuple. Annotations not known here are left to the class.
    """
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in get_args(hint):
            fits, coerced = coerce(value, option)
            if fits:
                return True, coerced
        return False, value
    if origin is Literal:
        return value in get_args(hint), value
    if origin is tuple:
        return _coerce_tuple(value, get_args(hint))
    if hint is float:
        return _coerce_float(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint in (bool, str, type(None)):
        return isinstance(value, hint), value
    return True, value


def _coerce_float(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False, value
    try:
        return True, float(value)
    except ValueError:
        return False, value


def _coerce_tuple(value: Any, items: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, (list, tuple)):
        return False, value
    hints = [items[0]] * len(value) if len(items) == 2 and items[1] is Ellipsis else list(items)
    if len(hints) != len(value):
        return False, value
    coerced = [coerce(item, hint) for item, hint in zip(value, hints, strict=True)]
    return all(fits for fits, _ in coerced), tuple(item for _, item in coerced)


def describe(hint: Any) -> str:
    """An annotation in words: ``a number or null``."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(hint, str(hint) if origin else getattr(hint, "__name__", str(hint)))
