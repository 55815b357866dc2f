"""A suite: the YAML file that a user runs, read into frozen, validated values.

Every plugin and testbed in it is built on reading, so a suite that loads can be planned: a misspelt
field, an unknown name or a refused value is a one-line error with the file's name.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from bench import testbeds
from bench.composed import Composed, name_of
from bench.contracts.attack import Attack
from bench.contracts.card import Tuning
from bench.contracts.defense import Defense
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin
from bench.diffusion.restoring import CORRUPTIONS, Inpainting
from bench.errors import UserError, no_file
from bench.names import brief, unknown_name
from bench.params import construct, in_quotes, unfit
from bench.registry import Group, Registry
from bench.results import MAX_DESCRIPTION as LONGEST_DESCRIPTION
from bench.results import RUNS, SUBMISSIONS
from bench.samplers import SUMMARIES, Sampler
from bench.testbeds.testbed import Testbed
from bench.yaml_reader import read_yaml

FIELDS = (
    "name",
    "description",
    "testbeds",
    "samplers",
    "inpainting",
    "attacks",
    "defenses",
    "detectors",
    "seeds",
    "tuned",
    "timeout_seconds",
    "retries",
)
ENTRY_FIELDS = ("name", "params", "grid")
#: Entries of these lists may say on which of the suite's testbeds they are met.
ASSIGNED: tuple[Group, ...] = ("attacks", "defenses", "detectors")
LONGEST_NAME = 100
#: More than anyone would wait for, and few enough to plan in a minute.
MOST_CELLS = 10_000
LONGEST_TIMEOUT = 1e9
MOST_RETRIES = 100

P = TypeVar("P", bound=Plugin | Composed)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """``attacks``, ``defenses`` and ``detectors`` as written, grids expanded; the planner adds the
    controls. ``samplers``: every cell is made under each; empty for each testbed's own.
    ``inpainting``: corrupted images that every model is asked to restore as well.

    ``assigned``: the testbeds of the attacks, defenses and detectors that are not met on all of
    them, by label.
    ``tuned``: which of its parameters were chosen by looking at results, and on which cells.
    ``timeout_seconds``: for each stage, ``None`` for the default limit; ``retries``: how often a
    failed stage is retried in one run.
    """

    name: str
    description: str = ""
    testbeds: tuple[Testbed, ...]
    samplers: tuple[Sampler, ...] = ()
    inpainting: tuple[Inpainting, ...] = ()
    attacks: tuple[Attack, ...] = ()
    defenses: tuple[Defense | Composed, ...] = ()
    detectors: tuple[Detector, ...] = ()
    seeds: tuple[int, ...] = (0,)
    tuned: tuple[Tuning, ...] = ()
    timeout_seconds: float | None = None
    retries: int | None = None
    filtered: bool = False
    assigned: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def meets(self, plugin: Plugin | Composed, testbed: str) -> bool:
        """Whether an attack, a defense or a detector is run on the testbed of this name."""
        return testbed in self.assigned.get(plugin.label(), (testbed,))

    def only(
        self,
        registry: Registry,
        attacks: Sequence[str] | None = None,
        defenses: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        detectors: Sequence[str] | None = None,
        samplers: Sequence[str] | None = None,
    ) -> Suite:
        """This suite with only the entries chosen by name. Controls stay. A plugin that is in
        ``registry`` but not in the suite, such as one from ``--plugin FILE``, is added with its
        default parameters, and so is a sampler that the suite does not list. Raises
        :class:`UserError` for an unknown name.
        """
        choices = (attacks, defenses, seeds, detectors, samplers)
        chosen = replace(
            self,
            attacks=_choose(self.attacks, attacks, registry.attack),
            defenses=_choose(self.defenses, defenses, registry.defense),
            detectors=_choose(self.detectors, detectors, registry.detector),
            seeds=self.seeds if seeds is None else _seeds(list(seeds), "--seeds"),
            samplers=self._samplers(samplers),
            filtered=self.filtered or any(choice is not None for choice in choices),
        )
        if any(choice is not None for choice in choices):
            _refuse_many(chosen._cells(), chosen.name)
        return chosen

    def _cells(self) -> int:
        """At most so many: those that cannot apply are counted."""
        cells = 0
        for testbed in self.testbeds:
            here = {testbed.name}
            attacks = sum(
                testbed.name in self.assigned.get(one.label(), here)
                for one in self.attacks
                if one.card.name != "none"
            )
            columns = sum(
                testbed.name in self.assigned.get(one.label(), here)
                for one in (*self.defenses, *self.detectors)
            )
            cells += (attacks + max(attacks, 1)) * max(columns, 1)
        return cells * len(self.seeds) * max(len(self.samplers), 1)

    def _samplers(self, names: Sequence[str] | None) -> tuple[Sampler, ...]:
        if names is None:
            return self.samplers
        if not names:
            raise UserError("--samplers must name at least one sampler, got none")
        listed = {sampler.name for sampler in self.samplers}
        joining = [name for name in dict.fromkeys(names) if name not in listed]
        chosen = [sampler for sampler in self.samplers if sampler.name in names]
        return (*chosen, *(_sampler(name, {}, "--samplers") for name in joining))


def suite_folders() -> list[Path]:
    """The folders of the shipped suites: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return [
        folder for folder in (package / "suites", package.parent / "suites") if folder.is_dir()
    ][:1]


