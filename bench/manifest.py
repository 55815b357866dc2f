"""What a finished stage says of its own files, and whether it is still true. Knows no torch; the
board asks it too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

MANIFEST = "stage.json"


def read_file(path: Path) -> str:
    """The text of a file of a store. Raises ``OSError``, also for a pipe or a device, which would
    be waited on or read without end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EINVAL,
            "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe, a socket or a device",
            str(path),
        )
    return path.read_text(encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The stage.json of a finished stage. Raises ``ValueError``, in words without the file's name,
    or ``OSError``.
    """
    try:
        found = json.loads(read_file(folder / MANIFEST))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def file_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """``{path below folder: {"bytes", "sha256"}}`` of every file but the manifest."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST
    )
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in files
    }


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def fault(folder: Path, *, contents: bool) -> str:
    """What is wrong with a finished stage, in words; empty if it is as it was made.

    Without ``contents`` only names and sizes are looked at. A stage made before hashes were kept is
    taken as it is.
    """
    try:
        manifest = read_manifest(folder)
        for name, said in manifest.get("files", {}).items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != said["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {said['bytes']}"
            if contents and file_sha256(path) != said["sha256"]:
                return f"{name} is not what was written (SHA-256 differs)"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return ""
