"""What a cell's panel shows: pictures, every number per seed, cost, parameters, provenance, and why
it failed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.record import Metric
from bench.words import caption
from leaderboard import beside
from leaderboard.beside import Beside
from leaderboard.board import Cell, Entry
from leaderboard.matrix import interval_text, metric_names, summary
from leaderboard.names import Words
from leaderboard.sound import LABEL, cut, visible

#: Letters of one block of parameters, or of one entry of the provenance, that the page shows.
BLOCK = 2000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG as a data URI, shown at ``width`` x ``height`` CSS pixels, or why there is none
    (``problem``).
    """

    name: str
    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """One metric: over the seeds, then per seed as (value, interval within the seed, samples)."""

    words: Words
    mean: str
    interval: str
    seeds: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """``published``: what papers printed for the same, with its sources; ``problems``: (status,
    reason, seeds that have it); ``provenance``: (key, value) where all seeds agree, else the key
    once a seed.
    """

    cell: Cell
    pictures: tuple[tuple[int, tuple[Picture, ...]], ...]
    metrics: tuple[MetricLine, ...]
    params: tuple[tuple[str, str, str], ...]
    problems: tuple[tuple[str, str, tuple[Entry, ...]], ...]
    provenance: tuple[tuple[str, str], ...]
    published: tuple[tuple[Beside, str], ...]


def panel(cell: Cell) -> Panel:
    """Everything a reader needs to check one cell."""
    sampler = cell.entries[0].record.sampler
    roles = (
        ("attack", cell.attack),
        ("probe", cell.probe),
        ("sampler", sampler),
        ("defense", cell.defense),
    )
    by_seed = ((entry.record.seed, _pictures(entry)) for entry in cell.entries)
    return Panel(
        cell=cell,
        pictures=tuple((seed, pictures) for seed, pictures in by_seed if pictures),
        metrics=tuple(_line(cell, name) for name in metric_names([cell])),
        params=tuple(
            (
                role,
                cut(spec.name, LABEL),
                _cut_block(json.dumps(spec.params, sort_keys=True, indent=1, ensure_ascii=False)),
            )
            for role, spec in roles
            if spec
        ),
        problems=_problems(cell),
        provenance=tuple(
            agreed((entry.record.seed, entry.record.provenance) for entry in cell.entries)
        ),
        published=beside.of_cell(cell),
    )


def _problems(cell: Cell) -> tuple[tuple[str, str, tuple[Entry, ...]], ...]:
    by_problem: dict[tuple[str, str], list[Entry]] = {}
    for entry in cell.entries:
        if entry.record.status != "ok":
            by_problem.setdefault(
                (entry.record.status, entry.record.reason or "no reason recorded"), []
            ).append(entry)
    return tuple(
        (status, reason, tuple(entries)) for (status, reason), entries in by_problem.items()
    )


def _cut_block(text: str) -> str:
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
                    _cut_block(
                        value
                        if isinstance(value, str)
                        else json.dumps(value, sort_keys=True, ensure_ascii=False)
                    ),
                )
            )
    return lines


def _line(cell: Cell, name: str) -> MetricLine:
    interval, words = summary(cell, name), cell.words(name)
    metrics = (entry.numbers.get(name) for entry in cell.entries)
    return MetricLine(
        words=words,
        mean=words.number(interval.mean) if interval else "–",
        interval=interval_text(words, interval) if interval else "",
        seeds=tuple(_seed(words, metric) for metric in metrics),
    )


def _seed(words: Words, metric: Metric | None) -> tuple[str, str, str]:
    if metric is None or metric.value is None:
        return "–", "", ""
    interval = ""
    if metric.ci_low is not None and metric.ci_high is not None:
        places = words.decimals_for(metric.value)
        ends = (words.number(metric.ci_low, places), words.number(metric.ci_high, places))
        interval = f"[{', '.join(ends)}]"
    return words.number(metric.value), interval, "" if metric.n is None else f"n = {metric.n}"


def _pictures(entry: Entry) -> tuple[Picture, ...]:
    """In the order of their file names, which is the order they were made in, all enlarged by the
    same whole factor.
    """
    pictures = [
        embedded(entry.folder, cut(caption(one.role, one.treatment), LABEL), one.path)
        for one in sorted(
            entry.record.pictures, key=lambda one: (_natural(one.path), one.role, one.treatment)
        )
    ]
    factor = max(
        1, min(4, 600 // max([picture.width for picture in pictures if picture.uri] or [600]))
    )
    return tuple(
        replace(picture, width=picture.width * factor, height=picture.height * factor)
        for picture in pictures
    )


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts ``strip-10`` after ``strip-9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]


def embedded(folder: Path, name: str, path: str) -> Picture:
    """The picture at ``path`` below a record's folder, at its own size."""
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()):
        return Picture(
            name=name, problem=f"{path} lies outside the record's folder and was not read"
        )
    if not file.is_file():
        return Picture(name=name, problem=f"{path} is missing from the store")
    data = file.read_bytes()
    if not data.startswith(_PNG) or len(data) < 24:
        return Picture(name=name, problem=f"{path} is not a PNG and was not embedded")
    uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Picture(
        name=name,
        uri=uri,
        width=int.from_bytes(data[16:20], "big"),
        height=int.from_bytes(data[20:24], "big"),
    )
