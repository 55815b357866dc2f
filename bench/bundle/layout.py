"""What a bundle's files are called, how a cell is named in it, and how its JSON is read. Without
torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from bench.record import Record
from bench.results import PLUGIN as PLUGIN
from bench.text import one_line

#: Of everything this folder writes; raised when a reader of the older form would misread it.
VERSION = 1
CRATE = "ro-crate-metadata.json"
INDEX = "witness.json"
#: Folders of the payload: the plugin's source, and the witnesses.
SOURCE, WITNESS = "plugin/", "witness/"
#: Keys of ``bag-info.txt``.
BUNDLE, SUITE, COLUMN = "Castlewalls-Bundle", "Castlewalls-Suite", "Castlewalls-Column"
#: Levels of a JSON value, entries and characters of one text in a file.
MAX_DEPTH, MAX_VALUES, MAX_TEXT = 32, 4_000_000, 2**20


def identity(record: Record) -> str:
    """Which cell a record is of, as :attr:`bench.cells.Cell.id` says it."""
    specs = [record.testbed, record.attack, record.probe, record.defense]
    specs += [] if record.sampler is None else [record.sampler]
    named = [None if spec is None else [spec.name, spec.params] for spec in specs]
    return json.dumps([*named, list(record.seeds) or record.seed], sort_keys=True)


def row_of(record: Record) -> str:
    """The cells that differ from a record's in the seed alone."""
    return json.dumps(json.loads(identity(record))[:-1])


def cell_name(record: Record) -> str:
    """What a cell's witnesses are called: 24 digits of its identity's SHA-256."""
    return hashlib.sha256(identity(record).encode()).hexdigest()[:24]


def cell_words(record: Record) -> str:
    """A cell in words: attack x column, seed."""
    row = record.attack.name + (f" probed with {record.probe.name}" if record.probe else "")
    under = f" under {record.sampler.name}" if record.sampler else ""
    seeds = ", ".join(map(str, record.seeds or (record.seed,)))
    return f"{row} x {record.defense.name}{under}, seed {seeds}"


def to_json(value: Any) -> bytes:
    """Canonical: sorted keys, no NaN, a line feed at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def read_json(data: bytes, what: str) -> Any:
    """JSON of bounded depth and size, every number finite. Raises ``ValueError``, one line that
    begins with ``what``.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{what} must be nested at most {MAX_DEPTH} deep, got more") from None
    except ValueError as error:
        raise ValueError(f"{what} must be JSON, got: {one_line(str(error), 120)}") from None
    waiting, count = [(value, 1)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{what} must be nested at most {MAX_DEPTH} deep, got more")
        if count > MAX_VALUES:
            raise ValueError(f"{what} must have at most {MAX_VALUES} values, got more")
        if isinstance(one, dict):
            waiting += [(inner, depth + 1) for pair in one.items() for inner in pair]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, str) and len(one) > MAX_TEXT:
            raise ValueError(f"{what} must have texts of at most {MAX_TEXT} letters, got more")
        elif isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"{what} must have finite numbers, got {one}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
