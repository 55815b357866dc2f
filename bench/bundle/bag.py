"""A bundle as a bag (BagIt 1.0, RFC 8493): files under checksums. Without torch.

What is read comes from a stranger: nothing outside the folder is opened, no link is followed, and
every file is read once, so that what was hashed is what is used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import results
from bench.errors import UserError
from bench.names import brief
from bench.results import BAGIT, read_plain
from bench.text import one_line

VERSION = "1.0"
INFO = "bag-info.txt"
MANIFEST, TAGS = "manifest-sha256.txt", "tagmanifest-sha256.txt"
PAYLOAD = f"{results.PAYLOAD}/"
#: Bytes of a file and of all, files, and characters of a path.
MAX_FILE, MAX_BYTES, MAX_FILES, MAX_PATH = 64 * 2**20, 256 * 2**20, 20_000, 200
_DECLARATION = f"BagIt-Version: {VERSION}\nTag-File-Character-Encoding: UTF-8\n"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]?(.{1,4096})")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +-]*")


@dataclass(kw_only=True)
class Bag:
    """``files``: path -> bytes of every file; ``info``: what ``bag-info.txt`` says; ``faults``:
    what is wrong, a line each by check: ``files``, ``hashes``.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=lambda: {"files": [], "hashes": []})


def write_bag(
    folder: Path, payload: Mapping[str, bytes], tags: Mapping[str, bytes], info: Mapping[str, str]
) -> int:
    """Writes a new folder: ``payload`` below ``data/``, ``tags`` beside it; returns its bytes.

    The same arguments give the same bytes. Raises :class:`UserError` if the folder is there, or
    cannot be written.
    """
    files = _with_manifests(payload, tags, info)
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already; remove it, or name another --output")
    if faults := _unfit(files):
        raise UserError(f"{one_line(str(folder))} cannot be a bundle: {faults[0]}")
    made = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        for name, data in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
        made.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return sum(map(len, files.values()))


def _unfit(files: Mapping[str, bytes]) -> list[str]:
    """Why whoever reads a bag would refuse these files."""
    faults = [f"a path in a bundle {wrong}" for name in files if (wrong := _path_fault(name))]
    return faults + _size_faults({name: len(data) for name, data in files.items()})


def _with_manifests(
    payload: Mapping[str, bytes], tags: Mapping[str, bytes], info: Mapping[str, str]
) -> dict[str, bytes]:
    below = {PAYLOAD + name: payload[name] for name in sorted(payload)}
    oxum = {"Payload-Oxum": f"{sum(map(len, below.values()))}.{len(below)}"}
    lines = (f"{name}: {one_line(text, 1000)}\n" for name, text in {**info, **oxum}.items() if text)
    beside = {BAGIT: _DECLARATION.encode(), INFO: "".join(lines).encode(), **tags}
    beside[MANIFEST] = _manifest(below)
    return {**beside, TAGS: _manifest({name: beside[name] for name in sorted(beside)}), **below}