def shipped_suites() -> dict[str, Path]:
    """Name -> file of every suite that comes with castlewalls, by name."""
    return {
        path.stem: path
        for folder in suite_folders()
        for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    }


def find_suite(name_or_path: str) -> Path:
    """A shipped suite by name, or a file. Raises :class:`UserError` suggesting the nearest shipped
    name.
    """
    shipped = shipped_suites()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"suite {name_or_path}: {no_file(path)}")
    raise unknown_name("suite", name_or_path, shipped)


def load_suite(name_or_path: str, registry: Registry) -> Suite:
    """Reads and validates a suite. Raises :class:`UserError`, one line, beginning with the file."""
    path = find_suite(name_or_path)
    return parse_suite(read_yaml(path), registry, path.name)


def testbeds_of(name_or_path: str) -> tuple[Testbed, ...]:
    """Those of a suite, of which nothing else is looked at. Raises as :func:`load_suite`."""
    path = find_suite(name_or_path)
    data = read_yaml(path)
    _check_fields(data, FIELDS, "field", path.name)
    _check_size(data, path.name)
    return _testbeds(data, path.name)


def parse_suite(data: Any, registry: Registry, where: str) -> Suite:
    """A suite from plain values; ``where`` names their source in messages."""
    _check_fields(data, FIELDS, "field", where)
    name, description = _name(data, where), _description(data, where)
    _check_size(data, where)
    built = _testbeds(data, where)
    samplers = [_sampler(name, params, where) for name, params in _entries(data, "samplers", where)]
    _refuse_twice(samplers, "samplers", where)
    names = list(dict.fromkeys(testbed.name for testbed in built))
    attacks, defenses, detectors = (
        _plugins(data, group, registry, where, names) for group in ASSIGNED
    )
    tasks = [_task(name, params, where) for name, params in _entries(data, "inpainting", where)]
    _refuse_twice(tasks, "inpainting", where)
    return Suite(
        name=name,
        description=description,
        testbeds=built,
        samplers=tuple(samplers),
        inpainting=tuple(tasks),
        attacks=cast(tuple[Attack, ...], tuple(one for one, _ in attacks)),
        defenses=cast("tuple[Defense | Composed, ...]", tuple(one for one, _ in defenses)),
        detectors=cast(tuple[Detector, ...], tuple(one for one, _ in detectors)),
        assigned={one.label(): met for one, met in (*attacks, *defenses, *detectors) if met},
        seeds=_seeds(data.get("seeds", [0]), where),
        tuned=_tuned(data.get("tuned"), registry, where),
        timeout_seconds=_number(
            data, "timeout_seconds", where, lowest=1, highest=LONGEST_TIMEOUT, whole=False
        ),
        retries=cast(
            "int | None",
            _number(data, "retries", where, lowest=0, highest=MOST_RETRIES, whole=True),
        ),
    )


