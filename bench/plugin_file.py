"""Imports a third-party plugin file safely, and determines all files that its behaviour depends on.

A plugin's result is stored under a hash of its code, so the hash must cover all of that code and
the files it reads: neighbouring modules and packages that it imports, neighbouring files named in
its source, files it opens during import, and files listed in its card. :class:`Watch` detects any
other file that it opens later.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from bench.errors import UserError, no_file
from bench.text import message_of, one_line

ROOT = Path(__file__).resolve().parents[1]
#: The folders of our own code: files opened from there were not opened by a plugin.
OURS = tuple(
    f"{ROOT / room}{os.sep}"
    for room in ("bench", "attacks", "defenses", "detectors", "leaderboard")
)
SAY_AFTER_SECONDS = 5.0
#: The time limit for importing a plugin file, not counting our own packages.
IMPORT_SECONDS = 300.0
#: Files beyond so many bytes are no code.
LARGE = 2**24


@dataclass(frozen=True)
class Source:
    """The origin of a third-party plugin: its ``file``, or its entry point's ``group`` and
    ``name``.

    ``hashes``: SHA-256 by path, of every file its behaviour depends on (:func:`belongings`).
    """

    file: str = ""
    group: str = ""
    name: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


def import_file(path: Path) -> ModuleType:
    """The module at ``path``, imported once per process. Raises :class:`UserError`, one line, if it
    cannot be imported.
    """
    if not path.is_file():
        raise UserError(f"--plugin {path}: {no_file(path)}")
    # The name holds a hash of the content, so an edited file is a new module in a long-lived
    # process (a notebook).
    content = hashlib.sha256(os.fsencode(path) + path.read_bytes()).hexdigest()
    name = f"castlewalls_plugin_{path.stem}_{content[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module while the class is created
    try:
        with Watch(path.parent) as watch, saying(f"importing {path}"):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise UserError(f"--plugin {path} cannot be imported: {what_happened(error)}") from error
    opened[path] = watch.read
    return module


#: The files that each plugin file opened while it was imported, here or in a process of its own.
opened: dict[Path, set[Path]] = {}
#: The last one gets the message that an import takes long; the default prints it to stderr.
tell: list[Callable[[str], None]] = [
    lambda text: print(f"castlewalls: {text}", file=sys.stderr, flush=True)
]


def what_happened(error: BaseException) -> str:
    """An exception in one line; ``sys.exit`` is named as such."""
    if isinstance(error, SystemExit):
        return (
            f"it ends the process (SystemExit: {one_line(str(error.code), 80)}); keep a "
            f"script's part under `if __name__`"
        )
    words = message_of(error)
    return type(error).__name__ if words is None else one_line(f"{type(error).__name__}: {words}")


@contextmanager
def saying(what: str, seconds: float = SAY_AFTER_SECONDS) -> Iterator[None]:
    """Reports ``what`` once if the block takes longer than ``seconds``."""
    timer = threading.Timer(seconds, lambda: tell[-1](what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# --- the files of a plugin ------------------------------------------------------------------------


def belongings(path: Path, declared: Iterable[str] = ()) -> list[Path]:
    """Every file that the behaviour of the plugin at ``path`` depends on, resolved and sorted.
    ``declared``: its card's ``files``.

    Raises :class:`UserError` for a declared file that does not exist, or that lies elsewhere than
    below the plugin's own folder: a bundle would carry it, and a stage be shown it.
    """
    path = path.resolve()
    files = {file for name in declared for file in _declared_files(path, name)}
    files |= _local_files(path)
    return sorted({*files, *(file for file in opened.get(path, ()) if file.is_file())})


def _declared_files(path: Path, name: str) -> Iterator[Path]:
    """The file ``name`` of the card of the plugin at ``path``, or those of that folder."""
    listed = (path.parent / name).resolve()
    if not listed.exists():
        raise UserError(f"{path.name}: its card's files must be there, and {listed} is not")
    inside = listed.is_relative_to(path.parent)
    for file in _files_below(listed) if inside and listed.is_dir() else [listed]:
        target = file.resolve()  # what a link leads to
        if not target.is_relative_to(path.parent):
            raise UserError(
                f"{path.name}: its card's files must lie below its own folder, got {one_line(name)}"
            )
        yield target


def package_files(module: str) -> list[Path]:
    """The files of an installed plugin: its whole top-level package, or :func:`belongings` of its
    single module. Imports nothing.
    """
    roots = package_roots(module)
    if not roots:
        raise ImportError(f"there is no package {module}")
    if roots[0].is_dir():
        return sorted(path for folder in roots for path in _files_below(folder))
    return belongings(roots[0])


def package_roots(module: str) -> list[Path]:
    """Where an installed plugin's top-level package is, which for one that is installed to be
    edited is anywhere: its folders, or its single file; empty if it is not there. Imports nothing.
    """
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    return folders or [Path(str(spec.origin)).resolve()]


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file's bytes, by path; ``"missing"`` for one that does not exist."""
    return {str(path): _hash(path) if path.is_file() else "missing" for path in files}


