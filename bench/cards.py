"""What third parties' plugins are, without their code in this process: what plans a run, lists,
shows and writes the board imports no submitted plugin.

Each plugin file, and each installed package of plugins, is imported by a process of its own
(:mod:`bench.card_child`), isolated as a run isolates it (:mod:`bench.engine.isolation`). What that
process says crosses as JSON and is checked as a stranger's (:mod:`bench.stand_in`). One that hangs,
ends, floods or says nonsense is an error of one line.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from bench import plugin_file
from bench.contracts.plugin import Plugin
from bench.engine.environment import of_a_worker
from bench.engine.fingerprint import canonical
from bench.engine.isolation import READING, beyond, private, start_reading, support
from bench.engine.launch import Process, launch
from bench.engine.slots import MARK, kill_marked
from bench.errors import UserError, no_file
from bench.names import brief
from bench.plugin_file import belongings, package_files, package_roots, saying
from bench.registry import Registry
from bench.stand_in import stand_in
from bench.text import one_line

#: Time limits: for starting, for importing a plugin, and for any other answer.
START_SECONDS, IMPORT_SECONDS, ANSWER_SECONDS = 300.0, 300.0, 60.0
#: The largest answer, its greatest depth, and the most files that an import may open.
ANSWER_BYTES, DEEPEST, MOST_FILES = 2**22, 40, 10_000
POLL_SECONDS = 0.3


class Cards(Registry):
    """A registry in which third parties' plugins are stand-ins. Its processes end with
    :meth:`close`; another question starts them again.
    """

    def __init__(
        self, plugin_files: Iterable[str | Path] = (), only: Iterable[tuple[str, str]] | None = None
    ) -> None:
        self._rooms: dict[str, Room] = {}
        self._made: dict[tuple[str, str], tuple[str, type[Plugin]]] = {}
        self._packages: dict[type[Plugin], set[str]] = {}
        try:
            super().__init__(plugin_files, only)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the plugins' processes."""
        for room in self._rooms.values():
            room.close()

    def _classes_in(self, path: Path) -> list[type[Plugin] | str]:
        if not path.is_file():
            raise UserError(f"--plugin {path}: {no_file(path)}")
        room = self._room(str(path), f"--plugin {path}", path)
        with saying(f"importing {path}"):
            data = room.imported({"file": str(path)})
        with _named(f"--plugin {path}"):
            if not isinstance(data, dict) or set(data) != {"opened", "classes"}:
                raise UserError(f"it must say classes and files, got {brief(data)}")
            plugin_file.opened[path] = set(_opened(path, data["opened"]))
            return [self._stand_in(room, one, path) for one in _list(data["classes"])]

    def _classes_of(self, entry: EntryPoint) -> list[type[Plugin] | str]:
        package = entry.value.partition(":")[0].partition(".")[0].strip()
        where = package_roots(package)
        room = self._room(f"package {package}", f"the plugins of {package}", where)
        data = room.imported({"entry": [entry.name, entry.value, entry.group]})
        try:
            files = package_files(package)
            classes = [self._stand_in(room, one, _file_of(one, files)) for one in _list(data)]
        except (UserError, ValueError, ImportError, AssertionError, IndexError) as error:
            raise UserError(f"cannot be read: {one_line(str(error))}") from error
        for cls in classes:
            if not isinstance(cls, str):
                self._packages.setdefault(cls, set()).add(package)
        return classes

    def _installed_files(self, cls: type[Plugin]) -> list[Path]:
        files = {path for package in self._packages[cls] for path in package_files(package)}
        return sorted(files)

    def _room(self, name: str, subject: str, path: Path | list[Path]) -> Room:
        return self._rooms.setdefault(name, Room(subject, path))

    def _stand_in(self, room: Room, data: Any, source: Path) -> type[Plugin] | str:
        """The same class for the same words: two entry points may name one."""
        if isinstance(data, dict) and set(data) == {"fault"}:
            return one_line(str(data["fault"]))
        key, text = str(data["key"] if isinstance(data, dict) and "key" in data else ""), repr(data)
        known = self._made.get((room.subject, key))
        if known is None or known[0] != text:
            cls = stand_in(data, room.ask, source, self._inversion)
            known = self._made[room.subject, key] = text, cls
        return known[1]

    def _inversion(self, name: str, params: Mapping[str, Any]) -> Plugin:
        return self.build("defenses", name, params)


