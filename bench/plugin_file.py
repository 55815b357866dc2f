"""A third party's plugin file: imported with care, together with everything beside it that decides
what it does.

A plugin's result is kept under a hash of its code, so all of that code, and the files it reads,
must be in the hash: the modules and packages beside it that it imports, the files beside it that
its text names, those it opens while it is imported, and those its card lists. What it opens later
and is in none of these is found by :class:`Watch`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from bench.errors import UserError
from bench.text import one_line, said_by

ROOT = Path(__file__).resolve().parents[1]
#: Where code of ours lies: what is opened from there was not opened by a plugin.
OURS = tuple(
    f"{ROOT / room}{os.sep}"
    for room in ("bench", "attacks", "defenses", "detectors", "leaderboard")
)
SAY_AFTER_SECONDS = 5.0
#: How long a plugin file may take to be imported, once our own packages are.
IMPORT_SECONDS = 300.0
_PROBE = "import sys; from bench import plugin_file as f; f.probe_here(sys.argv[1])"
_BEGUN, _WHOLE = "castlewalls: importing", "castlewalls: imported"


@dataclass(frozen=True)
class Source:
    """Where a third party's plugin comes from: ``file``, or an entry point's ``group`` and
    ``name``; and what belongs to it.

    ``hashes``: SHA-256 by path, of everything that decides what it does (:func:`belongings`).
    """

    file: str = ""
    group: str = ""
    name: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


def import_file(path: Path) -> ModuleType:
    """The module at ``path``, imported once a process. Raises :class:`UserError` in one line if it
    cannot be.
    """
    if not path.is_file():
        raise UserError(f"--plugin {path}: there is no such file")
    # With its text in the name: one that was edited is another module, in a process that goes on (a
    # notebook).
    content = hashlib.sha256(os.fsencode(path) + path.read_bytes()).hexdigest()
    name = f"castlewalls_plugin_{path.stem}_{content[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the class is being made
    try:
        with Watch(path.parent) as watch, saying(f"importing {path}"):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise UserError(f"--plugin {path} cannot be imported: {what_happened(error)}") from error
    _opened[path] = watch.read
    return module


_opened: dict[Path, set[Path]] = {}
#: Who is told that an import takes long; standard error where nobody is.
tell: list[Callable[[str], None]] = [
    lambda text: print(f"castlewalls: {text}", file=sys.stderr, flush=True)
]


def what_happened(error: BaseException) -> str:
    """An exception in one line; of ``sys.exit``, that it was one."""
    if isinstance(error, SystemExit):
        return (
            f"it ends the process (SystemExit: {one_line(str(error.code), 80)}); keep a "
            f"script's part under `if __name__`"
        )
    words = said_by(error)
    return type(error).__name__ if words is None else one_line(f"{type(error).__name__}: {words}")


@contextmanager
def saying(what: str, seconds: float = SAY_AFTER_SECONDS) -> Iterator[None]:
    """Says what takes so long, once."""
    timer = threading.Timer(seconds, lambda: tell[-1](what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# --- a first import, in a process that may be lost ------------------------------------------------


def probe(path: Path) -> None:
    """Imports a plugin file in a child first: one that ends its process, or never comes back, is
    one line.

    Raises :class:`UserError`. Once a process for each text of a file.
    """
    if not path.is_file() or (path, path.stat().st_mtime_ns) in _probed:
        return
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    }
    with (
        subprocess.Popen(
            [sys.executable, "-c", _PROBE, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        ) as child,
        saying(f"importing {path}"),
    ):
        said = _words_of(child)
    # a refusal is said again, and better, by this process
    if _WHOLE in said or "castlewalls: refused" in said:
        _probed.add((path, path.stat().st_mtime_ns))
        return
    if child.returncode == -9 and _BEGUN in said:
        raise UserError(
            f"--plugin {path} cannot be imported: it took longer than {IMPORT_SECONDS:g} s"
        )
    how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    raise UserError(f"--plugin {path} cannot be imported: it ends the process ({how})")


_probed: set[tuple[Path, int]] = set()


def _words_of(child: subprocess.Popen[bytes]) -> str:
    """What the child said on standard output until it ended; it is ended when the import takes too
    long.
    """
    assert child.stdout is not None
    words: list[bytes] = []
    said = child.stdout
    reader = threading.Thread(target=lambda: words.extend(iter(said.readline, b"")), daemon=True)
    reader.start()
    deadline: float | None = None
    while child.poll() is None:
        if deadline is None and any(_BEGUN.encode() in line for line in words):
            deadline = time.monotonic() + IMPORT_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
        time.sleep(0.02)
    reader.join(timeout=1.0)  # a child of its own may hold the pipe
    return b"".join(words).decode(errors="replace")


def probe_here(name: str) -> None:
    """The child's part of :func:`probe`."""
    import bench.plugin  # noqa: F401 - so that only the plugin's own time counts

    print(_BEGUN, flush=True)
    tell.append(lambda text: None)
    try:
        import_file(Path(name))
    except UserError:
        print("castlewalls: refused", flush=True)
    else:
        print(_WHOLE, flush=True)
    os._exit(0)  # whatever threads it has started


