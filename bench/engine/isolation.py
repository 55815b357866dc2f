"""What a third party's plugin is let see and use while it runs: a root folder of its own with the
system, Python, our code, the plugin's files, the testbed's and the stage's inputs, all of them
read-only; an output folder; no network; and limits on memory, disk and processes.

:mod:`bench.engine.namespaces` does it. Where the system has no namespaces for a user there remain
the limits, and :func:`support` says why: a run tells its user, and each result that such a plugin
had a part in says so in its provenance.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from bench.engine.environment import UNWRITTEN, cleared, hub_home
from bench.engine.fingerprint import ROOT
from bench.engine.launch import guard
from bench.engine.namespaces import REFUSED, encode
from bench.engine.store import LOG, remove_tree
from bench.errors import UserError
from bench.manifest import MANIFEST
from bench.text import one_line

#: Our packages: of a checkout nothing else is shown, neither a store in it nor a secret.
OURS = ("bench", "attacks", "defenses", "detectors", "leaderboard")
#: Files of an input that say where it comes from, and with that what the adversary did: the losses
#: of his training, and what is doubtful about it, too.
ORIGINS = frozenset({MANIFEST, LOG, "castlewalls.json", "README.md", "losses.npz", "doubts.json"})
#: Files that an input of this role alone shows: what an attack learnt beside its network is for who
#: calls the backdoor, and not for who judges the network or mends it.
OF_ROLE = {"learnt.safetensors": "learnt"}
#: Where a stage's folders are, inside.
INSIDE = Path("/castlewalls")
HOME = "/tmp/home"
#: Variables that name folders which libraries read.
_CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME")
_SCRATCH_FILES = 10_000
#: More files, and deeper folders, than any stage leaves.
MOST_FILES, DEEPEST = 10_000, 32
POLL_SECONDS = 0.3
#: Of a plugin's folder: entries that are looked at, and how many of them are hidden at most, since
#: each is a mount. Somebody's home folder holds millions.
LOOKED_AT, MOST_HIDDEN = 20_000, 1_000
_OF_A_STORE = ("stages", "runs", "partial", "jobs")
#: A sealed evaluation's secret, and the size of a file that may hold one.
_SEALED, _SECRET_BYTES = re.compile(rb"\s*[0-9a-f]{32}\s*"), range(32, 65)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one stage that runs a third party's plugin. ``memory``: bytes of all its processes;
    ``disk``: bytes of what it writes, its scratch folder aside; ``scratch``: bytes of that, which
    is in memory; ``processes``: at once; ``tasks``: processes and their threads.
    """

    memory: int
    disk: int = 2**36
    scratch: int = 2**30
    processes: int = 64
    tasks: int = 1024


#: Of a process that imports a plugin to say what it is.
READING = Limits(memory=2**33, disk=2**26, scratch=2**26)


def usual_limits(slots: int) -> Limits:
    """Four fifths of the machine's memory, shared among ``slots``."""
    import psutil  # not needed by a worker

    return Limits(memory=int(psutil.virtual_memory().total * 0.8 / max(1, slots)))


@dataclass(frozen=True)
class Support:
    """``namespaces``: whether they are to be had; ``words``: for people."""

    namespaces: bool
    words: str


