"""The store: finished stages by key, and the runs that point at them. All durability is here.

stages/<aa>/<key>/ one finished stage: its results and stage.json; appears whole, by a rename, and
is never changed again tmp/<key>.<unique>/ a stage being made; worthless once the lock on its key is
free partial/<key>/ what a long stage that was cut short has got done; of use to the next run that
makes the key locks/<key>.lock held (flock) by the run that is making the key; freed by the kernel
when that run dies runs/<suite>.json which record belongs to which cell of a suite, in its last run

What is made gets the rights of the store's folder for its group and for others, so that people can
share one.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.errors import UserError
from bench.manifest import MANIFEST, fault, file_hashes, read_manifest
from bench.text import said_by

LOG = "log.txt"  # what a stage printed
GRAVE = ".dead."
PARTIAL_DAYS = 30  # what no run has come back to in so long is removed


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one behind it, says that the disk is full. Some libraries keep only
    the message.
    """
    seen: BaseException | None = error
    behind: set[int] = set()  # `raise error from error` stands behind itself
    while seen is not None and id(seen) not in behind:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in (said_by(seen) or ""):
            return True
        behind.add(id(seen))
        seen = seen.__cause__ or seen.__context__
    return False


class Store:
    """A folder. Made on construction; raises :class:`UserError` in one line if that, or writing
    into it, is not possible.

    ``read_only``: to look into one that exists; nothing is made, and it need not be writable.
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
        """Turns a failure to write into one clear line."""
        try:
            yield
        except OSError as error:
            reason = "disk full" if is_disk_full(error) else error.strerror or str(error)
            raise UserError(f"{what}: {reason}") from error

    def folder(self, key: str) -> Path:
        """Where a finished stage stands, or will."""
        return self.root / "stages" / key[:2] / key

    def finished(self, key: str) -> bool:
        """Whether a stage is there, whole: its manifest can be read, and every file it names has
        its size.
        """
        folder = self.folder(key)
        if not (folder / MANIFEST).is_file():
            return False
        if key not in self._whole and not fault(folder, contents=False):
            self._whole.add(key)
        return key in self._whole

    def fault(self, key: str) -> str:
        """What is wrong with a stage that is there, its files' hashes looked at, once a process;
        empty if nothing is.
        """
        if key in self._checked and self.finished(key):
            return ""
        wrong = fault(self.folder(key), contents=True)
        if not wrong:
            self._checked.add(key)
        return wrong

    def put_aside(self, key: str) -> Path:
        """Moves a stage that cannot be used into ``tmp/``, where it is left for a person to look
        at, and returns that path.
        """
        aside = self.root / "tmp" / f".damaged.{key[:16]}.{uuid.uuid4().hex[:8]}"
        with (
            self.writing(f"the damaged stage {self.folder(key)} cannot be moved"),
            suppress(FileNotFoundError),
        ):
            self.folder(key).rename(aside)
        self._whole.discard(key)
        self._checked.discard(key)
        return aside

    def manifest(self, key: str) -> dict[str, Any]:
        """The stage.json of a finished stage: ``stage``, ``params``, ``inputs``, ``files``,
        ``cost``, ``provenance``.
        """
        return read_manifest(self.folder(key))

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Of every finished stage, in no order; of those that can be read."""
        for path in (self.root / "stages").glob(f"*/*/{MANIFEST}"):
            with suppress(OSError, ValueError):
                yield read_manifest(path.parent)

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """Takes ``locks/<name>.lock``. Raises ``Timeout``, or :class:`UserError` naming the lock if
        there is no locking here.
        """
        path = self.root / "locks" / f"{name}.lock"
        try:
            lock = FileLock(path, mode=0o600 | _shared(path.parent))
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
        """A name for making ``key`` in; the worker makes the folder. The lock on ``key`` must be
        held.
        """
        return self.root / "tmp" / f"{key}.{uuid.uuid4().hex[:12]}"

    def partial(self, key: str) -> Path:
        """Where a stage keeps what it has got done so far, for the next to make ``key`` if it is
        cut short; made when it is needed. The lock on ``key`` must be held.
        """
        return self.root / "partial" / key

    def clean(self) -> None:
        """Removes what dead runs left in ``tmp/``: folders whose key nobody holds; and in
        ``partial/`` what is finished by now or has been left for :data:`PARTIAL_DAYS`. What another
        user's rights keep stays.
        """
        for left in (self.root / "partial").glob("*"):
            with suppress(UserError, OSError):
                lock = self.try_lock(left.name)
                if lock is not None:
                    newest = max(path.stat().st_mtime for path in [left, *left.rglob("*")])
                    if self.finished(left.name) or time.time() - newest > PARTIAL_DAYS * 86_400:
                        shutil.rmtree(left, ignore_errors=True)
                    lock.release()
        for left in (self.root / "tmp").iterdir():
            if left.name.startswith(GRAVE):
                shutil.rmtree(left, ignore_errors=True)
            elif not left.name.startswith("."):
                with suppress(UserError, OSError):
                    lock = self.try_lock(left.name.partition(".")[0])
                    if lock is not None:
                        discard(left)
                        lock.release()


def discard(folder: Path) -> None:
    """Removes an unfinished stage. It is renamed first, so that a dying worker cannot put half of
    it in place.
    """
    if not folder.exists():
        return
    grave = folder.with_name(f"{GRAVE}{uuid.uuid4().hex}")
    try:
        folder.rename(grave)
    except FileNotFoundError:  # its worker finished it after all
        return
    shutil.rmtree(grave, ignore_errors=True)


def commit(made: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest into ``made``, forces all of it to the disk, and puts it in place in one
    step.

    Where ``final`` exists already, the other's work stands and this one's is removed: equal keys
    mean equal results.
    """
    manifest = manifest | {"files": file_hashes(made)}
    (made / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1))
    make_folder(final.parent)
    for path in [*made.rglob("*"), made]:
        if not path.is_symlink():
            _share(path, final.parent)
            _sync(path)
    try:
        made.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(made, ignore_errors=True)
    _sync(final.parent)


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
    """A folder with the rights of the one it is in."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _share(path, path.parent)


def _shared(folder: Path) -> int:
    """The bits for reading and writing that the group and others have on ``folder``."""
    return stat.S_IMODE(folder.stat().st_mode) & 0o066


def _share(path: Path, folder: Path) -> None:
    """Gives ``path`` what the group and others may do in ``folder``, whatever this user's umask;
    never takes a right away.
    """
    mode, more = stat.S_IMODE(path.stat().st_mode), _shared(folder)
    if path.is_dir():
        more |= (more & 0o044) >> 2
    if mode | more != mode:
        with suppress(OSError):
            path.chmod(mode | more)


def _no_lock(path: Path, error: Exception) -> str:
    """One line about a lock that cannot be taken: whose it is, and what would help."""
    reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(
        str(error).split()
    )
    if isinstance(error, PermissionError) and path.exists():
        found = path.stat()
        try:
            owner = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:
            owner = f"user {found.st_uid}"
        umask = os.umask(0o077)
        os.umask(umask)
        reason += (
            f" (of {owner}, mode {stat.S_IMODE(found.st_mode):03o}; your umask is "
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
