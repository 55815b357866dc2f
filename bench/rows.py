"""Records as lines of JSON, the ``records.jsonl`` of results: without what is as usual, and with
what several records share written once, before them. All of it may come from a stranger.

A line ``{"shared": KEY, "value": ...}`` names a value by digits of its SHA-256; text in one of the
places :data:`SHARED` of a record is such a key. A record's line has its fields but for:

- ``metrics``: name -> [value, ci_low, ci_high, n, effective_n], cut after the last that is there;
  ``declared``: name -> unit and direction;
- ``series``: name -> a form of :mod:`bench.curves`;
- ``absent``: reason -> names;
- its provenance, which is ``stage``, ``inputs``, ``papers`` and, in ``made``, the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

from bench.curves import length, numbers, shortest
from bench.record import Metric, PluginSpec, Record
from bench.text import one_line

#: Where a line may have a key in place of the value.
SHARED = (
    *("testbed", "attack", "probe", "sampler", "defense", "absent", "flags"),
    *("declared", "papers", "made"),
)
#: Of a provenance, what a line has under a name of its own, if it is of this type.
_OWN = {"stage": str, "inputs": dict, "papers": list}
#: Of a metric, what its list holds in this order, and what ``declared`` holds.
_NUMBERS = ("value", "ci_low", "ci_high", "n", "effective_n")
_DECLARED = ("unit", "higher_is_better")
#: Bytes of a line; records; shared values; bytes of all records once what they share, their series
#: (eight a number) and their reasons stand in them.
MAX_LINE, MAX_LINES, MAX_SHARED, MAX_EXPANDED = 4 * 2**20, 20_000, 20_000, 256 * 2**20


def records_of(
    lines: bytes, protocols: Container[str] | None = None
) -> Iterator[tuple[int, Record | str]]:
    """The number of each record's line, and the record or what is wrong with the line;
    ``protocols``: of these alone, if given.
    """
    shared: dict[str, tuple[Any, int]] = {}
    room = MAX_EXPANDED
    for number, line in enumerate(lines.splitlines(), 1):
        if number - len(shared) > MAX_LINES:
            yield number, f"more than {MAX_LINES} records; the rest was not read"
            return
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"it has {len(line)} bytes, more than {MAX_LINE}")
            row = json_of(line, "it")
            if not isinstance(row, dict):
                raise ValueError(f"a record must be an object, got {type(row).__name__}")
            if "shared" in row:
                _share(row, shared)
                continue
            if protocols is not None and row.get("protocol") not in protocols:
                continue
            room -= len(line) + _fill(row, shared) + _size(row)
            if room < 0:
                yield number, f"all records have more than {MAX_EXPANDED} bytes; the rest was left"
                return
            yield number, Record.from_values(_values(row))
        except ValueError as error:
            yield number, one_line(str(error))


def _share(row: Mapping[str, Any], shared: dict[str, tuple[Any, int]]) -> None:
    """Takes up a shared value, with its length as JSON."""
    key = row["shared"]
    if set(row) != {"shared", "value"} or not isinstance(key, str) or key in shared:
        raise ValueError("a shared value must have a key of its own and a value, and no more")
    if len(shared) >= MAX_SHARED:
        raise ValueError(f"more than {MAX_SHARED} shared values")
    shared[key] = row["value"], len(json.dumps(row["value"]))


def _fill(row: dict[str, Any], shared: Mapping[str, tuple[Any, int]]) -> int:
    """Puts the shared values where a line has their keys; returns the characters put in."""
    added = 0
    for name in SHARED:
        key = row.get(name)
        if isinstance(key, str):
            if key not in shared:
                raise ValueError(
                    f"{name} is {one_line(repr(key), 40)}, which no line before it shares"
                )
            row[name], size = shared[key]
            added += size
    return added


def _size(row: Mapping[str, Any]) -> int:
    """The bytes that its series and reasons take, written out."""
    size = 0
    for name, form in _object(row, "series").items():
        try:
            size += 8 * length(form)
        except ValueError as error:
            raise ValueError(f"series {one_line(name, 80)} {error}") from None
    for reason, names in _object(row, "absent").items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"absent must give names for {one_line(repr(reason), 80)}")
        size += len(reason) * len(names)
    return size


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a record, for :meth:`Record.from_values`, which checks them."""
    if "provenance" in row:
        raise ValueError("of another version: unknown field 'provenance'")
    declared = _object(row, "declared")
    record = {name: value for name, value in row.items() if name not in ("declared", "made", *_OWN)}
    record["metrics"] = {
        name: _metric_of(name, values, declared.get(name, {}))
        for name, values in _object(row, "metrics").items()
    }
    record["series"] = {name: numbers(form) for name, form in _object(row, "series").items()}
    reasons = [(name, why) for why, names in _object(row, "absent").items() for name in names]
    record["absent"] = dict(sorted(reasons))
    if len(record["absent"]) < len(reasons):
        raise ValueError("absent must give each name one reason")
    own = {name: row[name] for name in _OWN if name in row}
    record["provenance"] = {**_object(row, "made"), **own}
    return record


