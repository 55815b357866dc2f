"""Finds plugins: in the built-in folders, in installed packages (entry points), and in files given
with ``--plugin``.

A name identifies one class; a second class with the same name is an error, never an override.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

from bench.contracts.attack import Attack
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Defense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector, Subject
from bench.contracts.plugin import Plugin
from bench.errors import UserError
from bench.names import brief, unknown_name
from bench.params import construct
from bench.plugin_file import (
    Source,
    belongings,
    hashes,
    import_file,
    package_files,
    package_roots,
    saying,
    what_happened,
)
from bench.text import one_line

Group = Literal["attacks", "defenses", "detectors"]
GROUPS: tuple[Group, ...] = get_args(Group)
SINGULAR: dict[Group, str] = {"attacks": "attack", "defenses": "defense", "detectors": "detector"}
#: What a defense or a detector does, by its base class.
FAMILIES: dict[type[Plugin], str] = {
    SamplerDefense: "sampler",
    ModelDefense: "model",
    DataDefense: "data",
    ClassifierDefense: "classifier",
    Inversion: "inversion",
}
#: By the first of a detector's subjects.
DETECTORS: dict[Subject, str] = {
    "rows": "sample detector",
    "images": "sample detector",
    "noise": "noise detector",
    "prompts": "prompt detector",
    "model": "model detector",
}
#: The controls' name.
RESERVED = "none"
ARTICLE: dict[Group, str] = {
    "attacks": "an attack",
    "defenses": "a defense",
    "detectors": "a detector",
}


def group_of(cls: type[Plugin]) -> Group:
    """The one of :data:`GROUPS` that a plugin class belongs to, by its base class."""
    if issubclass(cls, Attack):
        return "attacks"
    return "defenses" if issubclass(cls, Defense) else "detectors"


def family_of(plugin: Plugin) -> str:
    """The record's ``kind`` of a defense or a detector: ``control``, or a value of
    :data:`FAMILIES` or :data:`DETECTORS`.
    """
    if plugin.card.name == "none":
        return "control"
    if isinstance(plugin, Detector):
        if not plugin.subjects:
            raise UserError(f"detector {plugin.card.name!r} must say in subjects what it judges")
        return DETECTORS[plugin.subjects[0]]
    for family, name in FAMILIES.items():
        if isinstance(plugin, family):
            return name
    names = ", ".join(family.__name__ for family in FAMILIES)
    raise UserError(
        f"{SINGULAR[group_of(type(plugin))]} {plugin.card.name!r} must subclass one of {names}"
    )


class Registry:
    """All available plugins, collected once on construction.

    ``plugin_files``: Python files from outside the packages. Raises :class:`UserError` for a file
    that cannot be imported, with the reason, and for a name claimed twice. An entry point that
    cannot be imported is remembered, and mentioned in the error about an unknown name. ``only``:
    restricts entry points to these, as ``(entry point group, name)``; ``None`` for all.
    """

    def __init__(
        self, plugin_files: Iterable[str | Path] = (), only: Iterable[tuple[str, str]] | None = None
    ) -> None:
        self.plugin_files = tuple(str(Path(path).resolve()) for path in plugin_files)
        self.only = None if only is None else tuple(only)
        self.state = (
            self.plugin_files,
            self.only,
            tuple(hashes(map(Path, self.plugin_files)).items()),
        )
        self.broken: list[str] = []
        self._classes: dict[Group, dict[str, type[Plugin]]] = {group: {} for group in GROUPS}
        # of third-party classes: file, or entry point group and name
        self._origins: dict[type[Plugin], tuple[str, str, str]] = {}
        for group in GROUPS:
            self._add_built_in(group)
        for group in GROUPS:
            for entry in sorted(
                entry_points(group=f"castlewalls.{group}"), key=lambda entry: entry.name
            ):
                if self.only is None or (entry.group, entry.name) in self.only:
                    self._add_entry_point(group, entry)
        for path in self.plugin_files:
            self._add_file(Path(path))

    def source(self, plugin: Plugin) -> Source | None:
        """The origin of a third-party plugin, and the current hashes of its files; ``None`` for one
        of ours.
        """
        origin = self._origins.get(type(plugin))
        if origin is None:
            return None
        file, entry_group, name = origin
        if file:
            files = belongings(Path(file), type(plugin).card.files)
        else:
            files = self._installed_files(type(plugin))
        return Source(file, entry_group, name, hashes(files))

    def _installed_files(self, cls: type[Plugin]) -> list[Path]:
        return package_files(cls.__module__)

    def _classes_in(self, path: Path) -> list[type[Plugin] | str]:
        """Of a plugin file; in place of one that cannot be a plugin, why."""
        return checked(plugins_in(import_file(path)))

    def _classes_of(self, entry: EntryPoint) -> list[type[Plugin] | str]:
        """Of an entry point, as :meth:`_classes_in`. Raises :class:`UserError` if it cannot be
        imported.
        """
        return checked(loaded(entry))

    def names(self, group: Group) -> list[str]:
        """The sorted names of one group."""
        return sorted(self._classes[group])

    def get(self, group: Group, name: str, where: str = "") -> type[Plugin]:
        """The class with a name. Raises :class:`UserError` that suggests the nearest one, prefixed
        with ``where``.
        """
        if name not in self._classes[group]:
            error = unknown_name(SINGULAR[group], name, self._classes[group], where)
            raise UserError("; ".join([str(error), *self.broken])) if self.broken else error
        return self._classes[group][name]

    def build(
        self, group: Group, name: str, params: Mapping[str, Any] | None = None, where: str = ""
    ) -> Plugin:
        """The plugin ``(name, params)``. Raises :class:`UserError` naming the parameter, the
        constraint and the value.
        """
        plugin = construct(
            self.get(group, name, where), f"{SINGULAR[group]} {name}", params or {}, where
        )
        check_params(plugin, f"{f'{where}: ' if where else ''}{SINGULAR[group]} {name}")
        return plugin

    def attack(self, name: str, params: Mapping[str, Any] | None = None) -> Attack:
        """:meth:`build`, typed."""
        return cast(Attack, self.build("attacks", name, params))

    def defense(self, name: str, params: Mapping[str, Any] | None = None) -> Defense:
        """:meth:`build`, typed."""
        return cast(Defense, self.build("defenses", name, params))

    def detector(self, name: str, params: Mapping[str, Any] | None = None) -> Detector:
        """:meth:`build`, typed."""
        return cast(Detector, self.build("detectors", name, params))

    def _add_built_in(self, group: Group) -> None:
        package = importlib.import_module(group)
        for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
            if info.name.startswith("_"):
                continue
            try:
                module = importlib.import_module(f"{group}.{info.name}")
            except Exception as error:
                raise UserError(
                    f"{group}/{info.name}.py cannot be imported: {_one_line(error)}"
                ) from error
            for cls in plugins_in(module):
                if group_of(cls) != group:
                    raise UserError(
                        f"{group}/{info.name}.py: {cls.__name__} belongs in {group_of(cls)}/"
                    )
                self._add(group, cls)

    def _add_entry_point(self, group: Group, entry: EntryPoint) -> None:
        source = (
            f"{entry.dist.name if entry.dist else 'an installed package'} (entry point "
            f"castlewalls.{group}: {entry.name})"
        )
        try:
            with saying(f"importing the plugin of {source}"):
                classes = self._classes_of(entry)
        except UserError as error:
            self.broken.append(f"the plugin of {source} {error}")
            return
        for cls in classes:
            if isinstance(cls, str):
                self.broken.append(f"the plugin of {source}: {cls}")
            elif group_of(cls) != group:
                self.broken.append(
                    f"the plugin of {source} must be {ARTICLE[group]} class with a card, got "
                    f"{ARTICLE[group_of(cls)]}"
                )
            else:
                self._add(group, cls, ("", entry.group, entry.name))

    def _add_file(self, path: Path) -> None:
        known = {source_of(cls) for classes in self._classes.values() for cls in classes.values()}
        if path in known:
            return
        classes = self._classes_in(path)
        if not classes:
            raise UserError(f"--plugin {path}: no class with a card in this file")
        for cls in classes:
            if isinstance(cls, str):
                raise UserError(f"--plugin {path}: {cls}")
            self._add(group_of(cls), cls, (str(path), "", ""))

    def _add(
        self, group: Group, cls: type[Plugin], origin: tuple[str, str, str] | None = None
    ) -> None:
        _check(cls)
        other = self._classes[group].get(cls.card.name)
        if other is cls:
            return
        if cls.card.name != RESERVED:
            # Names are unique across groups, since defenses and detectors are columns of one table.
            other = next(
                (
                    classes[cls.card.name]
                    for classes in self._classes.values()
                    if cls.card.name in classes
                ),
                None,
            )
        if other is not None:
            what = group if group_of(other) == group else "plugins"
            raise UserError(
                f"two {what} are named {cls.card.name!r}: {source_of(other)} and "
                f"{source_of(cls)}; rename one of them"
            )
        self._classes[group][cls.card.name] = cls
        if origin is not None:
            self._origins[cls] = origin


def _check(cls: type[Plugin]) -> None:
    """Raises :class:`UserError` for a class that cannot be a plugin, whatever its name."""
    if "__dataclass_fields__" not in vars(cls):
        raise UserError(
            f"{source_of(cls)}: {cls.__name__} must be a @dataclass(frozen=True, kw_only=True): "
            f"its fields are its parameters"
        )
    if cls.card.name == RESERVED and cls.__module__ not in (
        f"attacks.{RESERVED}",
        f"defenses.{RESERVED}",
    ):
        raise UserError(
            f"{source_of(cls)}: the name {RESERVED!r} is reserved for the controls; rename "
            f"{cls.__name__}"
        )


_in_use: list[Registry] = []


def use(
    plugin_files: Iterable[str | Path] = (), only: Iterable[tuple[str, str]] | None = None
) -> Registry:
    """This process's registry, rebuilt only if the arguments or the files change; from then on
    :func:`build` uses it. Arguments as for :class:`Registry`.
    """
    files, entries = (
        tuple(str(Path(path).resolve()) for path in plugin_files),
        None if only is None else tuple(only),
    )
    state = files, entries, tuple(hashes(map(Path, files)).items())
    if not _in_use or _in_use[0].state != state:
        _in_use[:] = [Registry(files, entries)]
    return _in_use[0]


def build(group: Group, name: str, params: Mapping[str, Any] | None = None) -> Plugin:
    """:meth:`Registry.build` in the registry that :func:`use` chose, or in one without plugin
    files.
    """
    return (_in_use[0] if _in_use else use()).build(group, name, params)


def source_of(plugin: object) -> Path:
    """The file that defines a plugin (or a plugin's class), resolved."""
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    if "__source__" in vars(cls):  # a stand-in, whose code is not here
        return Path(vars(cls)["__source__"])
    return Path(inspect.getfile(cls)).resolve()


def installed_roots() -> list[Path]:
    """Where the packages are that declare plugins, folders first."""
    roots = {
        root
        for group in GROUPS
        for entry in entry_points(group=f"castlewalls.{group}")
        for root in package_roots(entry.value.partition(":")[0].strip())
    }
    return sorted(roots, key=lambda root: (not root.is_dir(), root))


def loaded(entry: EntryPoint) -> list[Any]:
    """What an entry point names, imported: a class, or the plugins of a module. Raises
    :class:`UserError`.
    """
    try:
        value = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"cannot be imported: {what_happened(error)}") from error
    return list(plugins_in(value)) if isinstance(value, ModuleType) else [value]


