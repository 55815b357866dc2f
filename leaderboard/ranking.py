"""Which defense holds: per attack, ranked by what the adversary still achieves, then by what the defense costs in FID."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from leaderboard import names
from leaderboard.aggregate import MIN_SEEDS, Interval, lexicographic_ranks, paired_difference, t_interval
from leaderboard.board import Board, Cell, label
from leaderboard.matrix import badges, metric_names


@dataclass(frozen=True)
class Place:
    """A defense's line. ``rank`` is empty below :data:`MIN_SEEDS` seeds. The differences are paired, against no defense."""

    cell: Cell
    rank: str
    asr: Interval
    asr_change: Interval | None
    fid: Interval | None
    fid_change: Interval | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """One attack. ``without``: its ASR against no defense; ``places``: best first, unranked last."""

    attack: Cell
    without: Interval | None
    places: tuple[Place, ...]
    fid_decimals: int

    def contested(self) -> bool:
        """Whether any defense here changes what the adversary achieves; alone, no defense at all is no ranking."""
        return any(place.cell.defense.name != "none" for place in self.places)

    def ranked(self) -> bool:
        """Whether there is a defense, beside none, with enough seeds."""
        return any(place.rank and place.cell.defense.name != "none" for place in self.places)

    def holders(self) -> list[Place]:
        """The first rank, unless no defense at all shares it: then nothing can be said to hold better."""
        first = [place for place in self.places if place.rank.rstrip("=") == "1"]
        return [] if any(place.cell.defense.name == "none" for place in first) else first


def invocations(cells: list[Cell]) -> list[str]:
    """The names in ``asr[...]`` that are the adversary's, the clean-noise control left out."""
    pairs = [names.split(name) for name in metric_names(cells)]
    return [argument for family, argument in pairs if family == "asr" and argument != "clean"]


def strongest_asr(cell: Cell, adversary: list[str]) -> dict[int, float]:
    """Seed -> ASR of the invocation that works best against this cell: an adversary picks the better way in."""
    found: dict[int, float] = {}
    for invocation in adversary:
        for seed, value in cell.values(f"asr[{invocation}]").items():
            found[seed] = max(value, found.get(seed, value))
    return found


def fid_name(board: Board) -> str | None:
    """The testbed's FID with its extractor; ``None`` if nothing measured one."""
    return next((name for name in metric_names([*board.cells.values(), *board.anchors]) if names.split(name)[0] == "fid"), None)


def rankings(board: Board) -> list[Ranking]:
    """One per attack that has an ASR anywhere; the no-attack control is not ranked, nor are inversions."""
    adversary = invocations(list(board.cells.values()))
    found = []
    for row in board.rows:
        cells = [cell for column, _ in board.columns if (cell := board.cell(row, column)) and strongest_asr(cell, adversary)]
        if row[0].name != "none" and cells:
            found.append(_ranking(cells, adversary, fid_name(board)))
    return found


def _ranking(cells: list[Cell], adversary: list[str], fid: str | None) -> Ranking:
    asr = {cell.id: strongest_asr(cell, adversary) for cell in cells}
    fids = {cell.id: cell.values(fid) if fid else {} for cell in cells}
    control = next((cell for cell in cells if cell.defense.name == "none"), None)
    ranked = [cell for cell in cells if len(asr[cell.id]) >= MIN_SEEDS]
    ranks = lexicographic_ranks([asr[cell.id] for cell in ranked], [fids[cell.id] or None for cell in ranked], (False, False))
    shared = Counter(ranks)
    rank_of = {cell.id: rank for cell, rank in zip(ranked, ranks, strict=True)}

    def place(cell: Cell) -> Place:
        rank = rank_of.get(cell.id)
        baseline = control if control and control.id != cell.id else None
        return Place(
            cell,
            "" if rank is None else f"{rank}{'=' if shared[rank] > 1 else ''}",
            t_interval(list(asr[cell.id].values())),
            paired_difference(asr[cell.id], asr[baseline.id]) if baseline else None,
            t_interval(list(fids[cell.id].values())) if fids[cell.id] else None,
            paired_difference(fids[cell.id], fids[baseline.id]) if baseline else None,
            badges(cell, len(asr[cell.id]), "asr"),
        )

    def best_first(place: Place) -> tuple[bool, int, float, float, str, str]:
        fid_mean = place.fid.mean if place.fid else float("inf")
        return (
            place.rank == "",
            rank_of.get(place.cell.id, 0),
            place.asr.mean,
            fid_mean,
            label(place.cell.defense),
            place.cell.id,
        )

    places = tuple(sorted((place(cell) for cell in cells), key=best_first))
    without = t_interval(list(asr[control.id].values())) if control else None
    return Ranking(
        cells[0], without, places, names.decimals_for(fid or "", *(place.fid.mean for place in places if place.fid), 0.0)
    )