# --- what belongs to a plugin ---------------------------------------------------------------------


def belongings(path: Path, declared: Iterable[str] = ()) -> list[Path]:
    """Every file that decides what the plugin at ``path`` does, resolved and sorted. ``declared``:
    its card's ``files``.

    Raises :class:`UserError` for a declared file that is not there.
    """
    path = path.resolve()
    found = {*_named(path), *(file for file in _opened.get(path, ()) if file.is_file())}
    for name in declared:
        place = (path.parent / name).expanduser().resolve()
        if not place.exists():
            raise UserError(f"{path.name}: its card's files must be there, and {place} is not")
        found.update(_files_below(place) if place.is_dir() else [place])
    return sorted(found)


def package_files(module: ModuleType) -> list[Path]:
    """The files of an installed plugin: its whole top-level package, or what its one module
    names.
    """
    top = sys.modules[module.__name__.partition(".")[0]]
    folders = [Path(folder).resolve() for folder in getattr(top, "__path__", ())]
    if folders:
        return sorted(path for folder in folders for path in _files_below(folder))
    return belongings(Path(str(top.__file__)))


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file's bytes, by its path; ``"missing"`` of one that is gone."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        for path in files
    }


def check(said: Mapping[str, str]) -> None:
    """Raises :class:`UserError` if a file is not what :func:`hashes` found when the run was
    planned.
    """
    now = hashes(Path(name) for name in said)
    changed = [name for name, value in said.items() if now[name] != value]
    if changed:
        raise UserError(
            f"{changed[0]} was changed after this run was planned; run the same command again"
        )


def _files_below(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]


def _named(path: Path) -> set[Path]:
    """A Python file, the modules and packages beside it that it imports, and the files beside it
    that its text names.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found.add(file)
        if file.suffix != ".py":
            continue
        try:
            tree = ast.parse(file.read_bytes(), str(file))
        except (SyntaxError, ValueError):  # not its importer's business here
            continue
        for place in (file.parent, path.parent):
            for name in _imported(tree):
                parts = name.split(".")
                waiting += [
                    place.joinpath(*parts).with_suffix(".py"),
                    place.joinpath(*parts[:-1], f"{parts[-1]}.py"),
                ]
                folder = place / parts[0]
                if parts[0] and (folder / "__init__.py").is_file():
                    waiting += folder.rglob("*.py")
            waiting += _texts(tree, place)
    return {file.resolve() for file in found}


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


def _texts(tree: ast.AST, place: Path) -> list[Path]:
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
    folders = [place, *(place / text for text in texts if (place / text).is_dir())]
    return [folder / text for folder in folders for text in texts if (folder / text).is_file()]


class Watch:
    """Which files below ``folder`` a plugin's code opens to read, while the block runs:
    :attr:`read`, resolved.

    A file counts as opened by the plugin if the nearest code of ours or of that folder on the stack
    is the folder's. What C and Rust libraries open by themselves (safetensors) is not seen. Files
    that were written here first are the plugin's own.
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
        """A file is being opened; ``frame``: by whom."""
        try:
            path = os.path.abspath(os.fsdecode(name))
        except (TypeError, ValueError):
            return
        if not path.startswith(self.folder) or path.startswith(_INSTALLED):
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
                # An import of this module's own is the plugin's.
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