def plugins_in(module: ModuleType) -> list[type[Plugin]]:
    """The concrete classes with a card that this module itself defines."""
    return [
        cls
        for name, cls in sorted(vars(module).items())
        if inspect.isclass(cls)
        and issubclass(cls, Plugin)
        and cls.__module__ == module.__name__
        and not name.startswith("_")
        and hasattr(cls, "card")
        and not inspect.isabstract(cls)
    ]


def checked(classes: Iterable[Any]) -> list[type[Plugin] | str]:
    """Each of ``classes``, or why it cannot be a plugin."""
    return [fault_of(cls) or cls for cls in classes]


def fault_of(cls: Any) -> str:
    """What is wrong with a third party's class, in words; empty if nothing."""
    if not (inspect.isclass(cls) and issubclass(cls, Plugin) and hasattr(cls, "card")):
        return f"it must be a plugin's class with a card, or a module of them, got {brief(cls)}"
    try:
        _check(cls)
    except UserError as error:
        return str(error)
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }
    bad = [name for name, value in defaults.items() if not _is_json(value)]
    if bad:
        what = (
            f"{SINGULAR[group_of(cls)]} {cls.card.name}: parameters must be JSON values, and finite"
        )
        return f"{what}: the default of {bad[0]} is {_text(defaults[bad[0]])}"
    return ""


def check_params(plugin: Plugin, what: str) -> None:
    """Raises :class:`UserError` unless a plugin's parameters survive JSON."""
    for name, value in plugin.params().items():
        if not _is_json(value):
            raise UserError(
                f"{what}: parameters must be JSON values, and finite: {name} is {_text(value)}"
            )


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _text(value: object) -> str:
    return one_line(repr(value), 80)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
