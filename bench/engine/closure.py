"""What a piece of code depends on, read from the code: every definition of ours that it can reach,
and every package beside them.

A result may be reused as long as none of the code that made it has changed. A list kept by hand is
wrong both ways: it misses new dependencies, and it throws results away for code that is no longer
used. So names are followed from a function or a class through our modules' top-level definitions:
functions, classes with their bases, constants, and imports, including those inside functions.

What is chosen by name at run time (a plugin, a testbed, a measurement) cannot be followed; the
planner adds it as a start of its own. Annotations of functions are left out, since they are never
evaluated. So are a class's descriptions (:data:`WORDS`) and the bounds of its fields in
``Annotated``: a bound refuses values, but changes no number computed from a value it accepts.
Annotations of fields are not followed. :data:`DISPATCH` is not entered: it looks things up by name,
validates or passes them on, or is for people, and decides no number.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from bench.engine.fingerprint import ROOT, digest, file_hash, tree_hash
from bench.plugin_file import OURS

#: Modules that are not entered.
DISPATCH = frozenset(
    {
        "bench.constraints",
        "bench.engine.context",
        "bench.errors",
        "bench.names",
        "bench.params",
        "bench.plugin_file",
        "bench.registry",
        "bench.testbeds",
        "bench.text",
        "bench.words",
        "bench.yaml_reader",
    }
)
#: Attributes of a class that are for people, for the estimate of a run, or for who gives it a
#: machine.
WORDS = frozenset({"card", "summary", "always_shown", "typical_seconds", "resources"})
Definition = (
    ast.FunctionDef
    | ast.AsyncFunctionDef
    | ast.ClassDef
    | ast.Assign
    | ast.AnnAssign
    | ast.AugAssign
)
#: A definition's module and name. An empty name is the module itself.
Symbol = tuple[str, str]


@dataclass(frozen=True)
class Module:
    """What a module of ours defines, and what it imports at any depth. ``imports``: local name ->
    (module, name in it); the second is empty if the module itself is imported.
    """

    definitions: Mapping[str, list[Definition]]
    imports: Mapping[str, Symbol]


@dataclass(frozen=True)
class Closure:
    """``symbols``: definition -> hash of its syntax tree. ``packages``: the installed packages that
    these definitions import.
    """

    symbols: Mapping[Symbol, str] = field(default_factory=dict, hash=False)
    packages: frozenset[str] = frozenset()

    @cached_property
    def hash(self) -> str:
        """The hash of all definitions together."""
        return digest({f"{module}:{name}": text for (module, name), text in self.symbols.items()})


@cache
def closure_of(starts: tuple[Symbol, ...]) -> Closure:
    """Everything that ``starts`` can reach. Raises ``LookupError`` for one that does not exist."""
    for module, name in starts:
        if _file(module) is None or (
            name and name not in _module(module).definitions and name not in _module(module).imports
        ):
            raise LookupError(f"there is no {name} in {module}")
    symbols: dict[Symbol, str] = {}
    packages: set[str] = set()
    visited: set[Symbol] = set()
    waiting = list(starts)
    while waiting:
        symbol = waiting.pop()
        if symbol in visited or symbol[0] in DISPATCH:
            continue
        visited.add(symbol)
        if _file(symbol[0]) is None:
            packages |= _distributions(symbol[0])
            continue
        hashed, used = _reached(symbol)
        if hashed:
            symbols[symbol] = hashed
        waiting += used
    return Closure(dict(sorted(symbols.items())), frozenset(packages))


def joined(closures: Iterable[Closure]) -> Closure:
    """The union of ``closures``."""
    parts = list(closures)
    symbols = {symbol: text for closure in parts for symbol, text in closure.symbols.items()}
    return Closure(
        dict(sorted(symbols.items())),
        frozenset(name for closure in parts for name in closure.packages),
    )


def closure_of_function(function: Callable[..., object]) -> Closure:
    """What a stage or a measurement can reach. For third-party code: its whole file."""
    if _file(function.__module__) is not None:
        return closure_of(((function.__module__, function.__qualname__),))
    return _foreign([Path(inspect.getfile(function)).resolve()])


def closure_of_class(cls: type, files: Iterable[Path] = ()) -> Closure:
    """What the class of a plugin or a testbed can reach. ``files``: all files of a third-party
    plugin; by default the one that defines the class.
    """
    if _file(cls.__module__) is not None:
        return closure_of(((cls.__module__, cls.__qualname__),))
    return _foreign(list(files) or [Path(inspect.getfile(cls)).resolve()])


def _foreign(files: list[Path]) -> Closure:
    """The closure of third-party files: each whole file, and what they import of ours."""
    common = os.path.commonpath([path.parent for path in files])
    hashes = {os.path.relpath(path, common): file_hash(path) for path in files}
    # The folder decides nothing. The hash is part of the name so that files of the same name in
    # two packages stay distinct.
    own = Closure({("", f"{name} {text}"): text for name, text in hashes.items()})
    return joined([own, _imported_by([path for path in files if path.suffix == ".py"])])


def _imported_by(paths: Iterable[Path]) -> Closure:
    """What third-party files import: of ours everything they can reach, of others the packages."""
    wanted = {
        symbol
        for path in paths
        for symbol in _imports(ast.parse(path.read_bytes(), str(path)), "").values()
    }
    ours = {(module, name) for module, name in wanted if _file(module) is not None}
    known = {(module, name) for module, name in ours if not name or name in _names(module)}
    others = frozenset(package for module, _ in wanted - ours for package in _distributions(module))
    return joined([closure_of(tuple(sorted(known))), Closure(packages=others)])


@cache
def _reached(symbol: Symbol) -> tuple[str, tuple[Symbol, ...]]:
    """The hash of a definition (empty for a name that is an alias) and the symbols it uses
    directly.
    """
    name, module = symbol[1], _module(symbol[0])
    if not name:
        return "", tuple((symbol[0], defined) for defined in module.definitions)
    if name not in module.definitions:
        imported = module.imports.get(name)
        return "", () if imported is None else (imported,)
    nodes = [_stripped(node) for node in module.definitions[name]]
    used: dict[Symbol, None] = {}
    for node in (child for top in nodes for child in _evaluated(top)):
        if isinstance(node, ast.Name):
            used |= dict.fromkeys(_resolved(symbol[0], module, node.id))
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in module.imports
        ):
            target, inside = module.imports[node.value.id]
            if not inside and _file(target) is not None:
                used[target, node.attr] = None
    return digest([tree_hash(node) for node in nodes]), tuple(used)


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes, except those in annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        if name != "annotation":
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _evaluated(child)


def _resolved(name: str, module: Module, used: str) -> list[Symbol]:
    if used in module.definitions:
        return [(name, used)]
    if used not in module.imports:
        return []
    target, inside = module.imports[used]
    # A whole module of ours: its attributes are followed one by one.
    return [(target, inside)] if inside or _file(target) is None else []


class _Strip(ast.NodeTransformer):
    """Removes what is never evaluated, or is for people only."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        every = [
            *node.args.posonlyargs,
            *node.args.args,
            *node.args.kwonlyargs,
            node.args.vararg,
            node.args.kwarg,
        ]
        for argument in every:
            if argument is not None:
                argument.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = [line for line in node.body if not _targets(line) & WORDS] or [ast.Pass()]
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        base = node.value.attr if isinstance(node.value, ast.Attribute) else node.value
        name = base.id if isinstance(base, ast.Name) else base
        if name == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node


