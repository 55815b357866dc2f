"""What a bag holds as a bundle, read file by file, and what is wrong with it (level 1)."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bundle.bag import PAYLOAD, Bag, sha256
from bench.bundle.expected import Expected, Setting, expected
from bench.bundle.layout import (
    BUNDLE,
    COLUMN,
    CRATE,
    INDEX,
    PLUGIN,
    SOURCE,
    SUITE,
    VERSION,
    WITNESS,
    cell_words,
    read_json,
)
from bench.bundle.witnesses import Witnesses
from bench.errors import UserError
from bench.names import brief
from bench.record import Record
from bench.registry import RESERVED
from bench.results import PICTURES, RECORDS, RUN, read_source
from bench.suite import shipped_suites
from bench.text import one_line

#: What the payload may hold.
_ALLOWED = re.compile(
    "|".join(
        (
            *map(re.escape, (RUN, RECORDS, PLUGIN, INDEX)),
            rf"{PICTURES}/[0-9a-f]{{24}}\.png",
            rf"{SOURCE}[^/].*",
            rf"{WITNESS}((aim-)?[0-9a-f]{{24}}\.safetensors|[0-9a-f]{{24}}\.png)",
        )
    )
)
_CONTEXT = "https://w3id.org/ro/crate/1."


@dataclass(kw_only=True)
class Contents:
    """``payload``: path below ``data/`` -> bytes; ``suite``, ``column``: what the bundle says it
    is; ``about``: ``plugin.json``; ``expected``: what its suite must have; ``faults``: lines by
    check; ``seen``: what was seen, by check.
    """

    payload: dict[str, bytes]
    suite: str
    column: str
    run_suite: str = ""
    records: list[Record] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    witnesses: Witnesses = field(default_factory=lambda: Witnesses({}))
    expected: Expected | None = None
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seen: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> frozenset[Setting]:
        """Under which the column's plugin was run, by its records."""
        return frozenset(
            (record.defense.name, json.dumps(record.defense.params, sort_keys=True))
            for record in self.records
            if record.defense.name == self.column
        )


def read_contents(bag: Bag, suite: str) -> Contents:
    """The bundle in a bag whose files are whole. ``suite``: the file of its suite; empty for the
    shipped one of the name that the bundle says.
    """
    payload = {
        name.removeprefix(PAYLOAD): data
        for name, data in bag.files.items()
        if name.startswith(PAYLOAD)
    }
    contents = Contents(
        payload=payload,
        suite=bag.info.get(SUITE, ""),
        column=bag.info.get(COLUMN, ""),
    )
    _check_json(contents, bag)
    if contents.faults["json"]:
        return contents
    _read_records(contents)
    _check_plugin(contents)
    contents.witnesses = Witnesses(payload)
    contents.faults["witnesses"] += contents.witnesses.faults
    contents.seen["witnesses"] = f"of {len(contents.witnesses.index)} cells"
    _check_protocol(contents, suite)
    return contents


def _check_json(contents: Contents, bag: Bag) -> None:
    faults, payload = contents.faults["json"], contents.payload
    if (version := bag.info.get(BUNDLE, "")) != str(VERSION):
        faults.append(f"{BUNDLE} must be {VERSION}, got {brief(version)}")
    if not contents.column:
        faults.append(f"{COLUMN} must name a column in bag-info.txt, and is missing")
    if contents.column == RESERVED:
        faults.append(f"{COLUMN} must be a plugin's name, got {RESERVED}, no defense at all")
    faults += [
        f"data/{name} must not be in a bundle" for name in payload if not _ALLOWED.fullmatch(name)
    ]
    named = {f"data/{name}": payload.get(name) for name in (RUN, RECORDS, PLUGIN, INDEX)}
    for name, data in (named | {CRATE: bag.files.get(CRATE)}).items():
        try:
            if data is None:
                raise ValueError(f"{name} must be there, and is missing")
            if name.endswith(RECORDS):
                for number, line in enumerate(data.splitlines(), 1):
                    read_json(line, f"{name}, line {number}")
                continue
            value = read_json(data, name)
            if name == CRATE:
                _check_crate(value)
            elif not isinstance(value, dict):
                raise ValueError(f"{name} must be an object, got {type(value).__name__}")
            elif name.endswith(PLUGIN):
                contents.about = value
        except ValueError as error:
            faults.append(one_line(str(error)))


