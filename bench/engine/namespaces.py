"""Starts a worker that runs a third party's plugin, as little privileged as the system allows:
``python -m bench.engine.namespaces``, started by :mod:`bench.engine.launch`.

Three processes on Linux. The *guard* waits, outside. Below it, in namespaces of their own (users,
mounts, processes, network, IPC), *init* mounts a root folder that holds only what the stage needs,
gives up all capabilities, and waits; its end is the end of every process there. Below init runs
the worker. Where namespaces are not to be had there are two, the guard and the worker, with limits
on memory and processes only; :mod:`bench.engine.isolation` asks beforehand, and a run says so.

The configuration comes first on standard input, as a length and that many bytes of JSON; what
follows belongs to the worker. This module imports nothing but the standard library, since a
process with threads cannot enter a namespace of users.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

#: How the guard ends if the namespaces cannot be made; the reason is on standard error.
REFUSED = 97
HEADER_BYTES = 16
#: The least that a namespace of processes may be limited to (the kernel reserves 300).
LEAST_PIDS = 512
#: What programs need of the system; read-only. Links such as /bin -> usr/bin are made anew.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix", "/gnu", "/opt/rocm", "/sys")
SETTINGS = (
    "ld.so.cache ld.so.conf ld.so.conf.d localtime passwd group nsswitch.conf alternatives "
    "OpenCL nvidia vulkan fonts"
).split()
DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*", "kfd", "dri")

#: Bytes of data that a fork has from the server that made it. They are nobody's use of memory, and
#: none of a new process.
inherited = 0

_UNSHARED = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_SETATTR = 2, -100, 0x8000, 442
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS, _CAPBSET_DROP, _AMBIENT, _AMBIENT_CLEAR = 1, 4, 38, 24, 47, 4
_SIOCSIFFLAGS, _UP = 0x8914, 1


def main() -> NoReturn:
    """Entry point: the guard, of a worker that is a new Python."""
    config = enter()
    os.execve(sys.executable, [sys.executable, *config["command"]], config["environment"])


def enter() -> dict[str, Any]:
    """Reads the configuration, and returns it in the worker, inside; the guard and init stay."""
    config: dict[str, Any] = json.loads(_exactly(int(_exactly(HEADER_BYTES))))
    isolated = bool(config["namespaces"])
    try:
        if isolated:
            _enter_namespaces()
    except (OSError, AttributeError) as error:
        _refuse(error)
    below = os.fork()
    if below:
        _wait_for(below)
    if sys.platform == "linux":
        _call("prctl", _PDEATHSIG, signal.SIGKILL)
    if isolated:
        try:
            _make_root(config)
            _drop_privileges()
        except (OSError, AttributeError) as error:
            _refuse(error)
        below = os.fork()
        if below:
            _wait_for(below)
    _limit(config)
    return config


def own_bytes(field: str) -> int:
    """What the system says of this process, as ``VmData`` or ``VmHWM``, in bytes. Raises
    ``OSError`` or ``StopIteration`` where it says nothing.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def _exactly(count: int) -> bytes:
    """So many bytes of standard input, and not one more: the rest is the worker's."""
    data = b""
    while len(data) < count:
        block = os.read(0, count - len(data))
        if not block:
            sys.exit(0)  # the run is gone
        data += block
    return data


def _refuse(error: Exception) -> NoReturn:
    os.write(2, f"no isolation: {error}\n".encode())
    os._exit(REFUSED)


def _wait_for(child: int) -> NoReturn:
    """Reaps until ``child`` has ended, and ends as it did. The worker's pipes are let go of: their
    end says that it has ended.
    """
    if os.getpid() == 1:  # its memory says where the folders come from
        with suppress(OSError):
            _call("prctl", _DUMPABLE, 0, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            os._exit(1)
        if ended == child:
            break
    code = os.waitstatus_to_exitcode(status)
    if 128 < code < 128 + signal.NSIG and os.getpid() != 1:  # so says init of a signal
        code = 128 - code
    if code < 0 and os.getpid() != 1:  # init cannot kill itself
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):  # neither can be handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _limit(config: Mapping[str, Any]) -> None:
    memory = config["memory"]
    if sys.platform == "linux":  # as in a new process: init's privileges went with this one's
        _call("prctl", _DUMPABLE, 1, 0, 0, 0)
    for kind, value in (
        (resource.RLIMIT_DATA, None if memory is None else memory + inherited),
        (resource.RLIMIT_FSIZE, config["file_bytes"]),
        (resource.RLIMIT_NPROC, config["tasks"]),
        (resource.RLIMIT_CORE, 0),
    ):
        if value is not None:
            with suppress(OSError, ValueError):  # a system that does not know it, or allows less
                resource.setrlimit(kind, (value, value))
    with suppress(OSError):  # where memory runs out, this goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.chdir(config["cwd"])


# --- the system's calls ---------------------------------------------------------------------------