def _stripped(node: Definition) -> ast.AST:
    """A copy without function annotations, field constraints and descriptions."""
    stripped: ast.AST = _Strip().visit(ast.parse(ast.unparse(node)))
    return stripped


def _targets(node: ast.AST) -> set[str]:
    """The names a statement assigns to."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    else:
        return set()
    return {
        name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
    }


def _names(name: str) -> set[str]:
    module = _module(name)
    return {*module.definitions, *module.imports}


@cache
def _module(name: str) -> Module:
    path = _file(name)
    assert path is not None
    tree = ast.parse(path.read_bytes(), str(path))
    definitions: dict[str, list[Definition]] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for target in _targets(node):
                definitions.setdefault(target, []).append(node)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return Module(definitions, _imports(tree, package))


def _statements(body: Iterable[ast.stmt]) -> list[ast.stmt]:
    """A module's statements, including those inside ``if``, ``try`` and ``with``."""
    statements: list[ast.stmt] = []
    for node in body:
        statements.append(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            inner = [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            handlers = [line for handler in getattr(node, "handlers", []) for line in handler.body]
            statements += _statements([*inner, *handlers])
    return statements


def _imports(tree: ast.AST, package: str) -> dict[str, Symbol]:
    """Every name that is imported anywhere in ``tree``."""
    imported: dict[str, Symbol] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`. Our own code never imports ours this way, and for other
                # packages the first part identifies the package.
                imported[alias.asname or alias.name.partition(".")[0]] = (alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            parts = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            module = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                imported[alias.asname or alias.name] = (
                    (whole, "") if _file(whole) is not None else (module, alias.name)
                )
    return imported


@cache
def _file(module: str) -> Path | None:
    """The file of a module of ours; ``None`` for other packages' modules, which share our folder
    once we are installed.
    """
    path = ROOT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if str(file).startswith(OURS) and file.is_file()), None)


@cache
def _distributions(module: str) -> frozenset[str]:
    """The installed packages that provide a module; none for the standard library."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return frozenset()
    return frozenset(_installed().get(top, ()))


@cache
def _installed() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