_read: list[Cards] = []


def read_cards(plugin_files: Iterable[str | Path] = ()) -> Cards:
    """The registry to plan with; made again only if the arguments or the files change."""
    files = tuple(str(Path(path).resolve()) for path in plugin_files)
    state = files, None, tuple(plugin_file.hashes(map(Path, files)).items())
    if not _read or _read[0].state != state:
        _read[:] = [Cards(files)]
    return _read[0]


@contextmanager
def _named(subject: str) -> Iterator[None]:
    """Errors about what a plugin's process said begin with ``subject``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}: {one_line(str(error))}") from error


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise UserError(f"it must say what its classes are, got {brief(data)}")
    return data


def _file_of(data: Any, files: list[Path]) -> Path:
    """The file that defines a class, by the name of its module; for people only."""
    key = data.get("key") if isinstance(data, dict) else None
    module = tuple(key.partition(":")[0].split(".")) if isinstance(key, str) else ()
    for path in files:
        parts = path.with_suffix("").parts
        if parts[-len(module) :] == module or parts[-len(module) - 1 :] == (*module, "__init__"):
            return path
    return files[0]


def _opened(path: Path, data: Any) -> Iterator[Path]:
    """The files that an import opened: of the plugin's folder, and not what is private there."""
    hidden = private(str(path.parent))
    files = _list(data)
    if len(files) > MOST_FILES:
        raise UserError(f"it must open at most {MOST_FILES} files, got {len(files)}")
    for name in files:
        if not isinstance(name, str) or "\0" in name:
            raise UserError(f"a file must be a path, got {brief(name)}")
        file = Path(os.path.normpath(name))
        if path.parent not in file.parents or any(
            str(file) == one or str(file).startswith(f"{one}{os.sep}") for one in hidden
        ):
            raise UserError(f"a file that it opens must lie in its folder, got {brief(name)}")
        yield file


