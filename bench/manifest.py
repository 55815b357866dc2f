"""The manifest of a finished stage, and whether its files still match it. Without torch, since the
board uses it too.
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
    """The text of a file in a store. Raises ``OSError``, also for a pipe or a device, which could
    block or never end.
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
    """The stage.json of a finished stage. Raises ``ValueError``, without the file's name in the
    message, or ``OSError``.
    """
    try:
        manifest = json.loads(read_file(folder / MANIFEST))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(manifest, dict):
        raise ValueError("not an object")
    return manifest


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
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fault(folder: Path, *, contents: bool) -> str:
    """What is wrong with a finished stage, in words; empty if it is unchanged.

    Without ``contents`` only names and sizes are checked. A stage made before hashes were recorded
    is accepted as it is.
    """
    try:
        manifest = read_manifest(folder)
        for name, recorded in manifest.get("files", {}).items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != recorded["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {recorded['bytes']}"
            if contents and file_sha256(path) != recorded["sha256"]:
                return f"{name} is not what was written (SHA-256 differs)"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return ""
