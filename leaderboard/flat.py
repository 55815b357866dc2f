"""Nested values of a record, as lines of a key and a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from leaderboard.sound import visible

#: Letters of one block of parameters, or of one entry of the provenance, that the page shows.
BLOCK = 2000


def cut_block(text: str) -> str:
    """At most :data:`BLOCK` letters, with what is not seen spelled out."""
    escaped = visible(text)
    return (
        escaped
        if len(escaped) <= BLOCK
        else f"{escaped[:BLOCK]}… ({len(text)} characters, whole in the JSON beside this page)"
    )


def agreed(sources: Iterable[tuple[int, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Flattened provenance; a key on which the seeds differ is listed with each of its values."""
    values: dict[str, dict[str, list[int]]] = {}
    for seed, provenance in sources:
        for key, value in flatten(provenance):
            values.setdefault(key, {}).setdefault(value, []).append(seed)
    lines = []
    for key, by_value in sorted(values.items()):
        if len(by_value) == 1:
            lines.append((key, next(iter(by_value))))
        else:
            lines += [
                (f"{key} (seed {', '.join(map(str, sorted(set(seeds))))})", value)
                for value, seeds in sorted(by_value.items())
            ]
    return lines


def flatten(tree: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Dotted keys and their values as text; citations are left out, they have their own section."""
    return _flattened(json.dumps({key: value for key, value in tree.items() if key != "papers"}))


@lru_cache(maxsize=4096)
def _flattened(tree: str) -> tuple[tuple[str, str], ...]:
    """Of JSON: the records of one run have few provenances between them."""
    return tuple(_lines(json.loads(tree), ""))


def _lines(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from _lines(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value, sort_keys=True, ensure_ascii=False)
            yield f"{prefix}{key}", cut_block(value if isinstance(value, str) else text)
