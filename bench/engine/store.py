"""The store: finished stages by key, and the runs that refer to them. All durability is here.

- ``stages/<aa>/<key>/``: one finished stage, its results and stage.json. It appears complete, by a
  rename, and never changes again.
- ``tmp/<key>.<machine>.<unique>/``: a stage being made; worthless once the lock on its key is
  free, or, where locks may not hold between machines, once it has not changed for a day.
- ``partial/<key>/``: the saved progress of a long stage that was interrupted, for the next run
  that makes the key.
- ``secret``: with it, folders that a third party's plugin can see the paths of get names which say
  nothing of the key (:meth:`Store.sealed`).
- ``locks/<key>.lock``: held (flock) by the run that is making the key; freed by the kernel when
  that run dies. It saves work that would be done twice; no result depends on it.
- ``runs/<suite>.json``: which record belongs to which cell of a suite, in its last run.

Everything made gets the store folder's permissions for its group and others, so that several users
can share a store.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from bench.errors import UserError
from bench.manifest import MANIFEST, fault, file_hashes, read_manifest
from bench.text import message_of

LOG = "log.txt"  # what a stage printed
GRAVE = ".dead."
PARTIAL_DAYS = 30  # partial work is removed if no run has resumed it for so long
#: What another machine began is removed if it has not changed for so long: on some shared file
#: systems a lock does not hold between machines, so that one that is free says nothing.
ELSEWHERE_DAYS = 1
DAY_SECONDS = 86_400


#: What numpy says, without a number, when not all of an array could be written.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one of its causes, says that the disk is full. Some libraries keep
    only the message, and numpy how much it wrote.
    """
    current: BaseException | None = error
    visited: set[int] = set()  # `raise error from error` makes an error its own cause
    while current is not None and id(current) not in visited:
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        message = message_of(current) or ""
        if "No space left on device" in message:
            return True
        if isinstance(current, OSError) and _CUT_SHORT.fullmatch(message):
            return True
        visited.add(id(current))
        current = current.__cause__ or current.__context__
    return False


class Aside(NamedTuple):
    """An unusable stage that was moved away: what is wrong with it, and where it is."""

    wrong: str
    path: Path

    def __str__(self) -> str:
        return f"{self.wrong}; it is made again, what was there is in {self.path}"


