"""Takes over what a third party's plugin's process left: the trusted side of
:mod:`bench.engine.isolation`, which never imports a plugin.

Only plain files in the formats that stages write are copied, each read through first: safetensors,
numpy arrays without objects, JSON, text. Then the stage's own rule (``StageKind.admit``) says
whether it is what such a stage leaves. No file that the other process wrote gets into the store.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from bench.engine.store import LOG
from bench.errors import UserError

#: The largest file that is not of arrays.
TEXT_BYTES = 2**26
#: How much larger than the folder on disk its arrays may be: images compress well.
DEEPEST, UNPACKED_TIMES, UNPACKED_BYTES = 4, 50, 2**26
_TEXTS = (".txt", ".md")
#: Figures of cost that a stage may report.
_COST = ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes", "generator_calls")


def take_over(raw: Path, out: Path) -> None:
    """Copies the files of ``raw`` into the empty folder ``out``. Raises :class:`UserError` for
    what is none of a stage's.
    """
    files = list(_files(raw))
    budget = UNPACKED_BYTES + UNPACKED_TIMES * sum(path.lstat().st_size for path in files)
    for path in files:
        name = path.relative_to(raw)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
            with target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**20)
        if name != Path(LOG):
            budget -= _read_through(target, str(name), budget)


def _files(raw: Path) -> Iterator[Path]:
    """All files. Raises for links, pipes, devices, and names that no stage gives."""
    for path in sorted(raw.rglob("*")):
        name, mode = path.relative_to(raw), path.lstat().st_mode
        if len(name.parts) > DEEPEST or not all(_plain(part) for part in name.parts):
            _refuse(f"a file of another name than a stage gives: {str(name)!r}")
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            _refuse(f"{name}, which is no plain file")


def _plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and not name.startswith(".") and len(name) < 128


def _read_through(path: Path, name: str, budget: int) -> int:
    """Reads a file as what its ending says, and returns the bytes of its arrays."""
    try:
        if path.suffix == ".npz":
            return _npz(path, name, budget)
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return _npy(file, path.stat().st_size, name, budget)
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np"):
                return 0
        if path.suffix not in (".json", *_TEXTS) or path.stat().st_size > TEXT_BYTES:
            _refuse(f"{name}, which is neither arrays nor a text of at most {TEXT_BYTES >> 20} MB")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            json.loads(text)
        return 0
    except UserError:
        raise
    except Exception as error:  # of whatever library
        _refuse(f"{name}, which cannot be read: {type(error).__name__}: {error}"[:300])


def _npz(path: Path, name: str, budget: int) -> int:
    total = 0
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            _refuse(f"{name} with two arrays of one name")
        for member in members:
            if not member.filename.endswith(".npy"):
                _refuse(f"{name} with {member.filename[:80]!r} in it, which is no array")
            with archive.open(member) as file:
                total += _npy(file, member.file_size, name, budget - total)
    return total


def _npy(file: IO[bytes], size: int, name: str, budget: int) -> int:
    """The bytes of one array, from its header: no more is read."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        _refuse(f"{name} with an array of an unknown version")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    count = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.kind not in "biufU":
        _refuse(f"{name} with an array of {dtype}, which is neither numbers nor text")
    if count > min(size, budget):
        _refuse(f"{name} with an array of {count} bytes, more than there are or may be")
    return count


def _refuse(what: str) -> NoReturn:
    raise UserError(f"the plugin's process left {what}")


def cost(reported: object, seconds: float) -> dict[str, float]:
    """What the other process says its stage cost, of what it may say; it took ``seconds`` at
    least.
    """
    claimed = reported if isinstance(reported, Mapping) else {}
    figures = {
        name: float(claimed[name])
        for name in _COST
        if type(claimed.get(name)) in (int, float) and 0 <= claimed[name] < math.inf
    }
    return figures | {"seconds": max(seconds, figures.get("seconds", 0.0))}


def sign(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Puts the true provenance into a generator's castlewalls.json: the other process knew no
    key.
    """
    for path in folder.rglob("castlewalls.json"):
        metadata = json.loads(path.read_text())
        if not isinstance(metadata, dict):
            _refuse(f"{path.name} that is no object")
        metadata["provenance"] = dict(provenance)
        path.write_text(json.dumps(metadata, indent=1, sort_keys=True))
