"""Checks a plugin in a process of its own, isolated as a stage of a run is where the system can
(:mod:`bench.engine.isolation`), and with limits: a plugin that hangs, crashes or takes all memory
is a verdict, and this process is as it was.

What it says of itself may still be a lie: the checks run beside it.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bench.checking.limits import MEMORY_MB, SECONDS
from bench.checking.pipe import FILE_BYTES
from bench.checking.verdict import Verdict
from bench.engine.environment import of_a_worker
from bench.engine.isolation import READING, start_reading
from bench.engine.launch import Forked, Process, launch
from bench.errors import UserError, no_file
from bench.plugin_file import belongings
from bench.registry import installed_roots
from bench.text import one_line

#: The time limit for starting: what is ours is imported before the plugin's clock starts.
START_SECONDS = 300.0
#: What a plugin may print.
OUTPUT_BYTES = 2**20
#: How much longer a busy machine may make it: a plugin can make it busy itself.
MOST_WAITED = 4
#: The largest limits: a week, and a terabyte.
_LONGEST, _MOST_MB = 604_800.0, 2**20
#: The child's messages: more, or longer ones, are not its own.
MESSAGES, MESSAGE_BYTES = 10_000, 2**16
#: How often its memory is looked at, at most: of a fork, whose pages have to be counted, of others.
FORK_SECONDS, LOOK_SECONDS = 1.0, 0.1
_MARK = "CASTLEWALLS_CHECK"
_COMMAND = ("-m", "bench.checking.child")
_LIMITS = replace(READING, disk=FILE_BYTES, scratch=2**28)
_ENDS = Verdict(check="runs_to_the_end", title="it ends within the limits of time and memory")


@dataclass
class Checked:
    """One plugin and what was said of it."""

    name: str
    group: str = ""
    family: str = ""
    label: str = ""
    source: str = ""
    verdicts: list[Verdict] = field(default_factory=list)

    @classmethod
    def from_json(cls, texts: Mapping[str, Any]) -> Checked:
        """From all fields but the verdicts. Raises ``TypeError`` for what is none of them."""
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("a plugin's fields must be texts")
        return cls(**texts)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(verdict.failed for verdict in self.verdicts)


@dataclass
class Report:
    """All that was checked. ``seconds``: of the plugin; ``peak_memory``: bytes, of its process."""

    plugins: list[Checked] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory: int = 0

    @property
    def passed(self) -> bool:
        """Whether there is a plugin, and no check of it failed."""
        return bool(self.plugins) and not any(one.failed for one in self.plugins)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        plugins = [
            vars(one)
            | {"passed": not one.failed}
            | {"verdicts": [verdict.to_json() for verdict in one.verdicts]}
            for one in self.plugins
        ]
        return {
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": self.peak_memory,
            "plugins": plugins,
        }


def check(
    name_or_file: str,
    params: Mapping[str, Any] | None = None,
    *,
    seconds: float = SECONDS,
    memory_mb: int = MEMORY_MB,
    on_plugin: Callable[[Checked], None] = lambda plugin: None,
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> Report:
    """Checks the plugin of that name, or those of a file, or of a folder with one module.

    ``params``: in place of the defaults. ``on_plugin``, ``on_verdict``: called as they come.
    Raises :class:`~bench.errors.UserError` for a name or a file that is not there, or parameters
    that cannot be.
    """
    if not (0 < seconds <= _LONGEST and 0 < memory_mb <= _MOST_MB):
        raise UserError(
            f"the limits must be above 0 and at most {_LONGEST:g} seconds and {_MOST_MB} MB, got "
            f"{seconds:g} seconds and {memory_mb} MB"
        )
    file = file_of(name_or_file)
    request = {
        "name": "" if file else name_or_file,
        "file": "" if file is None else str(file),
        "params": dict(params or {}),
        "memory": memory_mb * 2**20,
        "token": secrets.token_hex(16),
    }
    with _started(request) as child:
        conversation = _Conversation(child, seconds, memory_mb, on_plugin, on_verdict)
        conversation.run()
    return conversation.report


def file_of(name_or_file: str) -> Path | None:
    """The file that is named, resolved; ``None`` if it is a plugin's name. Raises
    :class:`~bench.errors.UserError` for one that is not there.
    """
    path = Path(name_or_file)
    if path.is_dir():
        modules = [
            one
            for one in sorted(path.glob("*.py"))
            if not one.name.startswith(("test_", "conftest", "setup"))
        ]
        if len(modules) != 1:
            raise UserError(
                f"{name_or_file}: a folder must hold one module, got {len(modules)}; name the file"
            )
        return modules[0].resolve()
    if path.suffix == ".py" or len(path.parts) > 1 or path.is_file():
        if not path.is_file():
            raise UserError(f"{name_or_file}: {no_file(path)}")
        if path.suffix != ".py":
            raise UserError(f"{name_or_file}: a plugin must be a Python file, NAME.py")
        return path.resolve()
    return None


@dataclass
class _Child:
    process: Process
    messages: int
    token: str


@contextmanager
def _started(request: dict[str, Any]) -> Iterator[_Child]:
    """The guard and, below it, the plugin's process, in a folder of their own; all of it ends with
    the block.
    """
    reading, writing = os.pipe()
    file = request["file"]
    files = [Path(file), *belongings(Path(file))] if file else installed_roots()
    # The child holds itself to the memory that was asked for once what is ours is imported.
    limits = replace(_LIMITS, memory=max(_LIMITS.memory, request["memory"]))
    with tempfile.TemporaryDirectory(prefix="castlewalls-check-") as scratch:
        environment = of_a_worker(1) | {_MARK: request["token"]}
        config = start_reading(_COMMAND, environment, scratch, files, limits)
        process = launch(config, environment, stderr=subprocess.STDOUT, descriptors=[writing])
        try:
            os.close(writing)
            assert process.stdin is not None and process.stdout is not None
            line = json.dumps(request | {"descriptor": writing}) + "\n"
            process.stdin.write(line.encode())
            process.stdin.flush()
            yield _Child(process, reading, request["token"])
        finally:
            _end(process, request["token"])
            os.close(reading)


def _end(process: Process, token: str) -> None:
    """Ends the process, its group, and whatever else bears the mark."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in psutil.process_iter():
        with suppress(psutil.Error):
            if other.pid != os.getpid() and other.environ().get(_MARK) == token:
                other.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.wait()


