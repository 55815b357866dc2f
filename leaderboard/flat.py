"""Nested values of a record, as lines of a key and a text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and their values as text; citations are left out, they have their own section."""
    lines: list[tuple[str, str]] = []
    for key, value in sorted(tree.items()):
        if not prefix and key == "papers":
            continue
        if isinstance(value, Mapping):
            lines += flatten(value, f"{prefix}{key}.")
        else:
            lines.append(
                (
                    f"{prefix}{key}",
                    cut_block(
                        value
                        if isinstance(value, str)
                        else json.dumps(value, sort_keys=True, ensure_ascii=False)
                    ),
                )
            )
    return lines
