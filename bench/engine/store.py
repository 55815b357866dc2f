"""The store: finished stages by key, and the runs that point at them. All durability is here.

stages/<aa>/<key>/   one finished stage: its results and stage.json; appears whole, by a rename, and is never changed again
tmp/<key>.<unique>/  a stage being made; worthless once the lock on its key is free
locks/<key>.lock     held (flock) by the run that is making the key; freed by the kernel when that run dies
runs/<suite>.json    which record belongs to which cell of a suite, in its last run
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.errors import UserError

MANIFEST = "stage.json"
LOG = "log.txt"  # what a stage printed
GRAVE = ".dead."


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or one behind it, says that the disk is full. Some libraries keep only the message."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class Store:
    """A folder. Made on construction; raises :class:`UserError` in one line if that, or writing into it, is not possible."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"the store {self.root} must be a folder, but it is a file")
        with self.writing(f"the store {self.root} cannot be written"):
            for name in ("stages", "tmp", "locks", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
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
        """Whether a stage is there, whole."""
        return (self.folder(key) / MANIFEST).is_file()

    def manifest(self, key: str) -> dict[str, Any]:
        """The stage.json of a finished stage: ``stage``, ``params``, ``inputs``, ``cost``, ``provenance``."""
        found: dict[str, Any] = json.loads((self.folder(key) / MANIFEST).read_text())
        return found

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Of every finished stage, in no order."""
        for path in (self.root / "stages").glob(f"*/*/{MANIFEST}"):
            yield json.loads(path.read_text())

    def try_lock(self, key: str) -> FileLock | None:
        """The lock on making ``key``, or ``None`` if another run holds it. ``release()`` it."""
        lock = FileLock(self.root / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def new_folder(self, key: str) -> Path:
        """A name for making ``key`` in; the worker makes the folder. The lock on ``key`` must be held."""
        return self.root / "tmp" / f"{key}.{uuid.uuid4().hex[:12]}"

    def clean(self) -> None:
        """Removes what dead runs left in ``tmp/``: folders whose key nobody holds."""
        for left in (self.root / "tmp").iterdir():
            if left.name.startswith(GRAVE):
                shutil.rmtree(left, ignore_errors=True)
                continue
            lock = self.try_lock(left.name.partition(".")[0]) if not left.name.startswith(".") else None
            if lock is None:
                continue
            discard(left)
            lock.release()


def discard(folder: Path) -> None:
    """Removes an unfinished stage. It is renamed first, so that a dying worker cannot put half of it in place."""
    if not folder.exists():
        return
    grave = folder.with_name(f"{GRAVE}{uuid.uuid4().hex}")
    try:
        folder.rename(grave)
    except FileNotFoundError:  # its worker finished it after all
        return
    shutil.rmtree(grave, ignore_errors=True)


def commit(made: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest into ``made``, forces all of it to the disk, and puts it in place in one step.

    Where ``final`` exists already, the other's work stands and this one's is removed: equal keys mean equal results.
    """
    (made / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1))
    for path in [*made.rglob("*"), made]:
        _sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
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
        temporary.write_text(text)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