def _manifest(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{sha256(data)}  {name}\n" for name, data in files.items()).encode()


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# --- reading --------------------------------------------------------------------------------------


def read_bag(folder: Path) -> Bag:
    """Everything of a bag, and what is wrong with it. Raises :class:`UserError` for what is no
    folder, or has nothing of a bag.
    """
    if folder.is_symlink() or not folder.is_dir() or not os.path.lexists(folder / BAGIT):
        raise UserError(
            f"{one_line(str(folder))} is no bundle: it must be a folder with {BAGIT}, as "
            f"`castlewalls submit` writes one"
        )
    bag = Bag()
    sizes = _sizes(folder, bag.faults["files"])
    if bag.faults["files"]:
        return bag
    for name in sizes:
        try:
            bag.files[name] = read_plain(folder / name, MAX_FILE)
        except (OSError, ValueError) as error:
            reason = error.strerror or "" if isinstance(error, OSError) else str(error)
            bag.faults["files"].append(f"{name} cannot be read: {one_line(reason)}")
    if not bag.faults["files"]:
        _check_manifests(bag)
    return bag


def _sizes(folder: Path, faults: list[str]) -> dict[str, int]:
    """Path -> bytes of every file below ``folder``, before one of them is opened."""
    sizes: dict[str, int] = {}
    for entry, name in _entries(folder, "", faults):
        sizes[name] = entry.stat(follow_symlinks=False).st_size
    faults += _size_faults(sizes)
    return dict(sorted(sizes.items()))


def _size_faults(sizes: Mapping[str, int]) -> list[str]:
    faults = [
        f"{name} must have at most {MAX_FILE} bytes, got {size}"
        for name, size in sizes.items()
        if size > MAX_FILE
    ]
    if len(sizes) > MAX_FILES:
        faults.append(f"a bundle must have at most {MAX_FILES} files, got {len(sizes)}")
    if (total := sum(sizes.values())) > MAX_BYTES:
        faults.append(f"a bundle must have at most {MAX_BYTES} bytes, got {total}")
    lower: dict[str, str] = {}
    for name in sorted(sizes):
        if (other := lower.setdefault(name.lower(), name)) != name:
            faults.append(f"{name} and {other} are one file where case does not count")
    return faults


def _entries(folder: Path, above: str, faults: list[str]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Every plain file with its path; all else is a fault. It stops after :data:`MAX_FILES`."""
    waiting, count = [(folder, above)], 0
    while waiting and count <= MAX_FILES:
        current, prefix = waiting.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                name = prefix + entry.name
                count += 1
                mode = entry.stat(follow_symlinks=False).st_mode
                if wrong := _path_fault(name):
                    faults.append(f"a path in a bundle {wrong}")
                elif stat.S_ISLNK(mode):
                    faults.append(f"{name} must be a file, got a link, and links are not followed")
                elif stat.S_ISDIR(mode):
                    waiting.append((Path(entry.path), f"{name}/"))
                elif not stat.S_ISREG(mode):
                    faults.append(f"{name} must be a plain file, got a pipe, socket or device")
                else:
                    yield entry, name
                if count > MAX_FILES:
                    faults.append(f"a bundle must have at most {MAX_FILES} files, got more")
                    return


def _path_fault(name: str) -> str:
    """Why this is no path in a bundle, in words; empty if it is one."""
    segments = name.split("/")
    if name.startswith("/") or ".." in segments or "\\" in name:
        return f"must stay below the bundle's folder, got {brief(name)}"
    if len(name) > MAX_PATH or not all(_SEGMENT.fullmatch(one) for one in segments):
        return f"must be plain letters of at most {MAX_PATH} in all, got {brief(name)}"
    return ""


def _check_manifests(bag: Bag) -> None:
    faults = bag.faults["hashes"]
    for name in (BAGIT, INFO, MANIFEST, TAGS):
        if name not in bag.files:
            faults.append(f"{name} must be there, and is missing")
    if faults:
        return
    if bag.files[BAGIT].decode("utf-8", "replace").replace("\r\n", "\n") != _DECLARATION:
        faults.append(f"{BAGIT} must declare BagIt {VERSION} in UTF-8, got other lines")
    bag.info = _info(bag.files[INFO].decode("utf-8", "replace"))
    payload = {name for name in bag.files if name.startswith(PAYLOAD)}
    beside = set(bag.files) - payload - {TAGS}
    for manifest, listed in ((MANIFEST, payload), (TAGS, beside)):
        _check_manifest(bag, manifest, listed)
    size = sum(len(bag.files[name]) for name in payload)
    if (oxum := bag.info.get("Payload-Oxum", "")) != f"{size}.{len(payload)}":
        faults.append(f"Payload-Oxum must be {size}.{len(payload)}, got {one_line(oxum, 60)}")


def _info(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines()[:100])
    return {one_line(name, 60): one_line(value.strip(), 1000) for name, _, value in pairs}


def _check_manifest(bag: Bag, manifest: str, listed: set[str]) -> None:
    """Whether a manifest lists exactly these files, with their hashes."""
    faults, hashes = bag.faults["hashes"], dict[str, str]()
    for number, line in enumerate(bag.files[manifest].decode("utf-8", "replace").splitlines(), 1):
        where = f"{manifest}, line {number}:"
        if (parsed := _LINE.fullmatch(line)) is None:
            faults.append(f"{where} must be a SHA-256 and a path, got {brief(line[:200])}")
            continue
        expected, name = parsed.groups()
        if wrong := _path_fault(name):
            faults.append(f"{where} a path {wrong}")
        elif name in hashes:
            faults.append(f"{where} a path must be listed once, got {name} again")
        elif name not in listed:
            faults.append(f"{where} what it lists must be there, and {name} is not")
        elif (actual := sha256(bag.files[name])) != expected:
            faults.append(f"{name} must have the SHA-256 {expected[:16]}..., got {actual[:16]}...")
        hashes[name] = expected
    for name in sorted(listed - set(hashes)):
        faults.append(f"{name} must be listed in {manifest}, and is not")
