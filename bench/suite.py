"""A suite: the YAML file a person runs, read into frozen, validated values.

Every plugin and testbed in it is built on reading, so a suite that loads can be planned: a misspelt field, an unknown name or a
refused value is one line with the file's name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from bench import testbeds
from bench.errors import UserError
from bench.names import unknown_name
from bench.plugin import Attack, Defense, Detector, Plugin
from bench.registry import Kind, Registry
from bench.testbeds.base import Testbed

FIELDS = ("name", "description", "testbeds", "attacks", "defenses", "detectors", "seeds", "timeout_seconds", "retries")
ENTRY_FIELDS = ("name", "params", "grid")

P = TypeVar("P", bound=Plugin)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """``attacks``, ``defenses`` and ``detectors`` as written, grids expanded; the planner adds the controls.

    ``timeout_seconds``: for each stage, ``None`` for no limit; ``retries``: how often a failed stage is tried again in one run.
    """

    name: str
    description: str = ""
    testbeds: tuple[Testbed, ...]
    attacks: tuple[Attack, ...] = ()
    defenses: tuple[Defense, ...] = ()
    detectors: tuple[Detector, ...] = ()
    seeds: tuple[int, ...] = (0,)
    timeout_seconds: float | None = None
    retries: int | None = None
    filtered: bool = False

    def only(
        self,
        registry: Registry,
        attacks: Sequence[str] | None = None,
        defenses: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        detectors: Sequence[str] | None = None,
    ) -> Suite:
        """This suite with the entries chosen by name. Controls stay. A plugin that the suite does not hold but ``registry`` does, as a
        new one from ``--plugin FILE``, joins with its default parameters. Raises :class:`UserError` for a name neither knows."""
        return replace(
            self,
            attacks=_choose(self.attacks, attacks, registry.attack),
            defenses=_choose(self.defenses, defenses, registry.defense),
            detectors=_choose(self.detectors, detectors, registry.detector),
            seeds=self.seeds if seeds is None else _seeds(list(seeds), "--seeds"),
            filtered=self.filtered or not (attacks is None and defenses is None and seeds is None and detectors is None),
        )


def suite_folders() -> list[Path]:
    """Where the shipped suites are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "suites", package.parent / "suites") if folder.is_dir()][:1]


def shipped_suites() -> dict[str, Path]:
    """Name -> file of every suite that comes with castlewalls."""
    return {path.stem: path for folder in suite_folders() for path in sorted(folder.glob("*.yaml"))}


def find_suite(name_or_path: str) -> Path:
    """A shipped suite by name, or a file. Raises :class:`UserError` suggesting the nearest shipped name."""
    shipped = shipped_suites()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"suite {name_or_path}: there is no such file")
    raise unknown_name("suite", name_or_path, shipped)


def load_suite(name_or_path: str, registry: Registry) -> Suite:
    """Reads and validates. Raises :class:`UserError`, one line, in front the file's name."""
    path = find_suite(name_or_path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(f"{path.name}:{line} not valid YAML: {problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read: {error}") from error
    return parse_suite(data, registry, path.name)


def parse_suite(data: Any, registry: Registry, where: str) -> Suite:
    """A suite from plain values; ``where`` names their source in messages."""
    _check_fields(data, FIELDS, "field", where)
    name = data.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{where}: name must be letters, digits, '.', '_' or '-', got {name!r}")
    description = data.get("description") or ""
    if not isinstance(description, str):
        raise UserError(f"{where}: description must be text, got {description!r}")
    built = [
        testbeds.build(entry_name, params, where) for entry_name, params in _entries(data.get("testbeds"), "testbeds", where)
    ]
    if not built:
        raise UserError(f"{where}: testbeds must list at least one testbed")
    _refuse_twice(built, "testbeds", where)
    return Suite(
        name=name,
        description=" ".join(description.split()),
        testbeds=tuple(built),
        attacks=cast(tuple[Attack, ...], _plugins(data, "attacks", registry, where)),
        defenses=cast(tuple[Defense, ...], _plugins(data, "defenses", registry, where)),
        detectors=cast(tuple[Detector, ...], _plugins(data, "detectors", registry, where)),
        seeds=_seeds(data.get("seeds", [0]), where),
        timeout_seconds=_number(data, "timeout_seconds", where, lowest=1, whole=False),
        retries=cast("int | None", _number(data, "retries", where, lowest=0, whole=True)),
    )


def _check_fields(data: Any, allowed: Sequence[str], what: str, where: str) -> None:
    if not isinstance(data, dict):
        raise UserError(f"{where}: must be fields and values ({', '.join(allowed)}), got {data!r}")
    for field in data:
        if field not in allowed:
            raise unknown_name(what, field, allowed, where)


def _entries(value: Any, field: str, where: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """``(name, params)`` of each entry of a list, every point of an entry's grid being one."""
    if value is None:
        return
    if not isinstance(value, list):
        raise UserError(f"{where}: {field} must be a list, got {value!r}")
    for entry in value:
        if isinstance(entry, str):
            yield entry, {}
            continue
        if not isinstance(entry, dict):
            raise UserError(
                f"{where}: an entry of {field} must be a name, or fields ({', '.join(ENTRY_FIELDS)}), got {entry!r}"
            )
        _check_fields(entry, ENTRY_FIELDS, f"field in {field}", where)
        name, params, grid = entry.get("name"), entry.get("params") or {}, entry.get("grid") or {}
        if not isinstance(name, str):
            raise UserError(f"{where}: every entry of {field} must have a name, got {entry!r}")
        if not isinstance(params, dict) or not isinstance(grid, dict):
            raise UserError(f"{where}: params and grid of {name} must be names and values")
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}: grid of {name}: {key} must be a non-empty list, got {values!r}")
            if key in params:
                raise UserError(f"{where}: {name}: {key} stands both in params and in grid")
        for point in itertools.product(*grid.values()):
            yield name, params | dict(zip(grid, point, strict=True))


def _plugins(data: Mapping[str, Any], kind: Kind, registry: Registry, where: str) -> tuple[Plugin, ...]:
    built = [registry.build(kind, name, params, where) for name, params in _entries(data.get(kind), kind, where)]
    _refuse_twice(built, kind, where)
    return tuple(built)


def _refuse_twice(built: Sequence[object], field: str, where: str) -> None:
    for index, item in enumerate(built):
        if item in built[:index]:
            label = item.label() if isinstance(item, Plugin) else repr(item)
            raise UserError(f"{where}: {field} lists {label} twice")


def _choose(plugins: tuple[P, ...], names: Sequence[str] | None, build: Callable[[str], P]) -> tuple[P, ...]:
    if names is None:
        return plugins
    held = {plugin.card.name for plugin in plugins} | {"none"}
    kept = tuple(plugin for plugin in plugins if plugin.card.name in names or plugin.card.name == "none")
    return kept + tuple(build(name) for name in dict.fromkeys(names) if name not in held)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    valid = isinstance(value, list) and value and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in value)
    if not valid or len(set(value)) < len(value):
        raise UserError(f"{where}: seeds must be different whole numbers from 0 up, got {value!r}")
    return tuple(value)


def _number(data: Mapping[str, Any], field: str, where: str, *, lowest: float, whole: bool) -> float | None:
    value = data.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < lowest:
        raise UserError(f"{where}: {field} must be a {'whole ' if whole else ''}number of at least {lowest:g}, got {value!r}")
    return value
