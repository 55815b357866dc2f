"""Results that can be committed, sent and read by anybody: text and a few small pictures, without
torch and without the store that made them.

``<suite>/run.json`` says what was run and what its numbers mean; ``<suite>/records.jsonl`` has one
record a line (:mod:`bench.rows`); ``<suite>/pictures/`` has the pictures that came along, called by
their SHA-256. A bundle that somebody submitted has the same in its ``data/``.

All of it may come from a stranger. What is not a plain file of a plain folder, is too large or is
not as described becomes a problem of its run, one line each, and affects nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.record import MAX_NAME, Picture, Record, Run, methods_of, read_runs
from bench.rows import MAX_LINES, json_of, records_of
from bench.text import one_line
from bench.words import MetricWords

SCHEMA = 2
RUN, RECORDS, PICTURES = "run.json", "records.jsonl", "pictures"
#: What marks a bundle, its payload, and what in it says which plugin was submitted.
BAGIT, PAYLOAD, PLUGIN = "bagit.txt", "data", "plugin.json"
#: The folder by which a store is known.
RUNS = "runs"
#: Bytes of run.json, of records.jsonl, of a picture; suites; pixels of a side.
MAX_RUN, MAX_RECORDS, MAX_PICTURE = 4 * 2**20, 64 * 2**20, 64 * 2**10
MAX_SUITES, MAX_SIDE, MAX_DESCRIPTION = 500, 2048, 4000
#: Faults of one file that have a line each.
_FAULT_LINES = 3
_PNG = b"\x89PNG\r\n\x1a\n"
PICTURE_NAME = re.compile(r"[0-9a-f]{24}\.png")


@dataclass(frozen=True, kw_only=True)
class Submitted(Run):
    """The run in a bundle. ``folder``: the bundle's; ``column``: the submitted plugin's name;
    ``version``: a hash of its source. Both are the bundle's own words, as far as nobody has
    verified it. ``level``: to which level somebody has, 0 for not at all.
    """

    folder: Path
    column: str
    version: str
    level: int = 0

    @property
    def bundle(self) -> str:
        """The bundle's name, in plain letters."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.folder.resolve().name)[:80]


#: The folder of results that holds what was accepted of others, a bundle each.
SUBMISSIONS = "submissions"


def read_source(path: Path) -> list[Run]:
    """The runs of a store, of a results folder, or of one suite's folder in it, or of a bundle.

    Raises :class:`UserError` for anything else.
    """
    if _is_store(path):
        return read_runs(path)
    if path.is_dir() and any(os.path.lexists(path / name) for name in (RUN, RECORDS, BAGIT)):
        return [_read(path)]
    if path.is_dir() and any(
        os.path.lexists(one / name) for one in _folders(path) for name in (RUN, BAGIT)
    ):
        return [*read_results(path), *map(_read, bundles_in(path))]
    what = "holds no records yet" if path.is_dir() else "is no folder"
    raise UserError(
        f"{one_line(str(path))} {what}; `castlewalls run SUITE` makes a store, `castlewalls export "
        f"SUITE` makes results of it"
    )


def _is_store(path: Path) -> bool:
    """A folder of results may have a suite's of that name, from before suites could not be."""
    return (path / RUNS).is_dir() and not os.path.lexists(path / RUNS / RUN)


def bundles_in(path: Path) -> list[Path]:
    """The bundles that a source has: itself, or folders of it or of its folder
    :data:`SUBMISSIONS`.
    """
    if _is_store(path):
        return []
    if os.path.lexists(path / BAGIT):
        return [path]
    folders = [*_folders(path)[:MAX_SUITES], *_folders(path / SUBMISSIONS)[:MAX_SUITES]]
    return [one for one in folders if os.path.lexists(one / BAGIT)]