class Store:
    """A folder, made on construction. Raises :class:`UserError`, one line, if it cannot be made or
    written.

    ``read_only``: to read an existing store; nothing is made, and it need not be writable.
    """

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        self.root = Path(root).absolute()
        self._whole: set[str] = set()
        self._checked: set[str] = set()
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"the store's path must be valid UTF-8, got {str(self.root)!r}"
            ) from None
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"the store {self.root} must be a folder, but it is a file")
        if read_only:
            return
        with self.writing(f"the store {self.root} cannot be written"):
            self.root.mkdir(parents=True, exist_ok=True)
            for name in ("stages", "tmp", "partial", "locks", "runs"):
                make_folder(self.root / name)
            probe = self.root / "tmp" / f".probe.{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turns a failure to write into a :class:`UserError` of one line."""
        try:
            yield
        except OSError as error:
            reason = "disk full" if is_disk_full(error) else error.strerror or str(error)
            raise UserError(f"{what}: {reason}") from error

    def folder(self, key: str) -> Path:
        """The folder of a finished stage, whether it exists yet or not."""
        return self.root / "stages" / key[:2] / key

    def finished(self, key: str) -> bool:
        """Whether a complete stage is in the store: its manifest is readable, and every file in it
        has its size.
        """
        folder = self.folder(key)
        if not (folder / MANIFEST).is_file():
            return False
        if key not in self._whole and not fault(folder, contents=False):
            self._whole.add(key)
        return key in self._whole

    def fault(self, key: str) -> str:
        """What is wrong with a stage in the store, its files' hashes included; empty if nothing.
        Checked once per process.
        """
        if key in self._checked and self.finished(key):
            return ""
        wrong = fault(self.folder(key), contents=True)
        if not wrong:
            self._checked.add(key)
        return wrong

    def put_aside(self, key: str, judge: Callable[[Path], str] | None = None) -> Aside | None:
        """Moves an unusable stage into ``tmp/``, where it stays for inspection. ``judge``
        tells what is wrong with a folder, empty if nothing; by default :func:`fault`, contents
        included.

        ``None`` if there is nothing unusable: another machine may have made the stage, or moved it,
        since anybody looked.
        """
        folder = self.folder(key)
        aside = self.root / "tmp" / f".damaged.{key[:16]}.{uuid.uuid4().hex[:8]}"
        if judge is None:
            judge = _fault_in_contents
        if not judge(folder):
            return None
        with self.writing(f"the damaged stage {folder} cannot be moved"):
            try:
                folder.rename(aside)
            except FileNotFoundError:
                return None
            if not (wrong := judge(aside)):  # replaced between the look and the move
                _settle(aside, folder)
                return None
        self._whole.discard(key)
        self._checked.discard(key)
        return Aside(wrong, aside)

    def manifest(self, key: str) -> dict[str, Any]:
        """The stage.json of a finished stage: ``stage``, ``params``, ``inputs``, ``files``,
        ``cost``, ``provenance``.
        """
        return read_manifest(self.folder(key))

    def seconds(self, key: str) -> float:
        """What a finished stage took, by its manifest; 0 if that does not say."""
        try:
            return float(self.manifest(key)["cost"]["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def manifests(self) -> Iterator[dict[str, Any]]:
        """The readable manifests of all finished stages, in no order."""
        for path in (self.root / "stages").glob(f"*/*/{MANIFEST}"):
            with suppress(OSError, ValueError):
                yield read_manifest(path.parent)

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """Takes ``locks/<name>.lock``. Raises ``Timeout``, or :class:`UserError` naming the lock if
        there is no locking here.
        """
        path = self.root / "locks" / f"{name}.lock"
        try:
            # A lock that is only a file would outlive a machine that died with it.
            mode = 0o600 | _shared(path.parent)
            lock = FileLock(path, mode=mode, fallback_to_soft=False)
            lock.acquire(timeout=timeout)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout):
                raise
            raise UserError(_no_lock(path, error)) from error
        _share(path, path.parent)
        return lock

    def try_lock(self, key: str) -> FileLock | None:
        """The lock on making ``key``, or ``None`` if another run holds it. ``release()`` it."""
        try:
            return self.lock(key, timeout=0)
        except Timeout:
            return None

    def new_folder(self, key: str) -> Path:
        """A new path to make ``key`` in; the worker creates the folder. The lock on ``key`` must be
        held.
        """
        return self.root / "tmp" / f"{key}.{machine()}.{uuid.uuid4().hex[:12]}"

    def partial(self, key: str) -> Path:
        """The folder where a stage saves its progress, for the next run that makes ``key`` if this
        one is interrupted; created when needed. The lock on ``key`` must be held.
        """
        return self.root / "partial" / key

    def sealed(self, key: str) -> str:
        """A name in place of ``key`` that nobody can work out who does not know this store: a key
        follows from code and parameters, so whoever sees it knows which attack a stage met.
        """
        return hmac.new(self._secret, key.encode(), "sha256").hexdigest()

    @cached_property
    def _secret(self) -> bytes:
        path = self.root / "secret"
        with self.writing(f"the store's secret {path} cannot be made"):
            lock = self.lock("secret")
            try:
                if not path.exists():
                    write_atomically(path, secrets.token_hex(32))
                return path.read_bytes()
            finally:
                lock.release()

    def clean(self) -> None:
        """Removes what dead runs left behind: in ``tmp/`` folders whose key is not locked (those of
        another machine after :data:`ELSEWHERE_DAYS`), in ``partial/`` progress of stages that are
        finished by now or unused for :data:`PARTIAL_DAYS`. What permissions do not allow to remove
        stays.
        """
        for leftover in (self.root / "partial").glob("*"):
            with suppress(UserError, OSError):
                lock = self.try_lock(leftover.name)
                if lock is not None:
                    if self.finished(leftover.name) or _days(leftover) > PARTIAL_DAYS:
                        remove_tree(leftover)
                    lock.release()
        for leftover in (self.root / "tmp").iterdir():
            if leftover.name.startswith(GRAVE):
                remove_tree(leftover)
            elif not leftover.name.startswith("."):
                with suppress(UserError, OSError):
                    key, _, rest = leftover.name.partition(".")
                    lock = self.try_lock(key)
                    if lock is not None:
                        if rest.startswith(f"{machine()}.") or _days(leftover) > ELSEWHERE_DAYS:
                            discard(leftover)
                        lock.release()


@cache
def machine() -> str:
    """A name of this machine, until it is started again."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:  # not Linux
        started = ""
    return hashlib.sha256(f"{socket.gethostname()} {started}".encode()).hexdigest()[:8]


def _days(folder: Path) -> float:
    """Since anything in it changed."""
    newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
    return (time.time() - newest) / DAY_SECONDS


def _fault_in_contents(folder: Path) -> str:
    return fault(folder, contents=True)


def discard(folder: Path) -> None:
    """Removes an unfinished stage. It is renamed first, so that a dying worker cannot commit half
    of it.
    """
    if not folder.exists():
        return
    grave = folder.with_name(f"{GRAVE}{uuid.uuid4().hex}")
    try:
        folder.rename(grave)
    except FileNotFoundError:  # its worker committed it meanwhile
        return
    remove_tree(grave)


def remove_tree(folder: Path) -> None:
    """Removes a folder, however deep, with whatever is in it; follows no link. What cannot be
    removed stays.
    """
    number = 0
    with suppress(OSError):
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for child in list(os.scandir(entry.path)):
                    number += 1
                    if child.is_dir(follow_symlinks=False):  # or it cannot be moved
                        os.chmod(child.path, 0o700)
                    os.rename(child.path, folder / f".{number}.{uuid.uuid4().hex}")
                os.rmdir(entry.path)
        os.rmdir(folder)


def commit(unfinished: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest into ``unfinished``, syncs everything to disk, and renames the folder to
    ``final``.

    If ``final`` exists already, it stays and this result is removed: equal keys mean equal results.
    """
    manifest = manifest | {"files": file_hashes(unfinished)}
    (unfinished / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1))
    make_folder(final.parent)
    for path in [*unfinished.rglob("*"), unfinished]:
        if not path.is_symlink():
            _share(path, final.parent)
            _sync(path)
    _settle(unfinished, final)
    _sync(final.parent)