def _testbeds(data: Mapping[str, Any], where: str) -> tuple[Testbed, ...]:
    built = [
        testbeds.build(entry_name, params, where)
        for entry_name, params in _entries(data, "testbeds", where)
    ]
    if not built:
        raise UserError(f"{where}: testbeds must list at least one testbed")
    _refuse_twice(built, "testbeds", where)
    return tuple(built)


def _name(data: Mapping[str, Any], where: str) -> str:
    name = data.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            f"{where}: name must be letters, digits, '.', '_' or '-', got "
            f"{brief(name)}{in_quotes(name)}"
        )
    if len(name) > LONGEST_NAME:
        raise UserError(f"{where}: name must be at most {LONGEST_NAME} characters, got {len(name)}")
    if name == SUBMISSIONS:
        raise UserError(f"{where}: name must not be {name}, the folder of results for bundles")
    if name == RUNS:
        raise UserError(f"{where}: name must not be {name}, a folder by which a store is known")
    return name


def _description(data: Mapping[str, Any], where: str) -> str:
    description = "" if data.get("description") is None else data["description"]
    if not isinstance(description, str) or unfit(description):
        wanted = unfit(description) if isinstance(description, str) else "text"
        raise UserError(
            f"{where}: description must be {wanted}, got "
            f"{brief(description)}{in_quotes(description)}"
        )
    if len(description) > LONGEST_DESCRIPTION:
        raise UserError(
            f"{where}: description must be at most {LONGEST_DESCRIPTION} characters, got "
            f"{len(description)}"
        )
    return " ".join(description.split())


def _check_fields(data: Any, allowed: Sequence[str], what: str, where: str) -> None:
    if not isinstance(data, dict):
        raise UserError(
            f"{where}: must be fields and values ({', '.join(allowed)}), got {brief(data)}"
        )
    for field in data:
        if field not in allowed:
            raise unknown_name(what, field, allowed, where)


@dataclass(frozen=True)
class _Entry:
    """Of one of a suite's lists, as written. ``testbeds``: names; none for all of the suite's."""

    name: str
    params: dict[str, Any]
    grid: dict[str, list[Any]]
    testbeds: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """Of its grid."""
        return math.prod(map(len, self.grid.values()))


def _entry(entry: Any, field: str, where: str) -> _Entry:
    if isinstance(entry, str):
        return _Entry(entry, {}, {})
    allowed = (*ENTRY_FIELDS, *(["testbeds"] if field in ASSIGNED else []))
    if not isinstance(entry, dict):
        wanted = f"a name, or fields ({', '.join(allowed)})"
        raise UserError(
            f"{where}: an entry of {field} must be {wanted}, got {brief(entry)}{in_quotes(entry)}"
        )
    _check_fields(entry, allowed, f"field in {field}", where)
    name = entry.get("name")
    params, grid = ({} if entry.get(key) is None else entry[key] for key in ("params", "grid"))
    if not isinstance(name, str):
        raise UserError(
            f"{where}: every entry of {field} must have a name, got {brief(entry)}{in_quotes(name)}"
        )
    if not isinstance(params, dict) or not isinstance(grid, dict):
        raise UserError(f"{where}: params and grid of {brief(name)[1:-1]} must be names and values")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{where}: grid of {name}: {brief(key)[1:-1]} must be a non-empty list, got "
                f"{brief(values)}"
            )
        if key in params:
            raise UserError(f"{where}: {name}: {key} stands both in params and in grid")
    return _Entry(name, params, grid, _names(entry.get("testbeds"), name, where))


def _names(value: Any, name: str, where: str) -> tuple[str, ...]:
    """The testbeds of an entry."""
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(
            f"{where}: {brief(name)[1:-1]}: testbeds must be a list of names, got {brief(value)}"
        )
    if name == "none":
        raise UserError(f"{where}: none: testbeds must not be given, the controls are run on all")
    return tuple(value)