def _metric_of(name: str, values: Any, declared: Any) -> dict[str, Any]:
    if not isinstance(values, list) or not 1 <= len(values) <= len(_NUMBERS):
        raise ValueError(f"metric {one_line(name, 80)} must be a list of 1 to {len(_NUMBERS)}")
    if not isinstance(declared, dict) or not set(declared) <= set(_DECLARED):
        raise ValueError(f"what is declared of {one_line(name, 80)} must be a unit and a direction")
    return {**dict(zip(_NUMBERS, values, strict=False)), **declared}


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {type(value).__name__}")
    return value


def json_of(data: bytes, what: str) -> Any:
    """Raises ``ValueError`` in one line that begins with ``what``."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is no JSON: {one_line(str(error), 120)}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# --- the other way --------------------------------------------------------------------------------


def lines_of(records: list[Record]) -> bytes:
    """``records.jsonl``: sorted, so that the order of a suite file changes nothing."""
    rows = sorted((_row(record) for record in records), key=_order)
    counts = Counter(_text(row[name]) for row in rows for name in SHARED if name in row)
    texts = sorted(text for text, count in counts.items() if count > 1 and len(text) > 10)
    keys = _keys(texts)
    for row in rows:
        for name in SHARED:
            if name in row and (text := _text(row[name])) in keys:
                row[name] = keys[text]
    head = [f'{{"shared":"{keys[text]}","value":{text}}}' for text in texts]
    return "".join(f"{line}\n" for line in (*head, *map(_text, rows))).encode()


def _keys(texts: list[str]) -> dict[str, str]:
    """Text -> its first six digits of SHA-256, or as many as tell all of them apart. They are the
    same whatever else is shared, so that few lines change with one value.
    """
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    digits = next(n for n in range(6, 65) if len({one[:n] for one in digests}) == len(texts))
    return {text: one[:digits] for text, one in zip(texts, digests, strict=True)}


def _row(record: Record) -> dict[str, Any]:
    """A record as the JSON values of its line, shared ones in their places."""
    row = {
        field.name: value
        for field in dataclasses.fields(Record)
        if field.name not in ("metrics", "series", "absent", "provenance")
        and (value := _plain(getattr(record, field.name))) not in (None, "", [], {})
    }
    declared = {
        name: {one: value for one in _DECLARED if (value := getattr(metric, one)) not in (None, "")}
        for name, metric in record.metrics.items()
    }
    absent: dict[str, list[str]] = {}
    for name, reason in sorted(record.absent.items()):
        absent.setdefault(reason, []).append(name)
    made = dict(record.provenance)
    row |= {name: made.pop(name) for name, kind in _OWN.items() if isinstance(made.get(name), kind)}
    parts = {
        "metrics": {name: _list(metric) for name, metric in record.metrics.items()},
        "declared": {name: words for name, words in declared.items() if words},
        "series": {name: shortest(values) for name, values in record.series.items()},
        "absent": absent,
        "made": made,
    }
    return row | {name: part for name, part in parts.items() if part}


def _list(metric: Metric) -> list[Any]:
    values = [getattr(metric, name) for name in _NUMBERS]
    while len(values) > 1 and values[-1] is None:
        values.pop()
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, PluginSpec):
        # Not vars(): what was looked up once is kept there as well.
        values = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {name: one for name, one in values if one not in ("", {})}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _order(row: Mapping[str, Any]) -> str:
    fields = ("testbed", "protocol", "sampler", "attack", "probe", "defense")
    return _text([*(row.get(name) for name in fields), row["seed"], row.get("seeds"), row])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
