"""Pictures from the same noise beside each other: an honest model, the backdoored one and the
defended one, from clean noise and as the adversary calls, and what differs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.words import caption, role_words
from leaderboard.board import Board, Cell, Entry, identity, same_sampler
from leaderboard.labels import label
from leaderboard.pictures import Picture, embedded
from leaderboard.sound import LABEL, cut

CLEAN = "clean"
#: Of so many seeds a cell has pictures: those of every seed are a fifth of the first board.
SEEDS = 2
#: Roles that are samples, started from the seed's noise.
_DRAWN = re.compile(r"clean|target|call:.*", re.DOTALL)


@dataclass(frozen=True)
class Shot:
    """A picture, or the difference of two (pixel by pixel, absolute); ``None``: not there."""

    picture: Picture | None
    less: Picture | None = None
    name: str = ""


@dataclass(frozen=True)
class Contrast:
    """``heads``: of the columns; ``lines``: (whose model, its pictures)."""

    heads: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Shot, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class SeedPictures:
    """One seed's. ``contrast``: ``None`` where nothing was drawn; ``beside``: all others."""

    seed: int
    contrast: Contrast | None
    beside: tuple[Picture, ...]


def pictures_by_seed(board: Board, cell: Cell) -> tuple[SeedPictures, ...]:
    """The first :data:`SEEDS` that have pictures, in order; the store has the others'."""
    every = (_of_seed(board, cell, entry) for entry in cell.entries)
    return tuple(itertools.islice((one for one in every if one.contrast or one.beside), SEEDS))


def _of_seed(board: Board, cell: Cell, entry: Entry) -> SeedPictures:
    record = entry.record
    drawn = [one.role for one in record.pictures if _DRAWN.fullmatch(one.role)]
    roles = sorted(dict.fromkeys(drawn), key=lambda role: (role != CLEAN, role))
    beside = [one for one in record.pictures if one.role not in roles]
    beside.sort(key=lambda one: (natural(one.path), one.role, one.treatment))
    read = [
        embedded(entry.folder, cut(caption(one.role, one.treatment), LABEL), one.path)
        for one in beside
    ]
    return SeedPictures(
        seed=record.seed,
        contrast=_contrast(roles, _models(board, cell, entry)) if roles else None,
        beside=tuple(_enlarged(picture) for picture in read),
    )


Model = tuple[str, tuple[Entry, ...], str]


def _models(board: Board, cell: Cell, entry: Entry) -> list[Model]:
    """(whose model, the entries that may have its pictures, the treatment they stand under), as far
    as there are records of this seed.
    """
    honest = cell.attack.name == "none"
    models: list[Model] = []
    same = _of_same_seed(board.undefended(cell.row), entry)
    if not honest:
        models.append(("honest model", _counterpart(board, cell, entry), ""))
    models.append(("honest model" if honest else "backdoored, no defense", (entry, *same), ""))
    treatments = [one.treatment for one in entry.record.pictures if one.treatment]
    for treatment in dict.fromkeys(treatments):
        who = label(cell.defense) if treatment == cell.defense.name else treatment
        models.append((cut(f"with {who}", LABEL), (entry,), treatment))
    return models


def _counterpart(board: Board, cell: Cell, entry: Entry) -> tuple[Entry, ...]:
    """The honest model that was tried with this attack, without a defense, at the same seed."""
    for row in board.rows:
        tried = row.probe is not None and identity(row.probe) == identity(cell.attack)
        if row.attack.name == "none" and tried and same_sampler(row.sampler, cell.sampler):
            return _of_same_seed(board.undefended(row), entry)
    return ()


def _of_same_seed(cell: Cell | None, entry: Entry) -> tuple[Entry, ...]:
    entries = cell.with_status("ok") if cell else []
    return tuple(one for one in entries if one.record.seed == entry.record.seed)


def _contrast(roles: Sequence[str], models: Sequence[Model]) -> Contrast:
    heads: list[str] = []
    for role in roles:
        heads.append(cut(role_words(role), LABEL))
        if role.startswith("call:") and CLEAN in roles:
            heads.append("its difference to clean noise")
    lines = []
    for name, entries, treatment in models:
        read = {role: _read(entries, role, treatment, name) for role in roles}
        if any(picture.uri or picture.problem for picture in read.values() if picture):
            lines.append((name, _line(roles, read)))
    if len(lines) > 1 and models[-1][2]:
        lines.append(("what the defense changes", _differences(lines[-1], lines[-2])))
    return Contrast(tuple(heads), tuple(lines))


def _line(roles: Sequence[str], read: dict[str, Picture | None]) -> tuple[Shot, ...]:
    shots: list[Shot] = []
    for role in roles:
        picture = read[role]
        shots.append(Shot(picture, name=picture.name if picture else ""))
        if role.startswith("call:") and CLEAN in roles:
            shots.append(_difference(picture, read[CLEAN]))
    return tuple(shots)


def _differences(
    one: tuple[str, tuple[Shot, ...]], other: tuple[str, tuple[Shot, ...]]
) -> tuple[Shot, ...]:
    """Of the pictures alone: a difference of differences shows nobody anything."""
    return tuple(
        Shot(None) if shot.less or than.less else _difference(shot.picture, than.picture)
        for shot, than in zip(one[1], other[1], strict=True)
    )


def _difference(one: Picture | None, other: Picture | None) -> Shot:
    """Nothing where the two are not of one size, so that no pixel has its counterpart."""
    if not (one and other and one.uri and other.uri):
        return Shot(None)
    if (one.width, one.height) != (other.width, other.height):
        return Shot(None)
    return Shot(one, other, f"difference of: {one.name}; {other.name}")


def _read(entries: Sequence[Entry], role: str, treatment: str, who: str) -> Picture | None:
    for entry in entries:
        if path := entry.record.picture(role, treatment):
            return embedded(entry.folder, cut(f"{role_words(role)}, {who}", LABEL), path)
    return None


def _enlarged(picture: Picture) -> Picture:
    """By a whole factor, so that every pixel stays one."""
    factor = max(1, 96 // picture.width) if picture.width else 1
    return replace(picture, width=picture.width * factor, height=picture.height * factor)


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts ``strip-10`` after ``strip-9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]
