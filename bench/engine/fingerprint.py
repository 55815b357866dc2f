"""Hashes of code: what a stage's result depends on beside its parameters and inputs.

Code is hashed as its syntax tree without docstrings, so that comments, docstrings and layout never throw results away, and
anything that runs always does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import json
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from bench.engine.context import StageFunction
from bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "diffusers", "numpy")


def canonical(value: Any) -> str:
    """One JSON text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of :func:`canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def tree_hash(tree: ast.AST) -> str:
    """Of a syntax tree, docstrings taken out; the same on every supported Python version is not promised."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def file_hash(path: Path) -> str:
    """Of a file: Python as its syntax tree, anything else byte by byte. Read once a process."""
    if path.suffix == ".py":
        with suppress(SyntaxError, ValueError):  # what is not Python is bytes, whatever its name
            return tree_hash(ast.parse(path.read_bytes(), str(path)))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_files(declared: Iterable[str], root: Path = ROOT) -> list[Path]:
    """The Python files of modules and packages named with dots. Raises :class:`UserError` for one that does not exist."""
    files: set[Path] = set()
    for name in declared:
        folder = root.joinpath(*name.split("."))
        file = folder.with_suffix(".py")
        if not folder.is_dir() and not file.is_file():
            raise UserError(f"a stage declares the code {name!r}, which does not exist")
        files.update(folder.rglob("*.py") if folder.is_dir() else [file])
    return sorted(files)


def with_imports(path: Path) -> list[Path]:
    """A plugin's file and the files beside it that it imports, directly or not: ``_helper.py`` changes a result too."""
    found: dict[Path, None] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                names = [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
            for name in names:
                # `attacks._draw`, `._draw` and a plugin file's `_draw` are all the file `_draw.py` in the same folder.
                beside = file.parent / f"{name.rpartition('.')[2]}.py"
                if name and beside.is_file():
                    waiting.append(beside.resolve())
    return sorted(found)


def object_hash(item: object) -> str:
    """Of a plugin's or a testbed's code: its file with what it imports from beside it, and its base classes defined
    elsewhere."""
    kind = type(item)
    if kind not in _code_hashes:
        _code_hashes[kind] = _code_hash(kind)
    return _code_hashes[kind]


_code_hashes: dict[type[Any], str] = {}


def _code_hash(kind: type[Any]) -> str:
    files = with_imports(Path(inspect.getfile(kind)))
    bases = [cls for cls in kind.__mro__ if cls.__module__ not in ("builtins", "abc")]
    return digest(
        {
            "files": [file_hash(path) for path in files],
            "bases": [_class_hash(cls) for cls in bases if Path(inspect.getfile(cls)).resolve() not in files],
        }
    )


def _class_hash(cls: type) -> str:
    return tree_hash(ast.parse(textwrap.dedent(inspect.getsource(cls))))


def function_hash(function: StageFunction) -> str:
    """Of a function and the module-level names it uses, directly or not: changing one stage leaves its neighbours' results
    alone."""
    tree = ast.parse(Path(inspect.getfile(function)).read_bytes())
    named: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    used: dict[str, ast.stmt] = {}
    waiting = [getattr(function, "__name__", "")]
    while waiting:
        name = waiting.pop()
        if name in used or name not in named:
            continue
        used[name] = named[name]
        waiting += [node.id for node in ast.walk(named[name]) if isinstance(node, ast.Name)]
    return digest({name: tree_hash(node) for name, node in used.items()})


@cache
def version(package: str) -> str | None:
    """The installed version; ``None`` where the package is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """:func:`version` of each."""
    return {package: version(package) for package in packages}