def _settle(whole: Path, final: Path) -> None:
    """Renames a whole stage to where it belongs, or removes it if there is one by now."""
    try:
        whole.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(whole, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _share(temporary, path.parent)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder with the permissions of its parent."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _share(path, path.parent)


def _shared(folder: Path) -> int:
    """The read and write bits of the group and others on ``folder``."""
    return stat.S_IMODE(folder.stat().st_mode) & 0o066


def _share(path: Path, folder: Path) -> None:
    """Gives ``path`` the permissions of the group and others on ``folder``, whatever the umask;
    never removes a permission.
    """
    mode, more = stat.S_IMODE(path.stat().st_mode), _shared(folder)
    if path.is_dir():
        more |= (more & 0o044) >> 2
    if mode | more != mode:
        with suppress(OSError):
            path.chmod(mode | more)


def _no_lock(path: Path, error: Exception) -> str:
    """One line about a lock that cannot be taken: its owner, and a remedy."""
    reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(
        str(error).split()
    )
    if isinstance(error, PermissionError) and path.exists():
        status = path.stat()
        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = f"user {status.st_uid}"
        umask = os.umask(0o077)
        os.umask(umask)
        reason += (
            f" (of {owner}, mode {stat.S_IMODE(status.st_mode):03o}; your umask is "
            f"{umask:03o}): its owner can run chmod g+rw"
        )
    elif not isinstance(error, PermissionError) and not is_disk_full(error):
        reason += " (a store needs a file system with locks: choose another folder)"
    return f"the lock {path} cannot be taken: {'disk full' if is_disk_full(error) else reason}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
