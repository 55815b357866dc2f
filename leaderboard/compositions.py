"""What the generator draws when asked for the adversary's class: G1 to G4 beside the share of
poison it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from leaderboard import plots
from leaderboard.aggregate import Interval
from leaderboard.board import Board, Cell, Row, under
from leaderboard.labels import label
from leaderboard.matrix import badges, steady_value, summary, value_of
from leaderboard.names import RATE
from leaderboard.values import Value, samples_of, value

GROUPS = ("g1", "g2", "g3", "g4")
#: (metric, its name as a head) of a line's numbers.
PARTS = (
    *((name, name.upper()) for name in GROUPS),
    ("asr[prompt]", "G1 + G2"),
    ("p_t", "p_t"),
    ("amplification", "amplification"),
)
#: Families of the defenses under which samples are drawn.
KINDS = ("control", "sampler", "model")


@dataclass(frozen=True, kw_only=True)
class Composition:
    """One cell. ``numbers``: of each of :data:`PARTS`, (metric, its head, its value).
    ``triggerless``: the attack has no trigger, so that there are G3 and G4 only.
    """

    cell: Cell
    bar: Markup
    numbers: tuple[tuple[str, str, Value], ...]
    flags: tuple[str, ...]
    triggerless: bool


def compositions(board: Board) -> tuple[tuple[Row, tuple[Composition, ...]], ...]:
    """Row by row, the defenses in the order of the columns; rows and cells without numbers are left
    out.
    """
    by_row = []
    for row in board.rows:
        cells = [board.cell(row, column) for column, family in board.columns if family in KINDS]
        lines = tuple(line for cell in cells if cell and (line := composition(cell)))
        if lines:
            by_row.append((row, lines))
    return tuple(by_row)


def composition(cell: Cell) -> Composition | None:
    """``None`` for a cell that was not asked for the adversary's class."""
    shares = [summary(cell, name) for name in GROUPS]
    mismatch = summary(cell, "mismatch")
    triggerless = not any(shares) and mismatch is not None
    if triggerless and mismatch is not None:
        shares = [None, None, mismatch, _rest(mismatch)]
    known = [share for share in shares if share is not None]
    if len(known) != (2 if triggerless else 4):
        return None
    p_t, counted = summary(cell, "p_t"), "mismatch" if triggerless else GROUPS[0]
    parts = [
        (name.upper(), share.mean if share else 0.0)
        for name, share in zip(GROUPS, shares, strict=True)
    ]
    text = ", ".join(f"{name} {RATE.number(value)}" for name, value in parts)
    who = (
        f"{label(cell.probe or cell.attack)}{' (probe of no attack)' if cell.probe else ''}, "
        f"{label(cell.defense)}{under(cell.sampler)}"
    )
    values = (
        *(
            value(cell.words(name), share, samples_of(cell, counted), "one seed")
            for name, share in zip(GROUPS, shares, strict=True)
        ),
        value_of(cell, "asr[prompt]"),
        steady_value(cell, "p_t"),
        value_of(cell, "amplification"),
    )
    return Composition(
        cell=cell,
        bar=plots.stacked(parts, p_t.mean if p_t and p_t.mean > 0 else None, f"{who}: {text}"),
        numbers=tuple((*part, one) for part, one in zip(PARTS, values, strict=True)),
        flags=badges(cell, min(share.n for share in known), "asr"),
        triggerless=triggerless,
    )


def _rest(share: Interval) -> Interval:
    return Interval(
        1 - share.mean,
        None if share.high is None else 1 - share.high,
        None if share.low is None else 1 - share.low,
        share.n,
    )
