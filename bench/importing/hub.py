"""A model on the hub, in the hub's local cache: at one commit, and no code."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from bench.errors import UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Pickles are fetched only where there is nothing else.
_SAFE, _PICKLES = ("*.json", "*.safetensors"), ("*.json", "*.bin", "*.ckpt", "*.pt", "*.pth")


def local_copy(model: str, revision: str | None) -> Path:
    """``model`` as a path: it is one, or a repository of the hub, of which the commit ``revision``
    is fetched.

    Raises :class:`UserError` for neither, a revision that is no commit, or a hub that is out of
    reach.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    if _HUB_ID.fullmatch(model) is None or revision is None:
        remedy = "; of a repository on the hub, give --revision, a commit" if "/" in model else ""
        raise UserError(f"{model}: there is no such file or folder{remedy}")
    if _COMMIT.fullmatch(revision) is None:
        raise UserError(
            f"--revision must be a full commit hash (40 hexadecimal digits); a branch can change, "
            f"got {revision[:60]!r}"
        )
    folder = fetched(model, revision, _SAFE)
    if next(folder.rglob("*.safetensors"), None) is None:
        folder = fetched(model, revision, _PICKLES)
    return folder


def fetched(repository: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """What of ``repository`` at one commit has a name among ``patterns``, in the hub's local cache.
    Raises :class:`UserError` if the hub is out of reach.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the client raises its own, or its transport's, by release
        raise UserError(
            f"{repository} at {revision} could not be fetched from the hub "
            f"({type(error).__name__}); fetch it elsewhere and name the folder"
        ) from error