def _hash(path: Path) -> str:
    """Of weights, which take seconds, once for each size and time of modification."""
    state = path.stat()
    if state.st_size <= LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _large_hash(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _large_hash(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check(planned: Mapping[str, str]) -> None:
    """Raises :class:`UserError` if a file has changed since the run was planned. ``planned``: its
    :func:`hashes` then.
    """
    now = hashes(Path(name) for name in planned)
    changed = [name for name, value in planned.items() if now[name] != value]
    if changed:
        raise UserError(
            f"{changed[0]} was changed after this run was planned; run the same command again"
        )


def _files_below(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]


def _local_files(path: Path) -> set[Path]:
    """A Python file, the neighbouring modules and packages that it imports, and the neighbouring
    files named in its source.
    """
    files: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in files or not file.is_file():
            continue
        files.add(file)
        if file.suffix != ".py":
            continue
        try:
            tree = ast.parse(file.read_bytes(), str(file))
        # Importing it will report the error; the last two are of an expression that nests too deep.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for folder in (file.parent, path.parent):
            for name in _imported(tree):
                parts = name.split(".")
                waiting += [
                    folder.joinpath(*parts).with_suffix(".py"),
                    folder.joinpath(*parts[:-1], f"{parts[-1]}.py"),
                ]
                package = folder / parts[0]
                if parts[0] and (package / "__init__.py").is_file():
                    waiting += package.rglob("*.py")
            waiting += _texts(tree, folder)
    return {file.resolve() for file in files}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (
                name
                for name in (module, *(f"{module}.{alias.name}".strip(".") for alias in node.names))
                if name
            )


def _texts(tree: ast.AST, folder: Path) -> list[Path]:
    """Files below ``place`` that strings of a program name: ``"weights.safetensors"``, or
    ``"data"`` and ``"table.npz"``.
    """
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and 0 < len(node.value) < 200
    }
    texts = {
        text
        for text in texts
        if text.isprintable() and ".." not in text and not text.startswith(("/", "~", "."))
    }
    folders = [folder, *(folder / text for text in texts if (folder / text).is_dir())]
    named = [root / text for root in folders for text in texts if (root / text).is_file()]
    if out := [path for path in named if not path.resolve().is_relative_to(folder.resolve())]:
        raise UserError(
            f"{one_line(out[0].name)} is a link that leads out of the plugin's folder: copy the "
            f"file there"
        )
    return named


class Watch:
    """Records in :attr:`read` the files below ``folder``, resolved, that a plugin's code opens for
    reading while the block runs.

    A file counts as opened by the plugin if the innermost frame on the stack that is ours or the
    folder's is the folder's. Files that C and Rust libraries (safetensors) open themselves are not
    seen. Files that were first written within the block do not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = f"{folder.resolve()}{os.sep}"
        self.read: set[Path] = set()
        self.written: set[str] = set()

    def __enter__(self) -> Watch:
        if not _hooked:
            _hooked.append(True)
            sys.addaudithook(_hook)
        _watching.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _watching.remove(self)

    def saw(self, name: Any, flags: int, frame: FrameType | None) -> None:
        """A file is being opened. ``frame``: the innermost frame of the code that opens it."""
        try:
            path = os.path.abspath(os.fsdecode(name))
        except (TypeError, ValueError):
            return
        if not path.startswith(self.folder) or path.startswith(_INSTALLED):
            return
        # Whoever looks for packages tries every entry, those that are no path too.
        if name in sys.path and not os.path.exists(path):
            return
        if flags & (os.O_WRONLY | os.O_CREAT):
            self.written.add(path)
        elif path not in self.written and self._by_plugin(frame):
            source = path
            if path.endswith(".pyc"):
                try:
                    source = importlib.util.source_from_cache(path)
                except ValueError:
                    return
            self.read.add(Path(source).resolve())

    def _by_plugin(self, frame: FrameType | None) -> bool:
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(OURS):
                # Our own import of the plugin file counts as the plugin's.
                return name == __file__ and frame.f_code.co_name == "import_file"
            if name.startswith(self.folder) and not name.startswith(_INSTALLED):
                return True
            frame = frame.f_back
        return False


_watching: list[Watch] = []
_hooked: list[bool] = []
_INSTALLED = tuple(
    {f"{Path(prefix)}{os.sep}" for prefix in (sys.prefix, sys.base_prefix)} | set(OURS)
)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching:
        name, _, flags = arguments
        for watch in _watching:
            watch.saw(name, flags or 0, sys._getframe(1))
