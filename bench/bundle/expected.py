"""What a bundle of a suite must hold, from the suite alone: its plan without the submitted plugin,
which is never imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.bundle.bag import sha256
from bench.cells import Cell
from bench.composed import Composed, name_of, parts_of
from bench.contracts.plugin import Plugin
from bench.planner import make_plan, spec
from bench.registry import Registry, source_of
from bench.stages.table import STAGES
from bench.suite import load_suite

#: The settings of a column: its name, and its parameters as JSON.
Setting = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """``suite``: its name; ``controls``: every row without a defense, and the anchors, by identity;
    ``protocols``: of its testbeds; ``listed``: the settings of the columns that the suite names,
    each with the testbeds that it is met on, none for all of them; ``ours``: what comes with
    castlewalls, by name: the SHA-256 of its source files.
    """

    suite: str
    controls: dict[str, Cell]
    protocols: frozenset[str]
    listed: Mapping[Setting, frozenset[str]]
    ours: dict[str, frozenset[str]]

    def column(self, settings: Iterable[Setting]) -> dict[str, Cell]:
        """Every cell that a column of these settings must have, by identity, each with its row's
        control.
        """
        cells: dict[str, Cell] = {}
        for name, params in settings:
            met = self.listed.get((name, params), frozenset())
            for row in self.controls.values():
                if row.kind != "anchor" and row.testbed.name in (met or {row.testbed.name}):
                    parts = json.loads(row.id)
                    parts[3] = [name, json.loads(params)]
                    cells[json.dumps(parts, sort_keys=True)] = row
        return cells


def expected(suite: str) -> Expected:
    """Of a shipped suite, or of a file of one. Raises :class:`~bench.errors.UserError` for another
    name, and for a suite that names what does not come with castlewalls.
    """
    registry = Registry(only=())
    whole = load_suite(suite, registry)
    plan = make_plan(whole.only(registry, defenses=[], detectors=[]), registry, STAGES)
    controls = {cell.id: cell for cell in plan.cells if isinstance(cell, Cell)}
    columns = [one for one in (*whole.defenses, *whole.detectors) if name_of(one) != "none"]
    plugins = {name_of(one): parts_of(one) for one in columns}
    for name in registry.names("defenses"):
        plugins.setdefault(name, (registry.defense(name),))
    for name in registry.names("detectors"):
        plugins.setdefault(name, (registry.detector(name),))
    return Expected(
        suite=plan.suite,
        controls=controls,
        protocols=frozenset(cell.protocol for cell in controls.values()),
        listed={_setting(one): whole.assigned.get(one.label(), frozenset()) for one in columns},
        ours={name: _hashes(parts) for name, parts in plugins.items() if name != "none"},
    )


def _setting(column: Plugin | Composed) -> Setting:
    named = spec(column)
    return named.name, json.dumps(named.params, sort_keys=True)


def _hashes(parts: Iterable[Plugin]) -> frozenset[str]:
    return frozenset(sha256(source_of(part).read_bytes()) for part in parts)
