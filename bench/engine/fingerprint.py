"""Hashes of code: what a stage's result depends on besides its parameters and inputs.

Code is hashed as its syntax tree without docstrings, so changes to comments, docstrings and layout
never invalidate results, and changes to anything that runs always do.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
#: Our packages that stages run.
RUN = ("attacks", "bench", "defenses", "detectors")
PACKAGES = ("torch", "diffusers", "numpy")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> str:
    """One JSON text for one value: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


class Shared:
    """:func:`canonical` of mappings whose values are the same objects in thousands of them, such as
    a testbed in the parameters of its stages: the text of such a value is made once. It must not be
    changed afterwards.
    """

    def __init__(self) -> None:
        self._texts: dict[int, tuple[object, str]] = {}

    def canonical(self, values: Mapping[str, Any]) -> str:
        """The same text as of :func:`canonical`."""
        entries = (f"{canonical(name)}:{self._text(values[name])}" for name in sorted(values))
        return "{" + ",".join(entries) + "}"

    def _text(self, value: object) -> str:
        if not isinstance(value, dict):
            return canonical(value)
        known = self._texts.get(id(value))
        if known is None:  # the value is kept too, so that no other gets its identity
            known = self._texts[id(value)] = value, canonical(value)
        return known[1]


_SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def shared_texts() -> Iterator[None]:
    """Inside, :func:`canonical_mapping` makes the text of an object once."""
    before = _SHARED.set(Shared())
    try:
        yield
    finally:
        _SHARED.reset(before)


def canonical_mapping(values: Mapping[str, Any]) -> str:
    """:func:`canonical` of a mapping."""
    shared = _SHARED.get()
    return canonical(dict(values)) if shared is None else shared.canonical(values)


def sha256(text: str) -> str:
    """Of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of :func:`canonical`."""
    return sha256(canonical(value))


def tree_hash(tree: ast.AST) -> str:
    """The hash of a syntax tree without docstrings. It may differ between Python versions."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def file_hash(path: Path) -> str:
    """The hash of a file: Python as its syntax tree, anything else byte by byte. Read once per
    process.
    """
    if path.suffix == ".py":
        with suppress(SyntaxError, ValueError):  # not valid Python: hash the bytes
            return tree_hash(ast.parse(path.read_bytes(), str(path)))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def version(package: str) -> str | None:
    """The installed version; ``None`` if the package is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """:func:`version` of each package."""
    return {package: version(package) for package in packages}


def code_of_all() -> str:
    """SHA-256 of all our Python files: equal on two machines with the same code."""
    total = hashlib.sha256()
    for file in _our_files():
        path = Path(file.path)
        total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _state_of_all() -> str:
    """Of sizes and times: equal only if nobody wrote to any, and had without reading them, so that
    each stage can ask.
    """
    about = [(file.path, file.stat()) for file in _our_files()]
    return digest([(path, one.st_size, one.st_mtime_ns) for path, one in about])


def _our_files() -> list[os.DirEntry[str]]:
    files, folders = [], [str(ROOT / room) for room in RUN]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.name.endswith(".py"):
                files.append(entry)
            elif entry.name != "__pycache__" and entry.is_dir():
                folders.append(entry.path)
    return sorted(files, key=lambda entry: entry.path)


@cache
def planned_code() -> tuple[str, str]:
    """The code when this process first asked, which is before it plans, for
    :func:`refuse_other_code`: its keys are of that code, whatever happens to the files meanwhile.
    """
    state = _state_of_all()  # first: a change after it is noticed
    return code_of_all(), state


def refuse_other_code(planned: Sequence[str]) -> None:
    """Raises :class:`UserError` if our files are not what they were. ``planned``: that process's
    :func:`planned_code`.
    """
    contents, state = planned
    if _state_of_all() != state and code_of_all() != contents:
        raise UserError(
            f"castlewalls in {ROOT} was changed after this run was planned; run the same command "
            f"again"
        )