def _call(name: str, *arguments: Any) -> int:
    """A function of the C library. Raises ``OSError`` with what it was about."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    sent = [
        argument.encode()
        if isinstance(argument, str)
        else ctypes.c_ulong(argument)
        if isinstance(argument, int) and argument >= 0
        else argument
        for argument in arguments
    ]
    result = int(function(*sent))
    if result < 0:
        code = ctypes.get_errno()
        about = next((one for one in reversed(arguments) if isinstance(one, str)), "")
        raise OSError(code, f"{name}: {os.strerror(code)}", about)
    return result


def _enter_namespaces() -> None:
    """Users, mounts, processes, network, IPC and host name; this user keeps its number."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", _UNSHARED)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _hide(root: Path, paths: Iterable[str]) -> None:
    for hidden in paths:
        if _below(root, hidden).is_dir():
            _call("mount", "tmpfs", str(_below(root, hidden)), "tmpfs", 0, "size=64k,mode=755")
        elif _below(root, hidden).is_file():
            _bind(os.devnull, _below(root, hidden))


def _make_root(config: Mapping[str, Any]) -> None:
    """A root folder in memory, with what ``config`` names and nothing else."""
    root = Path(config["scratch"])
    _call("mount", None, "/", None, _MS_REC | _MS_PRIVATE, None)
    options = f"size={config['scratch_bytes']},nr_inodes={config['scratch_files']},mode=755"
    _call("mount", "tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    for folder in ("proc", "dev", "dev/shm", "etc", "tmp", *(config["folders"])):
        _below(root, folder).mkdir(parents=True, exist_ok=True)
    _system(root)
    for source, target in config["visible"]:
        _bind(source, _below(root, target))
    _hide(root, config["hidden"])
    for source, target in config["handed"]:
        _bind(source, _below(root, target))
    _hide(root, config["hidden_again"])
    for source, target in config["writable"]:
        _bind(source, _below(root, target), writable=True)
    try:
        _call("mount", "proc", str(root / "proc"), "proc", _MS_NOSUID | _MS_NODEV, None)
    except OSError:  # a container that hides parts of it
        _call("mount", "/proc", str(root / "proc"), None, _MS_BIND | _MS_REC, None)
    _loopback()
    _limit_the_kernel(root / "proc" / "sys", config["tasks"])
    os.chdir(root)
    _call("pivot_root", ".", ".")
    _call("umount2", ".", _MNT_DETACH)


def _limit_the_kernel(settings: Path, tasks: int) -> None:
    """The kernel's settings that these namespaces have of their own; then none can be changed."""
    if os.getpid() == 1:
        with suppress(OSError):  # each namespace has its own since Linux 6.14
            (settings / "kernel" / "pid_max").write_text(str(max(LEAST_PIDS, tasks)))
    with suppress(OSError):
        (settings / "user" / "max_user_namespaces").write_text("0")
    _bind(str(settings), settings)


def _system(root: Path) -> None:
    for name in SYSTEM:
        if os.path.islink(name):
            (root / name[1:]).symlink_to(os.readlink(name))
        elif os.path.isdir(name):
            _bind(name, _below(root, name))
    for name in SETTINGS:
        if os.path.exists(f"/etc/{name}"):
            _bind(f"/etc/{name}", root / "etc" / name)
    for pattern in DEVICES:
        for device in Path("/dev").glob(pattern):
            _bind(str(device), root / "dev" / device.name, devices=True)
    (root / "dev/fd").symlink_to("/proc/self/fd")


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _bind(source: str, target: Path, *, writable: bool = False, devices: bool = False) -> None:
    """Shows ``source`` at ``target``; what is not there is left out."""
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    elif os.path.exists(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.touch()
    else:
        return
    _call("mount", source, str(target), None, _MS_BIND | _MS_REC, None)
    kept = _NO_SUID | (0 if writable else _READ_ONLY) | (0 if devices else _NO_DEVICES)
    attributes = struct.pack("QQQQ", kept, 0, 0, 0)
    _call(
        "syscall",
        _MOUNT_SETATTR,
        _AT_FDCWD,
        str(target),
        _AT_RECURSIVE,
        ctypes.c_char_p(attributes),
        len(attributes),
    )


def _loopback() -> None:
    """The network of one machine, which a training on several GPUs talks over."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))


def _drop_privileges() -> None:
    """No capability, now or after any later ``execve``: what is read-only stays so."""
    for capability in range(64):
        try:
            _call("prctl", _CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:  # there are no more
                break
            raise
    with suppress(OSError):
        _call("prctl", _AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _call("capset", ctypes.c_char_p(header), ctypes.c_char_p(none))
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PDEATHSIG, signal.SIGKILL)


def encode(config: Mapping[str, Any], rest: Sequence[str] = ()) -> bytes:
    """What the guard reads first."""
    body = json.dumps(config).encode()
    return f"{len(body):0{HEADER_BYTES}d}".encode() + body


if __name__ == "__main__":
    main()
