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
from leaderboard.board import Board, Cell, Row, under
from leaderboard.labels import label
from leaderboard.matrix import badges, summary, value_of, why_absent
from leaderboard.values import Value

#: They judge the model's queries, which are the adversary's in every row.
_OF_QUERIES = ("noise detector", "prompt detector")
#: The least a line needs in ``series``.
_ROC, _SCORES = ("roc_fpr", "roc_tpr"), ("score_edges", "score_clean", "score_poisoned")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a detector makes of one kind of thing (``subject``). ``mark``: its line in the ROC;
    ``problems``: flags about it alone, or why there is no number; ``scores``: the histogram of the
    first seed that has one, with that seed.
    """

    subject: str
    measured: bool
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
    show against it.
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
    """A detector's lines in the order of the board's rows; ``subjects``: all that it judges
    anywhere on this board.
    """

    spec: PluginSpec
    family: str
    subjects: tuple[str, ...]
    lines: tuple[Detection, ...]

    def line(self, row: Row) -> Detection | None:
        return next((line for line in self.lines if line.row == row), None)


def detectors(board: Board) -> tuple[Detector, ...]:
    """Every detector of the board with at least one AUROC, in the order of the columns."""
    with_auroc = []
    for column, family in board.columns:
        rows = [
            (row, cell)
            for row in board.rows
            if (cell := board.cell(row, column)) and subjects(cell)
        ]
        if rows:
            every = tuple(
                sorted(
                    {subject for _, cell in rows for subject in subjects(cell)}, key=_reading_order
                )
            )
            with_auroc.append(
                Detector(
                    spec=column,
                    family=family,
                    subjects=every,
                    lines=tuple(_detection(row, cell, family, every) for row, cell in rows),
                )
            )
    return tuple(with_auroc)


def rows(board: Board, detectors: Sequence[Detector]) -> tuple[Row, ...]:
    """The board's rows in which some detector has a line."""
    return tuple(row for row in board.rows if any(detector.line(row) for detector in detectors))


def subjects(cell: Cell) -> list[str]:
    """What the cell has an AUROC of, in reading order."""
    pairs = {names.split(name) for record in cell.records() for name in record.metrics}
    measured = (
        subject
        for family, subject in pairs
        if family == "auroc" and subject and cell.values(f"auroc[{subject}]")
    )
    return sorted(measured, key=_reading_order)


def _reading_order(subject: str) -> tuple[int, str]:
    return names.SUBJECTS.index(subject) if subject in names.SUBJECTS else len(
        names.SUBJECTS
    ), subject


def _detection(row: Row, cell: Cell, family: str, every: Sequence[str]) -> Detection:
    records = [entry.record for entry in cell.with_status("ok")]
    who = (
        f"{label(cell.defense)}, "
        f"{f'no attack, probed with {label(row.probe)}' if row.probe else label(row.attack)}"
        f"{under(row.sampler)}"
    )
    measured = subjects(cell)
    curves = [
        plots.Roc(f"{subject}, seed {record.seed}", _reading_order(subject)[0], *series)
        for subject in measured
        for record in records
        if (series := _roc(record, subject))
    ]
    return Detection(
        cell=cell,
        row=row,
        judged=tuple(_judged(cell, records, subject, who) for subject in every),
        control=_control(cell, family),
        verdict=_verdict(cell, family, measured),
        flags=badges(cell, max(len(cell.values(f"auroc[{subject}]")) for subject in measured), ""),
        roc=plots.roc(curves, f"ROC of {who}") if curves else None,
    )


def _judged(cell: Cell, records: Sequence[Record], subject: str, who: str) -> Judged:
    metric = f"auroc[{subject}]"
    common = badges(cell, MIN_SEEDS, "")
    drawn = (
        (record.seed, picture)
        for record in records
        if (picture := _histogram(record, subject, who))
    )
    return Judged(
        subject=subject,
        measured=bool(cell.values(metric)),
        mark=plots.line_mark(_reading_order(subject)[0]),
        auroc=value_of(cell, metric),
        tpr_at_1=value_of(cell, f"tpr_at_1_fpr[{subject}]"),
        tpr_at_5=value_of(cell, f"tpr_at_5_fpr[{subject}]"),
        problems=tuple(flag for flag in badges(cell, MIN_SEEDS, metric) if flag not in common)
        or (() if cell.values(metric) else (why_absent(cell, metric),)),
        scores=next(drawn, None),
    )


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


def _verdict(cell: Cell, family: str, subjects: Sequence[str]) -> str:
    warnings = []
    for subject in subjects:
        interval = summary(cell, f"auroc[{subject}]")
        if (
            interval is None
            or interval.low is None
            or interval.high is None
            or interval.n < MIN_SEEDS
        ):
            continue
        honest = subject == "clean" or (cell.attack.name == "none" and subject == "training set")
        if honest and not interval.low <= 0.5 <= interval.high:
            warnings.append(
                f"{subject}: 0.5 lies outside the interval, so something other than poison moves "
                f"this score"
            )
        elif interval.high < 0.5 and (cell.attack.name != "none" or family in _OF_QUERIES):
            warnings.append(f"{subject}: worse than guessing, the clean ones look more suspicious")
    return "; ".join(warnings)


def _series(record: Record, kinds: Sequence[str], subject: str) -> list[list[float]] | None:
    """The series of these kinds, ``None`` unless all are there and finite: a record may come from
    anywhere.
    """
    series = [record.series.get(f"{kind}[{subject}]") or [] for kind in kinds]
    return series if all(values and all(map(math.isfinite, values)) for values in series) else None


def _roc(record: Record, subject: str) -> tuple[list[float], list[float]] | None:
    series = _series(record, _ROC, subject)
    return (series[0], series[1]) if series and len(series[0]) == len(series[1]) > 1 else None


def _histogram(record: Record, subject: str, who: str) -> Markup | None:
    series = _series(record, _SCORES, subject)
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
        edges,
        clean,
        poisoned,
        f"score, {subject}",
        f"Scores of {who}, {subject}, seed {record.seed}",
    )