def _listed(data: Mapping[str, Any], field: str, where: str) -> list[tuple[list[_Entry], bool]]:
    """The entries of a list, each with whether it is a list of defenses that act at once; else it
    has one part.
    """
    value = data.get(field)
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: {field} must be a list, got {brief(value)}")
    columns: list[tuple[list[_Entry], bool]] = []
    for entry in value or []:
        at_once = isinstance(entry, list) and field == "defenses"
        if at_once and len(entry) < 2:
            raise UserError(f"{where}: defenses at once must be two or more, got {brief(entry)}")
        columns.append(
            ([_entry(part, field, where) for part in (entry if at_once else [entry])], at_once)
        )
    return columns


def _entries(
    data: Mapping[str, Any], field: str, where: str
) -> Iterable[tuple[str, dict[str, Any]]]:
    """``(name, params)`` of each entry of a list, one for every point of its grid."""
    for (entry,), _ in _listed(data, field, where):
        for (params,) in _points([entry]):
            yield entry.name, params


def _points(entries: Sequence[_Entry]) -> Iterable[list[dict[str, Any]]]:
    """The parameters of each of ``entries``, at every point of their grids."""
    points = [list(itertools.product(*entry.grid.values())) for entry in entries]
    for chosen in itertools.product(*points):
        yield [
            entry.params | dict(zip(entry.grid, point, strict=True))
            for entry, point in zip(entries, chosen, strict=True)
        ]


def _check_size(data: Mapping[str, Any], where: str) -> None:
    """Refuses more than :data:`MOST_CELLS` cells, before any point of a grid is built."""
    rows, defenses, detectors = (_listed(data, group, where) for group in ASSIGNED)
    seeds = data.get("seeds", [0])
    runs = len(seeds) if isinstance(seeds, list) else 1
    runs *= max(sum(entry.points for (entry,), _ in _listed(data, "samplers", where)), 1)
    cells = 0
    for (testbed,), _ in _listed(data, "testbeds", where):
        attacks, honest = _counted(rows, testbed.name)
        columns, controls = _counted([*defenses, *detectors], testbed.name)
        treatments = columns + max(controls, 1)
        cells += testbed.points * runs * (attacks + max(honest, 1) * max(attacks, 1)) * treatments
    _refuse_many(cells, where)


def _refuse_many(cells: int, where: str) -> None:
    if cells > MOST_CELLS:
        raise UserError(
            f"{where}: a suite must have at most {MOST_CELLS:,} cells, the points of its grids "
            f"by its seeds make "
            f"{brief(cells) if cells > 10**18 else format(cells, ',')}"
        )


def _counted(columns: Iterable[tuple[list[_Entry], bool]], testbed: str) -> tuple[int, int]:
    """How many points of grids are met on a testbed, and how many controls."""
    counted = [0, 0]
    for entries, _ in columns:
        if all(testbed in (entry.testbeds or (testbed,)) for entry in entries):
            counted[entries[0].name == "none"] += math.prod(entry.points for entry in entries)
    return counted[0], counted[1]


def _sampler(name: str, params: Mapping[str, Any], where: str) -> Sampler:
    if name not in SUMMARIES:
        raise unknown_name("sampler", name, SUMMARIES, where)
    if "name" in params:
        raise UserError(f"{where}: sampler {name}: name stands beside params, not in them")
    return construct(Sampler, f"sampler {name}", {"name": name, **params}, where)


def _task(corruption: str, params: Mapping[str, Any], where: str) -> Inpainting:
    if corruption not in CORRUPTIONS:
        raise unknown_name("corruption", corruption, CORRUPTIONS, where)
    if "corruption" in params:
        raise UserError(f"{where}: inpainting {corruption}: corruption must not be in params")
    return construct(
        Inpainting, f"inpainting {corruption}", {"corruption": corruption, **params}, where
    )