@lru_cache(maxsize=1)
def support() -> Support:
    """What this system allows, by trying it once."""
    if sys.platform != "linux":
        return _only_limits(f"there are no namespaces on {sys.platform}")
    with tempfile.TemporaryDirectory(prefix="castlewalls-probe-") as scratch:
        config = _config(Limits(memory=2**32), scratch, ["-c", "print('isolated')"], os.environ)
        config |= {"visible": _interpreter(), "cwd": "/tmp", "memory": None}
        try:
            tried = subprocess.run(
                guard(), input=encode(config), cwd=ROOT, capture_output=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return _only_limits(str(error))
    if tried.returncode == 0 and tried.stdout.strip() == b"isolated":
        return Support(True, "isolated: own root folder, no network, limits")
    words = one_line(tried.stderr.decode(errors="replace").strip(), 120)
    reason = words.removeprefix("no isolation: ") if tried.returncode == REFUSED else ""
    return _only_limits(reason or f"the attempt ended with {tried.returncode}: {words}")


def _only_limits(reason: str) -> Support:
    return Support(False, f"not isolated, process limits only: {one_line(reason, 120)}")


@dataclass
class Isolation:
    """One stage's. ``inputs``: role -> folder; ``folder``: a new one, of which ``out`` is written
    into, as ``partial`` is; ``files``: of the plugin, by path; ``locations``: the testbed's, as
    they are written in its parameters; ``store``: which is hidden.

    A process can read where its folders lie outside (``/proc/self/mountinfo``), so no key may be in
    those paths: inputs are shown as links in ``folder``, and the executor names that and
    ``partial`` by :meth:`~bench.engine.store.Store.sealed`.
    """

    limits: Limits
    inputs: Mapping[str, str]
    folder: Path
    partial: Path
    files: Iterable[str]
    locations: Iterable[str]
    store: Path
    device: str = "cpu"
    namespaces: bool = field(default_factory=lambda: support().namespaces)
    scratch: Path = field(init=False)
    out: Path = field(init=False)
    disk: int = field(init=False)
    checked: float = 0.0

    def __post_init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="castlewalls-plugin-"))
        self.out = self.folder / "out"
        self.out.mkdir(parents=True)
        # Whatever it writes, others can still write too; progress that is there takes no more.
        earlier = _taken([self.partial])
        free = shutil.disk_usage(self.out).free // 2 + (earlier if isinstance(earlier, int) else 0)
        self.disk = min(self.limits.disk, free)

    def task(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """What of ``task`` the plugin's process is told: where its folders are from inside, and
        no key, from which could be worked out which attack is behind an input.
        """
        context = dict(task["context"])
        provenance = dict(context["provenance"])
        partial = self.partial
        handed = {**task, "isolated": True, "folder": str(self.out), "input_keys": {}}
        if self.namespaces:
            for name in ("stage", "inputs"):
                provenance.pop(name, None)
            handed["inputs"] = {role: str(INSIDE / "inputs" / role) for role in task["inputs"]}
            handed["folder"], partial = str(INSIDE / "out"), INSIDE / "partial"
            handed["key"] = context["key"] = handed["final"] = ""
        handed["context"] = context | {"partial": str(partial), "provenance": provenance}
        return handed

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """How to run ``command`` (arguments of Python) isolated, in ``environment``, for
        :func:`bench.engine.launch.launch`.
        """
        inside = cleared(environment)
        if self.namespaces:
            inside |= {"HOME": HOME, "TMPDIR": "/tmp", "HF_HUB_OFFLINE": "1"}
        else:
            for name in ("home", "tmp", "work"):
                (self.scratch / name).mkdir()
            inside |= {"HOME": f"{self.scratch}/home", "TMPDIR": f"{self.scratch}/tmp"}
        inside["HF_HOME"] = str(hub_home())
        config = _config(self.limits, str(self.scratch), command, inside)
        config["file_bytes"] = self.disk
        if self.device != "cpu":
            config["memory"] = None  # a driver maps far more than it uses; what is used is watched
        if self.namespaces:
            config |= {
                "visible": [*_interpreter(), *_our_code(), *self._outside()],
                "hidden": [str(self.store)],
                "handed": [(str(self._handed()), str(INSIDE / "inputs"))],
                "writable": list(self._writable()),
                "cwd": os.getcwd(),
                "folders": [HOME, os.getcwd()],
            }
        else:
            config |= {"namespaces": False, "cwd": str(self.scratch / "work")}
            self._link_locations()
        return config

    def _outside(self) -> Iterator[tuple[str, str]]:
        """Read-only: the plugin's files, and the testbed's."""
        for file in self.files:
            yield file, file
        for written in self.locations:
            yield os.path.abspath(os.path.expanduser(written)), _written(written)
        caches = [os.environ[name] for name in _CACHES if name in os.environ]
        for folder in (str(hub_home()), *caches):
            yield folder, folder

    def _handed(self) -> Path:
        """A folder with the stage's inputs, but for what says where they come from, and what an
        attack learnt beside a network that others only judge or mend.
        """
        handed = self.folder / "inputs"
        handed.mkdir()
        for role, folder in self.inputs.items():
            for path in Path(folder).rglob("*"):
                hidden = path.name in ORIGINS or OF_ROLE.get(path.name, role) != role
                if path.is_file() and not hidden:
                    target = handed / role / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        os.link(path, target)  # read-only inside, as all of the folder is
                    except OSError:  # a file system without links, or another user's file
                        shutil.copyfile(path, target)
        return handed

    def _writable(self) -> Iterator[tuple[str, str]]:
        yield str(self.out), str(INSIDE / "out")
        with suppress(OSError):  # another user's, in a shared store
            self.partial.mkdir(exist_ok=True)
            if os.access(self.partial, os.W_OK):
                yield str(self.partial), str(INSIDE / "partial")

    def _link_locations(self) -> None:
        """Without namespaces: relative paths of the testbed's mean what they meant."""
        for written in self.locations:
            source = os.path.abspath(os.path.expanduser(written))
            if written.startswith("~/"):
                target = self.scratch / "home" / written[2:]
            else:
                target = self.scratch / "work" / written
            if os.path.exists(source) and self.scratch in target.parents and ".." not in written:
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    target.symlink_to(source)

    def exceeded(self, pid: int) -> str:
        """Which limit the processes below ``pid`` exceed, in words; empty if none. Looks at most
        every :data:`POLL_SECONDS`.
        """
        now = time.monotonic()
        if now < self.checked + POLL_SECONDS:
            return ""
        self.checked = now
        return beyond(pid, self.limits) or self.overfull()

    def overfull(self) -> str:
        """Which limit the files that were written exceed, in words; empty if none."""
        total = _taken([self.out, self.partial, self.scratch])
        if isinstance(total, str):
            return total
        return f"more than {self.disk >> 20} MB written to disk" if total > self.disk else ""

    def end(self) -> None:
        """Once no process is left: removes the scratch folder, and progress that is none."""
        if self.overfull():
            remove_tree(self.partial)
        remove_tree(self.scratch)
        with suppress(OSError):
            self.partial.rmdir()


def _taken(folders: Iterable[Path]) -> int | str:
    """Bytes of the files in ``folders``; in words, if there are too many to count."""
    total = files = 0
    waiting = [(str(folder), 0) for folder in folders]
    while waiting:
        folder, depth = waiting.pop()
        if depth > DEEPEST:
            return f"folders more than {DEEPEST} deep"
        try:
            entries = list(islice(os.scandir(folder), MOST_FILES + 1))
            files += len(entries)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
                else:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        # A hole takes no block here, and does once it is copied.
                        total += max(status.st_size, status.st_blocks * 512)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"a folder that cannot be looked into ({error.strerror})"
        if files > MOST_FILES:
            return f"more than {MOST_FILES} files written"
    return total


def _config(
    limits: Limits, scratch: str, command: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "namespaces": True,
        "scratch": scratch,
        "scratch_bytes": limits.scratch,
        "scratch_files": _SCRATCH_FILES,
        "folders": [HOME],
        "visible": [],
        "hidden": [],
        "hidden_again": [],
        "handed": [],
        "writable": [],
        "memory": limits.memory,
        "file_bytes": limits.disk,
        "tasks": limits.tasks,
        "command": list(command),
        "environment": {**environment, **UNWRITTEN},
    }


def _interpreter() -> list[tuple[str, str]]:
    """Python itself, with the packages of its environment."""
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    folders |= {folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder}
    folders |= {os.path.realpath(folder) for folder in folders}
    # /usr is shown anyway, and a folder before what is in it
    return [(one, one) for one in sorted(folders) if one not in ("/", "/usr")]


def _our_code() -> Iterator[tuple[str, str]]:
    """What is imported."""
    for entry in sys.path:
        folder = os.path.abspath(entry or os.getcwd())
        if Path(folder) not in (ROOT, Path.cwd()):
            yield folder, folder
    for name in OURS:
        yield str(ROOT / name), str(ROOT / name)


def start_reading(
    command: Sequence[str],
    environment: Mapping[str, str],
    scratch: str,
    files: Iterable[Path] = (),
    limits: Limits = READING,
) -> dict[str, Any]:
    """As :meth:`Isolation.start`, of a process that imports a plugin to say what it is, or to check
    it: it sees ``files`` (a package's folders, or a plugin's files and with them the folder of the
    first, less what is private there), and writes nothing but its scratch folder.
    """
    home = str(INSIDE / "home") if support().namespaces else scratch
    inside = cleared(environment)
    inside |= {"HOME": home, "TMPDIR": home, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{home}/hub"}
    config = _config(limits, scratch, command, inside)
    config |= {"namespaces": support().namespaces, "cwd": home, "folders": [home]}
    visible = [str(path) for path in files]
    # After what is hidden: an environment may lie in the plugin's folder, or the folder be a part
    # of what is imported, which hides nothing of it.
    config["handed"] = [*((path, path) for path in visible), *_interpreter(), *_our_code()]
    needed = [path for path, _ in config["handed"]]
    if visible and not os.path.isdir(visible[0]):
        if (folder := os.path.dirname(visible[0])) != "/":
            visible.insert(0, folder)
            config["hidden"] = private(folder)
    config["hidden_again"] = [
        path for path in config["hidden"] if not any(_within(one, path) for one in needed)
    ]
    config["visible"] = [(path, path) for path in visible]
    return config


def private(folder: str) -> list[str]:
    """What of a plugin's folder its process is not shown: stores, what begins with a dot, and files
    that hold a secret as ``castlewalls seal`` writes it; in folders of it too, and whole folders
    where they are beyond :data:`LOOKED_AT` entries. Raises :class:`UserError` where even that is
    too much.
    """
    hidden = [os.path.join(folder, name) for name in _OF_A_STORE] if _is_store(folder) else []
    waiting, left = deque([folder]), LOOKED_AT
    while waiting and left > 0:
        path = waiting.popleft()
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    waiting.appendleft(path)
                    break
                if entry.is_symlink():
                    continue
                if entry.name.startswith(".") or _is_store(entry.path) or _is_secret(entry):
                    hidden.append(entry.path)
                elif entry.is_dir():
                    waiting.append(entry.path)
    hidden += waiting
    if len(hidden) > MOST_HIDDEN:
        below = len(Path(folder).parts) + 1
        hidden = list(dict.fromkeys(str(Path(*Path(one).parts[:below])) for one in hidden))
    if folder in hidden or len(hidden) > MOST_HIDDEN:
        raise UserError(f"{folder} has too much beside the plugin: give it a folder of its own")
    return hidden


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_store(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "stages"))


def _is_secret(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        if entry.is_file() and entry.stat().st_size in _SECRET_BYTES:
            return _SEALED.fullmatch(Path(entry.path).read_bytes()) is not None
    return False


def beyond(pid: int, limits: Limits) -> str:
    """Which limit the processes below ``pid`` exceed, in words; empty if none."""
    count, used = _processes(pid, limits.memory)
    if count > limits.processes:
        return f"more than {limits.processes} processes"
    return f"more than {limits.memory >> 20} MB of memory" if used > limits.memory else ""


def _written(location: str) -> str:
    """Where a path of the testbed's parameters leads, inside."""
    if location.startswith("~/"):
        return os.path.join(HOME, location[2:])
    return os.path.abspath(location)


def _processes(pid: int, enough: int) -> tuple[int, int]:
    """How many are below ``pid``, and their bytes. Forked processes share most of theirs, so
    beyond ``enough`` each page counts once where the system can tell.
    """
    import psutil

    try:
        below = psutil.Process(pid).children(recursive=True)
        used = 0
        for shared in (False, True):
            used = 0
            for process in below:
                with suppress(psutil.Error):
                    memory = process.memory_full_info() if shared else process.memory_info()
                    used += getattr(memory, "pss", memory.rss)
            if used <= enough:
                break
        return len(below), used
    except psutil.Error:
        return 0, 0


def origin(manifests: Iterable[Mapping[str, Any]]) -> list[str]:
    """How the plugins that these results rest on were isolated, each way once."""
    ways: list[str] = []
    for manifest in manifests:
        with suppress(KeyError, TypeError):
            ways += [str(way) for way in manifest["provenance"]["isolation"]]
    return sorted(set(ways))
