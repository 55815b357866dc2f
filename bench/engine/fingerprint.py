"""Hashes of code: what a stage's result depends on besides its parameters and inputs.

Code is hashed as its syntax tree without docstrings, so changes to comments, docstrings and layout
never invalidate results, and changes to anything that runs always do.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
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
