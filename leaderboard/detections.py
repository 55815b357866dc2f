"""Detectors: how well each finds the poison, by what it judges, and what it finds where there is
none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.record import PluginSpec, Record
from leaderboard import names, plots
from leaderboard.aggregate import MIN_SEEDS
from leaderboard.board import Board, Cell, Row, label, under
from leaderboard.matrix import Value, badges, spread_value, summary, why_absent

#: They judge what is asked of the model, which is the adversary's in every row.
_ASKED = ("noise detector", "prompt detector")
#: The least a line needs in ``series``.
_ROC, _SCORES = ("roc_fpr", "roc_tpr"), ("score_edges", "score_clean", "score_poisoned")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a detector makes of one kind of thing (``where``). ``n``: how many of them there were,
    at least, as text; ``mark``: its line in the ROC;
    ``problems``: flags about it alone, or why there is no number; ``scores``: the histogram of the
    first seed that has one, with that seed.
    """

    where: str
    measured: bool
    n: str
    mark: Markup
    auroc: Value
    tpr_at_1: Value
    tpr_at_5: Value
    problems: tuple[str, ...]
    scores: tuple[int, Markup] | None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One detector against one attack row, with all that it judges anywhere on the board.
    ``control``: what its numbers mean without an attack; ``verdict``: what the intervals over seeds
    allow to be said against it.
    """

    cell: Cell
    row: Row
    judged: tuple[Judged, ...]
    control: str
    verdict: str
    flags: tuple[str, ...]
    roc: Markup | None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector's lines in the order of the board's rows; ``places``: all that it judges anywhere
    on this board.
    """

    spec: PluginSpec
    family: str
    places: tuple[str, ...]
    lines: tuple[Detection, ...]

    def line(self, row: Row) -> Detection | None:
        return next((line for line in self.lines if line.row == row), None)


def detectors(board: Board) -> tuple[Detector, ...]:
    """Every detector of the board with at least one AUROC, in the order of the columns."""
    found = []
    for column, family in board.columns:
        rows = [
            (row, cell) for row in board.rows if (cell := board.cell(row, column)) and places(cell)
        ]
        if rows:
            every = tuple(sorted({where for _, cell in rows for where in places(cell)}, key=_place))
            found.append(
                Detector(
                    spec=column,
                    family=family,
                    places=every,
                    lines=tuple(_detection(row, cell, family, every) for row, cell in rows),
                )
            )
    return tuple(found)


def rows(board: Board, found: Sequence[Detector]) -> tuple[Row, ...]:
    """The board's rows in which some detector has a line."""
    return tuple(row for row in board.rows if any(detector.line(row) for detector in found))


def places(cell: Cell) -> list[str]:
    """What the cell has an AUROC of, in reading order."""
    pairs = {
        names.split(name)
        for entry in cell.with_status("ok")
        for name in entry.record.metrics
        if cell.values(name)
    }
    return sorted((where for family, where in pairs if family == "auroc" and where), key=_place)


def _place(where: str) -> tuple[int, str]:
    return names.PLACES.index(where) if where in names.PLACES else len(names.PLACES), where


def _detection(row: Row, cell: Cell, family: str, every: Sequence[str]) -> Detection:
    records = [entry.record for entry in cell.with_status("ok")]
    who = (
        f"{label(cell.defense)}, "
        f"{f'no attack, probed with {label(row.probe)}' if row.probe else label(row.attack)}"
        f"{under(row.sampler)}"
    )
    found = places(cell)
    curves = [
        plots.Roc(f"{where}, seed {record.seed}", _place(where)[0], *series)
        for where in found
        for record in records
        if (series := _roc(record, where))
    ]
    return Detection(
        cell=cell,
        row=row,
        judged=tuple(_judged(cell, records, where, who) for where in every),
        control=_control(cell, family),
        verdict=_verdict(cell, family, found),
        flags=badges(cell, max(len(cell.values(f"auroc[{where}]")) for where in found), ""),
        roc=plots.roc(curves, f"ROC of {who}") if curves else None,
    )


def _judged(cell: Cell, records: Sequence[Record], where: str, who: str) -> Judged:
    metric = f"auroc[{where}]"
    common = badges(cell, MIN_SEEDS, "")
    drawn = (
        (record.seed, picture) for record in records if (picture := _histogram(record, where, who))
    )
    return Judged(
        where=where,
        measured=bool(cell.values(metric)),
        n=_fewest(records, metric),
        mark=plots.line_mark(_place(where)[0]),
        auroc=_value(cell, metric),
        tpr_at_1=_value(cell, f"tpr_at_1_fpr[{where}]"),
        tpr_at_5=_value(cell, f"tpr_at_5_fpr[{where}]"),
        problems=tuple(flag for flag in badges(cell, MIN_SEEDS, metric) if flag not in common)
        or (() if cell.values(metric) else (why_absent(cell, metric),)),
        scores=next(drawn, None),
    )


def _value(cell: Cell, metric: str) -> Value:
    return spread_value(cell.words(metric), summary(cell, metric))


def _fewest(records: Sequence[Record], metric: str) -> str:
    counts = [found.n for one in records if (found := one.metrics.get(metric)) and found.n]
    return f"n = {min(counts)}" if counts else ""


def _control(cell: Cell, family: str) -> str:
    if cell.attack.name != "none":
        return ""
    if family == "noise detector":
        return (
            "The noise is the adversary’s here too; that the model is honest changes nothing "
            "for this detector."
        )
    if family == "prompt detector":
        return (
            "The prompts are the adversary’s here too: a detector that reads nothing but them "
            "finds them on an honest model as well, and one that looks into the model should not."
        )
    return "Control: nothing is poisoned here, and AUROC 0.5 is right."


def _verdict(cell: Cell, family: str, found: Sequence[str]) -> str:
    said = []
    for where in found:
        interval = summary(cell, f"auroc[{where}]")
        if (
            interval is None
            or interval.low is None
            or interval.high is None
            or interval.n < MIN_SEEDS
        ):
            continue
        honest = where == "clean" or (cell.attack.name == "none" and where == "training set")
        if honest and not interval.low <= 0.5 <= interval.high:
            said.append(
                f"{where}: 0.5 lies outside the interval, so something other than poison moves "
                f"this score"
            )
        elif interval.high < 0.5 and (cell.attack.name != "none" or family in _ASKED):
            said.append(f"{where}: worse than guessing, the clean ones look more suspicious")
    return "; ".join(said)


def _series(record: Record, kinds: Sequence[str], where: str) -> list[list[float]] | None:
    """The series of these kinds, ``None`` unless all are there and finite: a record may come from
    anywhere.
    """
    found = [record.series.get(f"{kind}[{where}]") or [] for kind in kinds]
    return found if all(series and all(map(math.isfinite, series)) for series in found) else None


def _roc(record: Record, where: str) -> tuple[list[float], list[float]] | None:
    series = _series(record, _ROC, where)
    return (series[0], series[1]) if series and len(series[0]) == len(series[1]) > 1 else None


def _histogram(record: Record, where: str, who: str) -> Markup | None:
    series = _series(record, _SCORES, where)
    if series is None:
        return None
    edges, clean, poisoned = series
    rising = all(low < high for low, high in zip(edges, edges[1:], strict=False)) and math.isfinite(
        edges[-1] - edges[0]
    )
    counts = all(
        len(group) == len(edges) - 1 and min(group) >= 0 and sum(group) > 0
        for group in (clean, poisoned)
    )
    if not (rising and counts):
        return None
    return plots.histogram(
        edges, clean, poisoned, f"score, {where}", f"Scores of {who}, {where}, seed {record.seed}"
    )
