"""Builds a frozen dataclass (a plugin, a testbed) from a user's parameters, with a one-line error
for every mistake.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from bench.constraints import KNOWN, Domain, domains
from bench.errors import UserError
from bench.names import brief, shortened, unknown_name

T = TypeVar("T")


def construct(cls: type[T], what: str, params: Mapping[str, Any], where: str = "") -> T:
    """``cls(**params)``. ``what``: e.g. ``attack baddiffusion``, for messages; ``where``: the file
    with the parameters.

    Raises :class:`UserError` for an unknown parameter (naming the nearest), a wrong type, or a
    value that ``cls`` itself refuses.
    """
    prefix = f"{where}: " if where else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    try:
        allowed = domains(cls)
    except TypeError as error:
        raise UserError(f"{prefix}{what}: {shortened(str(error))}") from error
    values = coerced(allowed, what, params, where)
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


def coerced(
    allowed: Mapping[str, Domain], what: str, params: Mapping[str, Any], where: str = ""
) -> dict[str, Any]:
    """``params`` converted to the types of their annotations. Raises :class:`UserError` for a name
    that is not in ``allowed`` (naming the nearest), or a value that does not fit.
    """
    prefix = f"{where}: " if where else ""
    values = {}
    for name, value in params.items():
        if name not in allowed:
            raise unknown_name(f"parameter of {what}:", name, allowed, where)
        fits, values[name] = allowed[name].coerced(value)
        if not fits and not allowed[name].known:
            raise UserError(
                f"{prefix}{what}: {name} cannot be given: its annotation must be {KNOWN}, got "
                f"{allowed[name].type}"
            )
        wanted = unfit(values[name]) if fits else allowed[name].words
        if wanted:
            quotes = in_quotes(value) if "text" in wanted else ""
            raise UserError(f"{prefix}{what}: {name} must be {wanted}, got {brief(value)}{quotes}")
    return values


def unfit(value: Any) -> str:
    """What ``value`` must be, if it has the right type but is unusable; empty if it is usable.
    Numbers must survive JSON and the columns of a table, text must survive file names and HTML.
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
    """A hint for a message about text that YAML has parsed as something else: a number, a date,
    ``no``.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    mistaken = any(isinstance(item, (bool, int, float, datetime.date)) for item in values)
    return "; text that looks like a number, a date or yes and no needs quotes" if mistaken else ""
