"""Starts a process that runs a third party's plugin, isolated as its configuration says
(:mod:`bench.engine.isolation`).

Each is a Python of its own, which spends seconds on importing torch and diffusers. Once a process
has started :data:`FIRST` of them, it starts a :mod:`bench.engine.forkserver` beside, and from the
moment at which that has imported all there is, it forks them. What such a process may see and use
is the same, and so are its results: it differs in what it has imported already.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Protocol

from bench.engine.environment import UNWRITTEN, cleared, hub_home, of_a_worker
from bench.engine.fingerprint import ROOT
from bench.engine.forkserver import CLONE, IMPORTED, MESSAGE_BYTES, READY
from bench.engine.namespaces import encode

#: How many are started anew before it pays to have a fork server.
FIRST = 3
#: One that may take less memory is started anew: it would have all that the fork server imported.
LEAST_MEMORY = 2**31
#: How long the fork server may take to fork.
_FORK_SECONDS = 30.0
_POLL_SECONDS = 0.005
#: Variables that may differ: nothing reads them when it is imported, or what does is offline.
_PASSING = (
    *("CASTLEWALLS_", "PYTEST_CURRENT_TEST", "CUDA_VISIBLE_DEVICES"),
    *("HOME", "TMPDIR", "HF_HOME", "HF_HUB_OFFLINE", "PWD", "OLDPWD", "SHLVL"),
)
#: pyarrow's allocator has a thread of its own unless it is told not to.
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    returncode: Any

    def poll(self) -> int | None:
        """How it ended, below 0 by a signal; ``None`` if it has not."""

    def wait(self, timeout: float | None = None) -> int:
        """As :meth:`poll`, once it has ended. Raises ``subprocess.TimeoutExpired``."""

    def kill(self) -> None:
        """Sends it SIGKILL."""


class Forked:
    """A child of this process that the fork server has made."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self.returncode: Any = None
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """As :meth:`Process.poll`."""
        with self._waiting:
            if self.returncode is None:
                try:
                    ended, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has waited for it
                    ended, status = self.pid, 0
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As :meth:`Process.wait`."""
        deadline, pause = None if timeout is None else time.monotonic() + timeout, _POLL_SECONDS
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                assert timeout is not None
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return code

    def kill(self) -> None:
        """As :meth:`Process.kill`."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class _Server:
    """A running fork server of this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.ready, self.home = False, tempfile.mkdtemp(prefix="castlewalls-fork-")
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.engine.forkserver", str(theirs.fileno()), self.home],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**environment, "HOME": self.home, "TMPDIR": self.home},
                cwd=ROOT,
                start_new_session=True,
            )

    def can_fork(self) -> bool:
        """Whether it has imported all there is. Does not wait."""
        if not self.ready:
            self.channel.setblocking(False)
            with suppress(OSError):
                self.ready = self.channel.recv(MESSAGE_BYTES) == READY
            self.channel.settimeout(_FORK_SECONDS)
        return self.ready

    def fork(self, descriptors: Mapping[int, int]) -> int:
        """The process id of a fork that has ``descriptors`` (number -> one of this process). Raises
        ``OSError`` or ``ValueError`` if there is none.
        """
        numbers = json.dumps(list(descriptors)).encode()
        socket.send_fds(self.channel, [numbers], list(descriptors.values()))
        return int(self.channel.recv(MESSAGE_BYTES))

    def end(self) -> None:
        """Ends it; its forks are not its children."""
        self.channel.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


class _Launcher:
    """The fork server of this process, if it has one, and how many were started without it."""

    def __init__(self) -> None:
        self.process, self.started = os.getpid(), 0
        self.key: dict[str, str] = {}
        self.server: _Server | None = None
        self.lock = threading.Lock()

    def forked(self, config: Mapping[str, Any], descriptors: Mapping[int, int]) -> int | None:
        """The process id of a fork that has ``descriptors`` (number -> one of this process), if
        it may be one, and there is a fork server for it by now.
        """
        if not _may_fork(config):
            return None
        with self.lock:
            key = _lasting(config["environment"])
            if self.key != key:
                self.close()
                self.key, self.started = key, 0
            self.started += 1
            if self.server is None and self.started == FIRST:
                self.server = _Server(_of_a_server())
            if self.server is None or not self.server.can_fork():
                return None
            try:
                return self.server.fork(descriptors)
            except (OSError, ValueError):
                self.close()  # and none is started again
                return None

    def close(self) -> None:
        """Ends the fork server."""
        if self.server is not None and self.process == os.getpid():
            self.server.end()
        self.server = None


_launchers: list[_Launcher] = []


def _launcher() -> _Launcher:
    """This process's: a fork of it has none."""
    if not _launchers or _launchers[-1].process != os.getpid():
        _launchers.append(_Launcher())
        atexit.register(_launchers[-1].close)
    return _launchers[-1]


def _may_fork(config: Mapping[str, Any]) -> bool:
    """Whether a fork server's memory is what this process would have."""
    memory, (kind, *module) = config["memory"], config["command"]
    return (
        CLONE is not None
        and config["namespaces"]
        and memory is not None
        and memory >= LEAST_MEMORY
        and kind == "-m"
        and len(module) == 1
        and module[0] in IMPORTED
        and config["environment"].get("OMP_NUM_THREADS") == "1"
    )


def _of_a_server() -> dict[str, str]:
    return cleared(of_a_worker(1)) | {
        "HF_HOME": str(hub_home()),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **UNWRITTEN,
        **_ONE_THREAD,
    }


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    """What of it an import may read."""
    return {name: value for name, value in environment.items() if not name.startswith(_PASSING)}


def launch(
    config: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    stderr: IO[bytes] | int | None = None,
    descriptors: Sequence[int] = (),
) -> Process:
    """Starts a process that leads a session, and sends it ``config``; pipes lead to its standard
    input and from its output.

    ``environment``: of the guard. ``stderr``: a file, or ``subprocess.STDOUT``; where nothing is
    given, this process's. ``descriptors``: what it inherits beside, by the same numbers.
    """
    process = _fork(config, stderr, descriptors) or subprocess.Popen(
        guard(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        pass_fds=descriptors,
        start_new_session=True,
    )
    assert process.stdin is not None
    with suppress(OSError, ValueError):  # it has just died; who reads from it notices
        process.stdin.write(encode(config))
        process.stdin.flush()
    return process


def guard() -> list[str]:
    """The command that reads a configuration and starts what it says."""
    return [sys.executable, "-m", "bench.engine.namespaces"]


def _fork(
    config: Mapping[str, Any], stderr: IO[bytes] | int | None, descriptors: Sequence[int]
) -> Process | None:
    reads, stdin = os.pipe()
    stdout, writes = os.pipe()
    errors = 2 if stderr is None else writes if stderr == subprocess.STDOUT else stderr
    number = errors if isinstance(errors, int) else errors.fileno()
    handed = {0: reads, 1: writes, 2: number} | {one: one for one in descriptors}
    pid = _launcher().forked(config, handed)
    for one in (reads, writes, *(() if pid else (stdin, stdout))):
        os.close(one)
    return Forked(pid, open(stdin, "wb"), open(stdout, "rb")) if pid else None