def read_results(folder: Path, protocols: Collection[str] | None = None) -> list[Run]:
    """The run of every suite below ``folder``, by name, and of no bundle: what was measured here;
    ``protocols``: their records of these alone, which is faster. None if there is no such folder.
    Raises nothing for what is wrong with them: it stands in their problems.
    """
    folders = [
        one
        for one in _folders(folder)
        if one.name != SUBMISSIONS and not os.path.lexists(one / BAGIT)
    ]
    return [_read(one, protocols) for one in folders[:MAX_SUITES]] + (
        [
            Run.unreadable(
                one_line(folder.name, 80), f"more than {MAX_SUITES} folders; the rest was not read"
            )
        ]
        if len(folders) > MAX_SUITES
        else []
    )


def published() -> Path:
    """The results that come with castlewalls: in the installed package, or beside it in a
    checkout.
    """
    package = Path(__file__).resolve().parent
    inside = package / "published"
    return inside if inside.is_dir() else package.parent / "results"


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        one
        for one in folder.iterdir()
        if not one.name.startswith((".", "__")) and (one.is_symlink() or one.is_dir())
    )


def _read(folder: Path, protocols: Collection[str] | None = None) -> Run:
    if not os.path.lexists(folder / BAGIT):
        return _read_run(folder, protocols=protocols)
    name = one_line(folder.name, 80)
    try:
        if folder.is_symlink() or (folder / PAYLOAD).is_symlink():
            raise ValueError("it is a link, and links are not followed")
        column, version = _submitted(
            json_of(read_plain(folder / PAYLOAD / PLUGIN, MAX_RUN), PLUGIN)
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return Run.unreadable(name, f"bundle {name} cannot be read: {one_line(reason)}")
    run = vars(_read_run(folder / PAYLOAD, name))
    return Submitted(**run, folder=folder, column=column, version=version)


def _submitted(data: Any) -> tuple[str, str]:
    """The name of what a bundle says was submitted, and a hash of its source. Raises ``ValueError``
    in one line.
    """
    column = data.get("column") if isinstance(data, dict) else None
    if not isinstance(column, str) or not 0 < len(column) <= MAX_NAME:
        raise ValueError(f"column in {PLUGIN} must be a name of at most {MAX_NAME} characters")
    files = json.dumps(data.get("files"), sort_keys=True)
    return column, hashlib.sha256(files.encode()).hexdigest()


def _read_run(folder: Path, name: str = "", protocols: Collection[str] | None = None) -> Run:
    name = name or one_line(folder.name, 80)
    try:
        if folder.is_symlink():
            raise ValueError("it is a link, and links are not followed")
        account = _account(folder)
        lines = read_plain(folder / RECORDS, MAX_RECORDS)
        if hashlib.sha256(lines).hexdigest() != account["sha256"]:
            raise ValueError(f"{RECORDS} is not what {RUN} was written with (SHA-256 differs)")
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return Run.unreadable(name, f"results of {name} cannot be read: {one_line(reason)}")
    records: list[tuple[Path, Record]] = []
    faults: list[str] = []
    pictures: dict[str, str] = {}
    for number, outcome in records_of(lines, protocols):
        if isinstance(outcome, str):
            faults.append(f"{RECORDS}, line {number}: {outcome}")
            continue
        record, wrong = _with_pictures(folder, outcome, pictures)
        faults += [f"{RECORDS}, line {number}: {text}" for text in wrong]
        records.append((folder, record))
    problems = [f"results of {name}: {one_line(text)}" for text in faults[:_FAULT_LINES]]
    if len(faults) > _FAULT_LINES:
        more = len(faults) - _FAULT_LINES
        problems.append(f"results of {name}: {more} more faults like these")
    counts = {"ok": 0, "failed": 0, "skipped": 0}
    counts |= dict(Counter(record.status for _, record in records))
    if account["cells"] > len(records) and protocols is None:
        counts["missing"] = account["cells"] - len(records)
    return Run(
        suite=account["suite"],
        description=account["description"],
        started=account["started"],
        finished=account["finished"],
        counts=counts,
        records=records,
        metrics=account["metrics"],
        methods=account["methods"],
        problems=tuple(problems),
        note=account["note"],
    )


def _account(folder: Path) -> dict[str, Any]:
    """The checked fields of ``run.json``. Raises ``ValueError`` in one line."""
    data = json_of(read_plain(folder / RUN, MAX_RUN), RUN)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{RUN} must be an object of schema {SCHEMA}")
    texts = {
        "suite": MAX_NAME,
        "description": MAX_DESCRIPTION,
        "started": 40,
        "finished": 40,
        "note": 300,
    }
    for field, longest in (texts | {"sha256": 64}).items():
        if not isinstance(data.get(field), str) or len(data[field]) > longest:
            raise ValueError(f"{field} in {RUN} must be text of at most {longest} characters")
    cells = data.get("cells")
    if type(cells) is not int or not 0 <= cells <= MAX_LINES:
        raise ValueError(f"cells in {RUN} must be a whole number from 0 to {MAX_LINES}")
    declared = data.get("metrics")
    if not isinstance(declared, list) or len(declared) > MAX_LINES:
        raise ValueError(f"metrics in {RUN} must be a list of at most {MAX_LINES}")
    metrics = tuple(MetricWords.from_json(one) for one in declared)
    clean = {field: one_line(data[field], longest) for field, longest in texts.items()}
    methods = methods_of(data.get("methods"))
    return {
        **clean,
        "sha256": data["sha256"],
        "cells": cells,
        "metrics": metrics,
        "methods": methods,
    }


def _with_pictures(folder: Path, record: Record, known: dict[str, str]) -> tuple[Record, list[str]]:
    """The record with the pictures that can be shown, and what is wrong with the others.
    ``known``: what is wrong with each file, so that each is read once.
    """
    kept, wrong = [], []
    for picture in record.pictures:
        if picture.path not in known:
            known[picture.path] = _picture_fault(folder, picture.path)
        if known[picture.path]:
            wrong.append(f"picture {one_line(picture.path, 80)} {known[picture.path]}")
        else:
            kept.append(picture)
    return dataclasses.replace(record, pictures=tuple(kept)), wrong


def _picture_fault(folder: Path, path: str) -> str:
    directory, _, name = path.partition("/")
    if directory != PICTURES or not PICTURE_NAME.fullmatch(name):
        return f"must be called {PICTURES}/ and 24 digits of its SHA-256, and .png"
    try:
        if (folder / PICTURES).is_symlink():
            return "lies behind a link, and links are not followed"
        data = read_plain(folder / PICTURES / name, MAX_PICTURE)
    except (OSError, ValueError) as error:
        return one_line(error.strerror or "") if isinstance(error, OSError) else str(error)
    return png_fault(data) or ("" if picture_name(data) == name else "is another than its name")


def png_fault(data: bytes) -> str:
    """Why these bytes are no picture to show; empty if they are."""
    if not data.startswith(_PNG) or len(data) < 33:
        return "is not a PNG"
    sides = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return "" if 0 < min(sides) and max(sides) <= MAX_SIDE else f"is larger than {MAX_SIDE} pixels"


def picture_name(data: bytes) -> str:
    """What a picture is called: by its content, so that equal ones are kept once."""
    return f"{hashlib.sha256(data).hexdigest()[:24]}.png"


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of at most ``limit``. Raises ``OSError`` for a link, ``ValueError``
    for a pipe, a device or a larger file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link, and links are not followed")
    handle = os.open(path, flags)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name} is no plain file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return data


def pictures_of(folder: Path, record: Record, roles: re.Pattern[str]) -> dict[Picture, bytes]:
    """The pictures of a record in a store whose roles match, with their bytes; those that cannot be
    read, or are too large, are left out.
    """
    pictures: dict[Picture, bytes] = {}
    for picture in record.pictures:
        file = (folder / picture.path).resolve()
        if not roles.fullmatch(picture.role) or not file.is_relative_to(folder.resolve()):
            continue
        try:
            data = read_plain(file, MAX_PICTURE)
        except (OSError, ValueError):
            continue
        if not png_fault(data):
            name = f"{PICTURES}/{picture_name(data)}"
            pictures[dataclasses.replace(picture, path=name)] = data
    return pictures
