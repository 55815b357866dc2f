"""A process that has imported what the workers of third parties' plugins import, and forks them:
``python -m bench.engine.forkserver DESCRIPTOR FOLDER``, started by :mod:`bench.engine.launch`.

It runs no plugin, is told nothing of any stage, and has no secret in its environment, so what a
fork of it finds in its memory is what a new process would have imported. Each fork is the *guard*
of :mod:`bench.engine.namespaces`, a child of the process that asked for it (``CLONE_PARENT``), and
reads its configuration itself.

It forks only if it has a single thread: a library's thread may hold a lock that nobody would give
back. Where there are more it ends, and workers are started anew as before. The folder is its own,
and goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NoReturn

from bench.engine import namespaces

#: What a worker, a check and a plugin's reader import, and libraries that most stages do.
IMPORTED = (
    "bench.engine.worker",
    "bench.stages.table",
    "bench.card_child",
    "bench.checking.child",
    "bench.checking.inside",
    "sklearn.datasets",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
)
READY, FAILED = b"ready", b"failed"
#: The number of ``clone``, where it is known.
CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}.get(platform.machine())
_CLONE_PARENT = 0x8000
MESSAGE_BYTES, MOST_DESCRIPTORS = 2**12, 8


def main() -> None:
    """Entry point. Returns in a fork, once its module has ended; the server itself exits."""
    channel, folder = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    for name in IMPORTED:
        with contextlib.suppress(Exception):  # whoever needs it says what is wrong
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared stays so: a collection writes to what it looks at
    if len(os.listdir("/proc/self/task")) != 1:
        _end(folder)
    namespaces.inherited = namespaces.own_bytes("VmData")
    try:
        channel.send(READY)
    except OSError:  # whoever asks is gone
        _end(folder)
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, MOST_DESCRIPTORS)
        if not data:
            _end(folder)
        if _forked(channel, json.loads(data), descriptors):
            break
    config = namespaces.enter()
    _begin_anew(config["environment"])
    importlib.import_module(config["command"][1]).main()


def _end(folder: str) -> NoReturn:
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0)


def _forked(channel: socket.socket, numbers: Sequence[int], descriptors: Sequence[int]) -> bool:
    """Whether this is the fork. It leads a session, and has ``descriptors`` as ``numbers`` and no
    other.
    """
    waits, tells = os.pipe()
    pid = _sibling()
    if pid:
        for descriptor in (*descriptors, tells):
            os.close(descriptor)
        with contextlib.suppress(OSError):
            channel.send(str(pid).encode() if pid > 0 and os.read(waits, 1) else FAILED)
        os.close(waits)
        return False
    os.setsid()
    channel.detach()
    beyond = 1 + max(*numbers, *descriptors, tells)
    *handed, tells = [fcntl.fcntl(one, fcntl.F_DUPFD, beyond) for one in (*descriptors, tells)]
    for one, number in zip(handed, numbers, strict=True):
        os.dup2(one, number)
    for number in {int(name) for name in os.listdir("/proc/self/fd")} - {*numbers, tells}:
        with contextlib.suppress(OSError):  # of the listing, it is closed
            os.close(number)
    os.write(tells, b"1")
    os.close(tells)
    return True


def _sibling() -> int:
    """As ``fork``, but the new process is a child of this one's parent. Below 0 if it fails.

    Without the handlers of ``fork``, for which it is enough that there is one thread; the guard
    does no more than enter its namespaces and fork as usual.
    """
    libc = ctypes.PyDLL(None)  # a call that keeps the interpreter's lock
    flags = ctypes.c_ulong(_CLONE_PARENT | signal.SIGCHLD)
    return int(libc.syscall(ctypes.c_long(CLONE or -1), flags, *(ctypes.c_void_p(0),) * 4))


def _begin_anew(environment: dict[str, str]) -> None:
    """What a new process would not have from this one."""
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


if __name__ == "__main__":
    main()
