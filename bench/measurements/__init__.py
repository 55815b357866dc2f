"""The measurements: every file here that has a ``MEASUREMENT``, and those of installed packages,
where the user trusts them.

A package offers more through entry points of the group ``castlewalls.measurements``, each naming a
:class:`~bench.measurements.measurement.Measurement`. It runs where numbers are made, so a plugin's
package could make its own with it: nothing of it is imported unless the environment variable
:data:`TRUSTED` has the entry point's name.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from bench.errors import UserError
from bench.measurements.measurement import Measurement
from bench.names import unknown_name
from bench.words import MetricWords

GROUP = "castlewalls.measurements"
#: Names of entry points, with commas between them.
TRUSTED = "CASTLEWALLS_MEASUREMENTS"


@cache
def table() -> MappingProxyType[str, Measurement]:
    """Every measurement by name, ours first. Raises :class:`UserError` for a name that two have, an
    entry point that is none, a trusted name that nobody offers, or a package's that declares a
    metric of another's family: numbers are ranked by their family.
    """
    by_name: dict[str, Measurement] = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules(__path__)):
        ours = getattr(importlib.import_module(f"{__name__}.{module}"), "MEASUREMENT", None)
        if ours is not None:
            by_name[ours.name] = ours
    for entry in _offered()[0]:
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


def _offered() -> tuple[list[EntryPoint], list[str]]:
    """What the user trusts of installed packages, and the names of the others."""
    names = {name for text in os.environ.get(TRUSTED, "").split(",") if (name := text.strip())}
    offers = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if missing := sorted(names - {entry.name for entry in offers}):
        raise UserError(f"{TRUSTED} names {missing[0]!r}, which no installed package offers")
    others = sorted({entry.name for entry in offers} - names)
    return [entry for entry in offers if entry.name in names], others


def untrusted() -> list[str]:
    """The entry points that installed packages offer and the user has not named, imported by
    nobody.
    """
    return _offered()[1]


def declared() -> tuple[MetricWords, ...]:
    """Every metric that some measurement declares."""
    return tuple(words for one in table().values() for words in one.metrics)


def named(name: str) -> Measurement:
    """The measurement of that name. Raises :class:`UserError` suggesting the nearest."""
    if name not in table():
        raise unknown_name("measurement", name, table())
    return table()[name]
