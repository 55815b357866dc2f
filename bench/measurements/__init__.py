"""The measurements: every file here that has a ``MEASUREMENT``, and those of installed packages.

A package offers more through entry points of the group ``castlewalls.measurements``, each naming a
:class:`~bench.measurements.measurement.Measurement`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from functools import cache
from types import MappingProxyType

from bench.errors import UserError
from bench.measurements.measurement import Measurement
from bench.names import unknown_name
from bench.words import MetricWords

GROUP = "castlewalls.measurements"


@cache
def table() -> MappingProxyType[str, Measurement]:
    """Every measurement by name, ours first. Raises :class:`UserError` for a name that two have, an
    entry point that is none, or a package's that declares a metric of another's family: numbers are
    ranked by their family.
    """
    by_name: dict[str, Measurement] = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules(__path__)):
        ours = getattr(importlib.import_module(f"{__name__}.{module}"), "MEASUREMENT", None)
        if ours is not None:
            by_name[ours.name] = ours
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        theirs = entry.load()
        if not isinstance(theirs, Measurement):
            raise UserError(
                f"entry point {entry.name} of {GROUP} must be a Measurement, got "
                f"{type(theirs).__name__}"
            )
        if theirs.name in by_name:
            raise UserError(
                f"entry point {entry.name} of {GROUP}: there is a measurement {theirs.name!r} "
                f"already"
            )
        families = {one.family: each.name for each in by_name.values() for one in each.metrics}
        taken = sorted(one.family for one in theirs.metrics if one.family in families)
        if taken or theirs.borrows:
            name = (taken or sorted(theirs.borrows))[0]
            raise UserError(
                f"entry point {entry.name} of {GROUP}: the metric {name!r} is "
                f"{families.get(name, 'another measurement')}'s; give yours a name of its own"
            )
        by_name[theirs.name] = theirs
    return MappingProxyType(by_name)


def declared() -> tuple[MetricWords, ...]:
    """Every metric that some measurement declares."""
    return tuple(words for one in table().values() for words in one.metrics)


def named(name: str) -> Measurement:
    """The measurement of that name. Raises :class:`UserError` suggesting the nearest."""
    if name not in table():
        raise unknown_name("measurement", name, table())
    return table()[name]