class _Conversation:
    """What the child says, until it has said all, or a limit is reached."""

    def __init__(
        self,
        child: _Child,
        seconds: float,
        memory_mb: int,
        on_plugin: Callable[[Checked], None],
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self.child, self.seconds, self.memory_mb = child, seconds, memory_mb
        self.on_plugin, self.on_verdict = on_plugin, on_verdict
        self.report = Report()
        self.during = "it was imported"
        self.deadline = time.monotonic() + START_SECONDS
        self.ready_at: float | None = None
        self.looked = 0.0
        self.finished = False
        self.code: int | None = None
        self.printed, self.tail, self.pending, self.messages = 0, b"", b"", 0
        self.foreign = False

    def run(self) -> None:
        """Raises :class:`UserError` for what the child refuses."""
        stdout = self.child.process.stdout
        assert stdout is not None
        reached = ""
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.messages, selectors.EVENT_READ, self._hear)
            selector.register(stdout.fileno(), selectors.EVENT_READ, self._drain)
            while not (self.finished or reached or self.code is not None):
                for key, _ in selector.select(0.1):
                    data = os.read(key.fd, MESSAGE_BYTES)
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fd)
                if self.child.process.poll() is not None and self.code is None:
                    self.code = self.child.process.returncode
                reached = self._limit_reached()
        self._conclude(reached)

    def _drain(self, data: bytes) -> None:
        self.printed += len(data)
        self.tail = (self.tail + data)[-2000:]

    def _hear(self, data: bytes) -> None:
        *lines, self.pending = (self.pending + data).split(b"\n")
        if len(self.pending) > MESSAGE_BYTES:
            self.foreign, self.pending = True, b""
        for line in lines:
            self.messages += 1
            try:
                message = json.loads(line)
                own = message["token"] == self.child.token and self.messages <= MESSAGES
            except (ValueError, TypeError, KeyError, RecursionError):
                own = False
            try:  # the plugin can read the token, and say what makes no sense
                own = own and self._understand(message)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                own = False
            self.foreign = self.foreign or not own

    def _understand(self, message: dict[str, Any]) -> bool:
        """What the child's own checks say; whether they can have said it."""
        if "refused" in message:
            raise UserError(one_line(str(message["refused"]), 1000))
        if "ready" in message:
            self.ready_at = time.monotonic()
            self.deadline = self.ready_at + self.seconds
        elif "plugin" in message:
            # The file, until it is known which plugins are in it.
            if self.report.plugins and not self.report.plugins[-1].verdicts:
                self.report.plugins.pop()
            self.report.plugins.append(Checked.from_json(message["plugin"]))
        elif "verdict" in message:
            self._add(Verdict.from_json(message["verdict"]))
        elif "check" in message:
            self.during = str(message["title"])
        elif "finished" in message:
            seconds, peak = message["seconds"], message["peak"]
            if not (0 <= seconds < _LONGEST and isinstance(peak, int) and 0 <= peak < 2**62):
                return False
            self.finished, self.report.seconds, self.report.peak_memory = True, seconds, peak
        elif "ended" in message:
            self.code = int(message["ended"])
        return True

    def _add(self, verdict: Verdict) -> None:
        plugin = self.report.plugins[-1]
        if not plugin.verdicts:
            self.on_plugin(plugin)
        plugin.verdicts.append(verdict)
        self.on_verdict(verdict)

    def _limit_reached(self) -> str:
        """Which limit, in words; empty if none."""
        limit = START_SECONDS if self.ready_at is None else self.seconds
        over = time.monotonic() - self.deadline
        if over > 0 and over > min(_waited(self.child.process.pid), limit * MOST_WAITED):
            return f"an end within {limit:g} s, got none"
        now, limit_bytes = time.monotonic(), self.memory_mb * 2**20
        forked = isinstance(self.child.process, Forked)
        if now < self.looked + (FORK_SECONDS if forked else LOOK_SECONDS):
            return ""
        self.looked = now
        try:
            used = _memory(self.child.process, limit_bytes)
        except psutil.Error:
            return ""
        self.report.peak_memory = max(self.report.peak_memory, used)
        if used > limit_bytes:
            return f"at most {self.memory_mb} MB of memory, got {used >> 20} MB"
        return ""

    def _conclude(self, reached: str) -> None:
        """The last verdict: how it ended."""
        if not self.report.plugins:
            last = self.tail.decode(errors="replace").strip().splitlines()[-1:]
            why = one_line("".join(last)) or reached or f"it says nothing ({self._how()})"
            raise UserError(f"the check's own process did not start: {why}")
        if self.ready_at is not None and not self.finished:
            self.report.seconds = time.monotonic() - self.ready_at
        came, mend = self._what_came(reached)
        measured = f"{self.report.seconds:.1f} s, {self.report.peak_memory >> 20} MB"
        if came:
            self._add(replace(_ENDS, status="failed", message=f"expected {came}", mend=mend))
        else:
            limits = f"limits {self.seconds:g} s and {self.memory_mb} MB"
            self._add(replace(_ENDS, message=f"{measured} ({limits})"))

    def _how(self) -> str:
        """How the process ended."""
        code = self.code or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _what_came(self, reached: str) -> tuple[str, str]:
        """What was expected and what came instead, and how to mend it; empty if all is well."""
        during = f"while this was checked: {self.during}"
        if reached:
            return f"{reached} {during}", (
                "find what does not end; if the method needs long, lower its parameters "
                "(--params) or raise the limit (--timeout, --memory)"
            )
        if not self.finished:
            return f"a process that lives to the end, got {self._how()} {during}", (
                "raise an error instead of ending the process; a signal comes from compiled code, "
                "or from the plugin itself"
            )
        if self.foreign:
            return "nothing on descriptors that are not the plugin's, got lines of it there", (
                "write to what you have opened, and nowhere else"
            )
        if self.printed > OUTPUT_BYTES:
            return f"at most {OUTPUT_BYTES >> 20} MB of output, got {self.printed >> 20} MB", (
                "print less: access.progress and access.remark are for what others should know"
            )
        return "", ""


def _tree(pid: int) -> list[psutil.Process]:
    """A process and all below it. Raises ``psutil.Error`` if it is gone."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _waited(pid: int) -> float:
    """For how many seconds a process, or one below it, was ready and got no core, where the system
    can tell (Linux): a busy machine's time, not the plugin's.
    """
    waited = 0.0
    with suppress(psutil.Error):
        for process in _tree(pid):
            with suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/{process.pid}/schedstat").read_text()
                waited = max(waited, int(text.split()[1]) / 1e9)
    return waited


def _memory(process: Process, enough: int) -> int:
    """Bytes of a process and all below it. Forked ones share most of theirs, so beyond ``enough``,
    or where the first is a fork itself, each page counts once where the system can tell (Linux),
    which takes longer to ask.
    """
    processes = _tree(process.pid)
    used = sum(one.memory_info().rss for one in processes)
    if used > enough or isinstance(process, Forked):
        full = [one.memory_full_info() for one in processes]
        used = sum(getattr(memory, "pss", memory.rss) for memory in full)
    return int(used)