def _plugins(
    data: Mapping[str, Any], group: Group, registry: Registry, where: str, known: Sequence[str]
) -> list[tuple[Plugin | Composed, frozenset[str]]]:
    """Each with the testbeds, of those ``known``, that it is met on; none for all of them."""
    built: list[tuple[Plugin | Composed, frozenset[str]]] = []
    for entries, at_once in _listed(data, group, where):
        names = _met(entries, known, where)
        for points in _points(entries):
            plugins: list[Any] = [
                registry.build(group, entry.name, params, where)
                for entry, params in zip(entries, points, strict=True)
            ]
            built.append((_composed(plugins, where) if at_once else plugins[0], names))
    _refuse_twice([plugin for plugin, _ in built], group, where)
    return built


def _met(entries: Sequence[_Entry], known: Sequence[str], where: str) -> frozenset[str]:
    """Defenses at once are met where all of them are."""
    everywhere = met = frozenset(known)
    for entry in entries:
        for name in entry.testbeds:
            if name not in known:
                raise unknown_name("testbed of the suite", name, known, f"{where}: {entry.name}")
        met &= frozenset(entry.testbeds or known)
    if not met:
        raise UserError(
            f"{where}: {' + '.join(entry.name for entry in entries)}: testbeds of defenses at "
            f"once must have one in common, got none"
        )
    return frozenset() if met == everywhere else met


def _composed(parts: list[Defense], where: str) -> Composed:
    try:
        return Composed(tuple(parts))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _refuse_twice(built: Sequence[object], field: str, where: str) -> None:
    labels: set[str] = set()
    for item in built:
        # Two plugins with the same label would look like one column.
        known = item.label() if isinstance(item, Plugin | Composed) else repr(item)
        if known in labels:
            label = known if isinstance(item, Plugin | Composed) else getattr(item, "name", known)
            raise UserError(f"{where}: {field} lists {label} twice")
        labels.add(known)


def _choose(
    plugins: tuple[P, ...], names: Sequence[str] | None, build: Callable[[str], P]
) -> tuple[P, ...]:
    if names is None:
        return plugins
    present = {name_of(plugin) for plugin in plugins} | {"none"}
    chosen = tuple(
        plugin for plugin in plugins if name_of(plugin) in names or name_of(plugin) == "none"
    )
    return chosen + tuple(build(name) for name in dict.fromkeys(names) if name not in present)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    valid = (
        isinstance(value, list)
        and value
        and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in value)
    )
    if not valid or len(set(value)) < len(value):
        raise UserError(
            f"{where}: seeds must be different whole numbers from 0 up, got {brief(value)}"
        )
    if max(value) >= 2**63:
        raise UserError(f"{where}: seeds must be below 2^63, got {brief(max(value))}")
    return tuple(value)


def _tuned(value: Any, registry: Registry, where: str) -> tuple[Tuning, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UserError(f"{where}: tuned must be a list, got {brief(value)}")
    fields = [field.name for field in dataclasses.fields(Tuning)]
    for entry in value:
        _check_fields(entry, fields, "field in tuned", where)
    made = tuple(construct(Tuning, "tuned", entry, where) for entry in value)
    # A name that nothing has would take the flags from the cells that were looked at.
    for one in made:
        if one.testbed not in testbeds.names():
            raise unknown_name("testbed in tuned:", one.testbed, testbeds.names(), where)
        attacks = registry.names("attacks")
        if wrong := [name for name in one.attacks if name not in attacks]:
            raise unknown_name("attack in tuned:", wrong[0], attacks, where)
    return made


def _number(
    data: Mapping[str, Any], field: str, where: str, *, lowest: float, highest: float, whole: bool
) -> float | None:
    value = data.get(field)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else (int, float))
        or not value >= lowest
    ):
        raise UserError(
            f"{where}: {field} must be a {'whole ' if whole else ''}number of at least "
            f"{lowest:g}, got {brief(value)}"
        )
    if value > highest:
        raise UserError(f"{where}: {field} must be at most {highest:g}, got {brief(value)}")
    return value