def _check_crate(value: Any) -> None:
    context = value.get("@context") if isinstance(value, dict) else None
    if not isinstance(context, str) or not context.startswith(_CONTEXT):
        raise ValueError(f"{CRATE} must be of RO-Crate 1, got the context {brief(context)}")
    graph = value.get("@graph")
    ids = [one.get("@id") for one in graph if isinstance(one, dict)] if type(graph) is list else []
    if CRATE not in ids or "./" not in ids:
        raise ValueError(f"{CRATE} must describe itself and the bundle, and does not")


def _read_records(contents: Contents) -> None:
    """Through the reader of results, from a copy of what was hashed."""
    with tempfile.TemporaryDirectory(prefix="castlewalls-") as name:
        folder = Path(name) / "data"
        for path, data in contents.payload.items():
            if path in (RUN, RECORDS) or path.startswith(f"{PICTURES}/"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
        (run,) = read_source(folder)
    contents.faults["records"] += run.problems
    contents.records = [record for _, record in run.records]
    contents.run_suite = run.suite
    contents.seen["records"] = f"{len(contents.records)} records of {run.suite}"
    pictured = {picture.path for record in contents.records for picture in record.pictures}
    contents.faults["records"] += [
        f"data/{path} is a picture of no record"
        for path in contents.payload
        if path.startswith(f"{PICTURES}/") and path not in pictured
    ]


def _check_plugin(contents: Contents) -> None:
    faults, listed = contents.faults["plugin"], contents.about.get("files")
    if contents.about.get("column") != contents.column:
        got = brief(contents.about.get("column"))
        faults.append(f"column in {PLUGIN} must be {contents.column}, got {got}")
    if not isinstance(listed, list) or not listed or not all(map(_is_file, listed)):
        faults.append(f"files in {PLUGIN} must list name, sha256, bytes and carried of each")
        return
    carried = {SOURCE + one["name"]: one["sha256"] for one in listed if one["carried"]}
    there = {name for name in contents.payload if name.startswith(SOURCE)}
    for name in sorted(there | set(carried)):
        if name not in carried or name not in there:
            faults.append(f"data/{name} must be both there and listed in {PLUGIN}")
        elif sha256(contents.payload[name]) != carried[name]:
            faults.append(f"data/{name} must have the SHA-256 that {PLUGIN} lists, got another")
    left = len(listed) - len(carried)
    contents.seen["plugin"] = f"{len(carried)} files" + (f", {left} by hash alone" if left else "")


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("sha256"), str)
        and type(value.get("bytes")) is int
        and isinstance(value.get("carried"), bool)
    )


def _check_protocol(contents: Contents, file: str) -> None:
    faults = contents.faults["protocol"]
    if not file and contents.suite not in shipped_suites():  # a stranger's word is no path to open
        faults.append(
            f"suite must be one that comes with castlewalls, or have its file named with --suite, "
            f"got {brief(contents.suite)}"
        )
        return
    try:
        contents.expected = expected(file or contents.suite)
    except UserError as error:
        faults.append(f"what {contents.suite} must hold is not known: {one_line(str(error), 200)}")
        return
    if contents.suite != contents.expected.suite:
        faults.append(f"suite must be {contents.expected.suite}, got {brief(contents.suite)}")
    known = contents.expected.protocols
    others = [record for record in contents.records if record.protocol not in known]
    contents.faults["protocol"] += [
        f"{cell_words(record)}: protocol must be {' or '.join(sorted(known))}, got "
        f"{brief(record.protocol)}"
        for record in others
    ]
    contents.seen["protocol"] = ", ".join(sorted(known))
