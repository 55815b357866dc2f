"""A plugin's own files, and whether a git commit holds them as they are."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.bundle.bag import sha256
from bench.bundle.layout import SOURCE
from bench.contracts.plugin import Plugin
from bench.engine.fingerprint import ROOT
from bench.registry import Registry, source_of

#: Bytes of a file that is carried along; of a larger one, such as weights, only its hash is.
CARRIED = 256 * 2**10


@dataclass(frozen=True, kw_only=True)
class PluginSource:
    """``files``: path below ``data/`` -> bytes; ``listed``: of every file its name, SHA-256, size
    and whether it is carried; ``modules``: of each plugin, the name of the file that defines it;
    ``commit``: the git commit that holds all of them, or empty; ``dirty``: why there is none, in
    words.
    """

    files: dict[str, bytes]
    listed: list[dict[str, object]]
    modules: dict[str, str]
    commit: str = ""
    dirty: str = ""


def plugin_source(plugins: tuple[Plugin, ...], registry: Registry) -> PluginSource:
    """The files of a column's plugins: all that a third party's depend on; of ours, their own
    module, for the rest is this version of castlewalls.
    """
    thirds = [registry.source(plugin) for plugin in plugins]
    ours = all(third is None for third in thirds)
    paths: set[Path] = set()
    for plugin, third in zip(plugins, thirds, strict=True):
        paths |= {Path(name) for name in third.hashes} if third else {source_of(plugin)}
    ordered = sorted(paths)
    root = Path(os.path.commonpath([path.parent for path in ordered]))
    files, listed = dict[str, bytes](), list[dict[str, object]]()
    for path in ordered:
        name, data = path.relative_to(root).as_posix(), path.read_bytes()
        carried = len(data) <= CARRIED
        listed.append(
            {"name": name, "sha256": sha256(data), "bytes": len(data), "carried": carried}
        )
        if carried:
            files[SOURCE + name] = data
    modules = {
        plugin.card.name: source_of(plugin).relative_to(root).as_posix() for plugin in plugins
    }
    commit = dirty = ""
    if not ours or (ROOT / ".git").exists():  # an installed castlewalls has a version instead
        commit, dirty = _commit(root, ordered)
    return PluginSource(files=files, listed=listed, modules=modules, commit=commit, dirty=dirty)


def _commit(root: Path, paths: list[Path]) -> tuple[str, str]:
    """The commit of the checkout that ``paths`` are in, and why it does not hold them; one of the
    two is empty.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD") if top else None
    if not commit:
        return "", f"{paths[0].name} is in no git repository that has a commit"
    for path in paths:
        name = path.relative_to(root).as_posix()
        # By the bytes themselves: git's own account can be told to leave a file out.
        listed = (_git(root, "ls-tree", commit, "--", name) or "").split(maxsplit=3)
        if len(listed) < 4:
            return "", f"{name} is in no git commit"
        if listed[2] != _git(root, "hash-object", "--no-filters", "--", name):
            if b"\r\n" in path.read_bytes():
                return "", f"{name} must have the line ends of its commit (core.autocrlf=false)"
            return "", f"{name} has changes that are not committed"
    return commit, ""


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; ``None`` if it fails."""
    try:
        # Git refuses another user's checkout. Nothing that is asked here looks for changed files,
        # for which a checkout could name a program of its own.
        # Nor may a missing object be fetched, by a program of its own, or stand for another.
        plain = ("safe.directory=*", "core.fsmonitor=false", "protocol.allow=never")
        options = [word for one in plain for word in ("-c", one)]
        command = ["git", "--no-replace-objects", *options, "-C", str(folder), *arguments]
        environment = os.environ | {"GIT_NO_LAZY_FETCH": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
