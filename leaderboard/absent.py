"""What was not measured, and why: in one cell, and in every cell of a board alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.words import whole_family
from leaderboard.board import Cell

#: (reason, metric).
Absence = tuple[str, str]


def everywhere(cells: Sequence[Cell]) -> frozenset[Absence]:
    """What all of these cells lack for the same reason."""
    if not cells:
        return frozenset()
    first, *others = (cell.absences for cell in cells)
    return first.intersection(*others)


def by_reason(lacking: Iterable[Absence]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reason -> its metrics, the reason with most of them first; those that a ``[*]`` covers, for
    the same reason, are not listed one by one.
    """
    every = set(lacking)
    names: dict[str, list[str]] = {}
    for reason, name in sorted(every):
        family = whole_family(name)
        if name == family or (reason, family) not in every:
            names.setdefault(reason, []).append(name)
    lines = [(reason, tuple(listed)) for reason, listed in names.items()]
    return tuple(sorted(lines, key=lambda line: (-len(line[1]), line[0])))
