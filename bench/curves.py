"""How a record's series are written in results: the shortest of four forms that gives every number
back exactly, to the last bit.

``[0.5, 1.25]``: the numbers. ``{"runs": [3, 2, 1]}``: that many 0, 1, 0 and so on by turns.
``{"of": 512, "counts": [0, 5]}``: each count over ``of``. ``{"first": 0.5, "last": 2.5,
"values": 31}``: equally spaced, as ``numpy.linspace`` rounds them.
"""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

Form = list[float] | dict[str, Any]
#: The largest ``of``; the largest count, beyond which a float holds no whole number exactly.
MAX_OF, MAX_COUNT = 2**16, 2**53


def shortest(values: list[float]) -> Form:
    """``values`` in the form with the fewest characters. Whole numbers lose their ``.0``."""
    values = [_number(value) for value in values]
    forms: list[Form] = [values]
    for form in (_runs(values), _counts(values), _even(values)):
        if form and repr(numbers(form)) == repr(values):  # 0, 0.0 and -0.0 are equal, and differ
            forms.append(form)
    return min(forms, key=lambda form: len(json.dumps(form, separators=(",", ":"))))


def length(form: Any) -> int:
    """How many numbers a form stands for, before any of them is made. Raises ``ValueError``,
    without the series' name, for what is none of the forms.
    """
    if isinstance(form, list):
        return len(form)
    names = set(form) if isinstance(form, dict) else set()
    if names == {"runs"} and _whole(form["runs"], 0):
        return sum(form["runs"])
    if names == {"of", "counts"} and _whole([form["of"]], 1) and _whole(form["counts"], -MAX_COUNT):
        return len(form["counts"])
    if names == {"first", "last", "values"} and _whole([form["values"]], 2):
        ends = form["first"], form["last"]
        if all(type(end) in (int, float) and abs(end) <= MAX_COUNT for end in ends):
            return int(form["values"])
    raise ValueError(
        "must be a list of numbers, or have runs, of and counts, or first, last and values"
    )


def numbers(form: Any) -> list[float]:
    """The numbers of a form that :func:`length` accepted."""
    if isinstance(form, list):
        return form
    if "runs" in form:
        return [turn % 2 for turn, run in enumerate(form["runs"]) for _ in range(run)]
    if "counts" in form:
        return [_number(count / form["of"]) for count in form["counts"]]
    first, last, steps = float(form["first"]), float(form["last"]), form["values"] - 1
    step = (last - first) / steps
    return [_number(first + index * step) for index in range(steps)] + [_number(last)]


def _whole(values: Any, lowest: int) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and lowest <= value <= MAX_COUNT for value in values
    )


def _number(value: float) -> float:
    whole = isinstance(value, float) and value.is_integer() and 0 < abs(value) < MAX_COUNT
    return int(value) if whole or (value == 0 and str(value) != "-0.0") else value


def _runs(values: list[float]) -> dict[str, Any] | None:
    if not set(values) <= {0, 1}:
        return None
    runs = [(value, len(list(same))) for value, same in itertools.groupby(values)]
    return {"runs": [*([0] if runs[:1] and runs[0][0] else []), *(run for _, run in runs)]}


def _counts(values: list[float]) -> dict[str, Any] | None:
    of = 1
    for value in values:
        of = math.lcm(of, _denominator(value))
        if not 0 < of <= MAX_OF or abs(value) > MAX_COUNT / MAX_OF:
            return None
    return {"of": of, "counts": [round(value * of) for value in values]} if of > 1 else None


@lru_cache(maxsize=4096)
def _denominator(value: float) -> int:
    """Of the fraction that this number is the float of; 0 if it is none with a small one."""
    fraction = Fraction(value).limit_denominator(MAX_OF)
    return fraction.denominator if float(fraction) == value else 0


def _even(values: list[float]) -> dict[str, Any] | None:
    if len(values) < 3 or max(map(abs, values)) > MAX_COUNT:
        return None
    return {"first": values[0], "last": values[-1], "values": len(values)}