class Room:
    """The process that imports the plugins of one file, or of one package. ``subject``: how errors
    name it; ``path``: the file, or where the package is.
    """

    def __init__(self, subject: str, path: Path | list[Path]) -> None:
        self.subject, self.path = subject, path
        self.process: Process | None = None
        self.first: Mapping[str, Any] | None = None
        self.entries: list[Mapping[str, Any]] = []
        self.answers: dict[str, Any] = {}
        self.buffer, self.ready = b"", False

    def imported(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question after which classes can be asked for. Raises
        :class:`UserError`.
        """
        if question not in self.entries:
            self.entries.append(question)
        try:
            return self._put(question, IMPORT_SECONDS)
        except ValueError as error:
            raise UserError(str(error)) from error
        except _Ended as error:
            self.close()
            prefix = f"{self.subject} " if isinstance(self.path, Path) else ""
            raise UserError(f"{prefix}cannot be imported: {error}") from None

    def ask(self, question: Mapping[str, Any]) -> Any:
        """The answer to any other question. Raises ``ValueError`` with what the plugin refuses,
        and :class:`UserError` where there is no answer.
        """
        known = canonical(question)
        if known not in self.answers:
            if self.process is None:
                for one in self.entries:
                    self.imported(one)
            try:
                self.answers[known] = self._put(question, ANSWER_SECONDS)
            except _Ended as error:
                self.close()
                raise UserError(f"{self.subject}: asked what it is, {error}") from None
        return self.answers[known]

    def _put(self, question: Mapping[str, Any], seconds: float) -> Any:
        if self.process is None:
            self._start()
        self._send(json.dumps(question).encode() + b"\n", seconds)
        data = self._answer(seconds)
        if set(data) == {"answer"}:
            return data["answer"]
        if set(data) == {"refused"} and isinstance(data["refused"], str):
            raise ValueError(one_line(data["refused"]))
        raise _Ended(f"it must answer, got {brief(data)}")

    def _start(self) -> None:
        self.scratch = tempfile.mkdtemp(prefix="castlewalls-card-")
        self.mark, self.buffer = f"{os.getpid()}-{uuid.uuid4().hex}", b""
        self.ready = False
        environment = of_a_worker(1) | {MARK: self.mark}
        path = self.path
        files = [path, *belongings(path)] if isinstance(path, Path) else path
        config = start_reading(["-m", "bench.card_child"], environment, self.scratch, files)
        self.errors = tempfile.TemporaryFile()  # of its start: a plugin's own go nowhere
        self.process = launch(config, environment, stderr=self.errors)
        self.end = weakref.finalize(self, _end, self.process, self.mark, self.scratch)
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self._answer(START_SECONDS)  # so that a plugin's time is its own
        self.ready = True

    def close(self) -> None:
        """Ends the process, and every other that it has started."""
        if self.process is not None:
            self.process = None
            self.end()

    def _send(self, data: bytes, seconds: float) -> None:
        assert self.process is not None and self.process.stdin is not None
        deadline, descriptor = time.monotonic() + seconds, self.process.stdin.fileno()
        while data:
            _, writable, _ = select.select([], [descriptor], [], POLL_SECONDS)
            if not writable:
                self._check(deadline, seconds)
                continue
            try:
                data = data[os.write(descriptor, data) :]
            except BrokenPipeError:
                raise _Ended(self._how_it_ended()) from None

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        deadline, descriptor = time.monotonic() + seconds, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if len(self.buffer) > ANSWER_BYTES:
                raise _Ended(f"it says more than {ANSWER_BYTES >> 20} MB")
            readable, _, _ = select.select([descriptor], [], [], POLL_SECONDS)
            if not readable:
                self._check(deadline, seconds)
                continue
            block = os.read(descriptor, 2**16)
            if not block:
                raise _Ended(self._how_it_ended())
            self.buffer += block
            if time.monotonic() > deadline:
                self._check(deadline, seconds)
        line, _, self.buffer = self.buffer.partition(b"\n")
        if self.buffer:
            raise _Ended("it says more than it was asked")
        data: Any = None
        with suppress(ValueError, RecursionError):
            data = json.loads(line)
        if not isinstance(data, dict) or _depth(data) > DEEPEST:
            raise _Ended(f"it must answer in JSON, got {one_line(repr(line[:80]))}")
        return data

    def _check(self, deadline: float, seconds: float) -> None:
        assert self.process is not None
        if time.monotonic() > deadline:
            raise _Ended(f"it took longer than {seconds:g} s")
        if self.process.poll() is not None:
            raise _Ended(self._how_it_ended())
        if over := beyond(self.process.pid, READING):
            raise _Ended(f"it takes {over}")

    def _how_it_ended(self) -> str:
        assert self.process is not None
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)
        code = self.process.poll()
        if code is None:
            return "it closes what it is asked through"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"it ends the process ({': '.join([how, *self._last_words()])})"

    def _last_words(self) -> list[str]:
        """Why it did not start, if it did not."""
        if self.ready:
            return []
        self.errors.seek(0)
        lines = self.errors.read(2**16).decode(errors="replace").strip().splitlines()
        return [one_line(line, 120) for line in lines[-1:]]


class _Ended(Exception):
    """There is no answer, and will be none; why, in words."""


def _end(process: Process, mark: str, scratch: str) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if not support().namespaces:  # else all of them end with the first of their namespace
        kill_marked(mark)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    shutil.rmtree(scratch, ignore_errors=True)


def _depth(value: Any) -> int:
    """How deep lists and objects lie within each other, up to just beyond :data:`DEEPEST`."""
    depth, layer = 0, [value]
    while layer and depth <= DEEPEST:
        depth += 1
        inner = [one.values() if isinstance(one, dict) else one for one in layer]
        layer = [item for one in inner for item in one if isinstance(item, dict | list)]
    return depth
