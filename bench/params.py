"""Building a frozen dataclass (a plugin, a testbed) from a person's parameters, with one clear line
for every mistake.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from bench.errors import UserError
from bench.names import shortened, shown, unknown_name

T = TypeVar("T")


def construct(cls: type[T], what: str, params: Mapping[str, Any], where: str = "") -> T:
    """``cls(**params)``. ``what``: e.g. ``attack baddiffusion``, for messages; ``where``: the file
    the parameters stand in.

    Raises :class:`UserError` for an unknown parameter (naming the nearest), a wrong type, or
    whatever ``cls`` itself refuses.
    """
    prefix = f"{where}: " if where else ""
    kind: Any = cls
    hints = _type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    values = {}
    for name, value in params.items():
        if name not in fields:
            raise unknown_name(f"parameter of {what}:", name, fields, where)
        fits, values[name] = coerce(value, hints[name])
        wanted = unfit(values[name]) if fits else describe(hints[name])
        if wanted:
            quotes = in_quotes(value) if "text" in wanted else ""
            raise UserError(f"{prefix}{what}: {name} must be {wanted}, got {shown(value)}{quotes}")
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and name not in values
    ]
    if missing:
        raise UserError(f"{prefix}{what}: {missing[0]} must be given")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{prefix}{shortened(str(error))}") from error


@cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def unfit(value: Any) -> str:
    """What ``value`` must be, where it is of the right type and still cannot be worked with; empty
    if it can. Numbers must survive JSON and a table's columns; text, a file's name and a page.
    """
    if isinstance(value, (list, tuple)):
        return next((wanted for wanted in map(unfit, value) if wanted), "")
    if isinstance(value, dict):
        return unfit([*value.keys(), *value.values()])
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number of at most 18 digits"
    if isinstance(value, str) and (
        "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
    ):
        return "text of valid Unicode without NUL characters"
    return ""


def in_quotes(value: Any) -> str:
    """The end of a message about text, where YAML has made something else of it: a number, a date,
    ``no``.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    mistaken = any(isinstance(item, (bool, int, float, datetime.date)) for item in values)
    return "; text that looks like a number, a date or yes and no needs quotes" if mistaken else ""


def coerce(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether ``value`` fits the annotation, and the value to use.

    An integer becomes a float where a float is wanted, so that ``1`` and ``1.0`` are one parameter;
    so does a string such as ``1e-3``, which YAML does not read as a number; a list becomes a tuple.
    Annotations not known here are left to the class.
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
    except (ValueError, OverflowError):
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
    if origin is tuple and len(args := get_args(hint)) == 2 and args[1] is Ellipsis:
        return f"a list of {describe(args[0])}"
    words = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return words.get(hint, str(hint) if origin else getattr(hint, "__name__", str(hint)))
