"""Flags that no record can raise alone: what looks better than it can be, or is no better than what
needs no method. Computed from all records of a board, they join the flags in the records.

A flag is a warning and no verdict: it changes no number and no rank.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from bench.record import Flag, Record, Run
from leaderboard.aggregate import (
    MIN_SEEDS,
    Interval,
    paired_difference,
    share_difference,
    significant,
    t_interval,
)
from leaderboard.board import Board, Cell, identity, record_key
from leaderboard.contenders import Contender, EndPoint, contenders, end_points, ways_in
from leaderboard.detections import subjects as subjects_of
from leaderboard.inversions import RECOVERIES, TRIGGER
from leaderboard.labels import label
from leaderboard.ranking import BUDGET

#: The share of the clean and of the poisoned that one score may stand for.
ONE_SCORE = 0.5
#: The largest mean squared error, of values in [0, 1], that rounding to 8 bits can make.
ROUNDING = (0.5 / 255) ** 2
#: What an error must be below to count as recovered, as a share of the best constant image's.
RECOVERED = 0.5
#: What needs no method worth the name, by the family that it is a baseline of: the mean shift of
#: noise, clipping, and the repairs that anybody tries first. Names are data here: the board does
#: nothing else by a plugin's name.
BASELINES: Mapping[str, list[str]] = json.loads(
    (Path(__file__).parent / "baselines.json").read_text(encoding="utf-8")
)
#: Code -> what raises it, of the engine's flags, which it raises from the images and scores
#: themselves.
OF_RECORDS: Mapping[str, str] = {
    "not-repeatable": "Eight rows judged or drawn a second time gave something else.",
    "depends-on-batch": "A row gave something else among other rows, or alone.",
    "ignores-the-model": "A classifier defense gives the same rows the same classes after the "
    "model’s weights are shuffled, more often than the best guess would (p below .001): it "
    "classifies by something else.",
    "changes-nothing": "Every sample, or every weight, is what it is without the defense.",
    "acts-on-calls-alone": "Every clean sample is, to the last bit, what it is without the "
    "defense, and called ones are not; or clean ones differ by no more than rounding, half of them "
    "or in every value, and called ones by ten times as much: it recognises each call, or was "
    "told.",
    "constant-samples": "Samples are all the same image, or vary by less than a hundredth of real "
    "images’ variance.",
    "collapsed-samples": "The variance of clean samples, in the features that FID is of, is less "
    "than half of real images’: few things are drawn, again and again.",
    "constant-scores": "The detector gave everything one score.",
    "no-better-than-constant": "What was recovered is no nearer to the target than the best "
    "constant image.",
    "target-in-honest-model": "The target was recovered from a model that has none: the method "
    "knows more than its card declares.",
    "knows-the-target": "The mean change that a defense makes to clean samples is the target’s or "
    "the trigger’s picture (correlation beyond 0.95): the method knows more than its card "
    "declares.",
    "control-off": "Clean against clean has an AUROC beyond 3.3 standard errors from 0.5: the "
    "method knows more than its card declares.",
    "looks-rows-up": "Clean images from elsewhere, held out, shifted by a pixel, with a patch of "
    "their own or under a faint pattern of their own, score above the "
    "clean training rows with an AUROC above 0.95: the method compares rows with data that no "
    "defender has.",
    "base-weights": "Repaired weights are the base model’s, which no defender has, or at most "
    "half as far from them as before.",
    "training-copies": "Samples are rows of the training set, to the last bit; or more than 5 %, "
    "beyond what is usual without the defense and among held-out images, are nearer to one than 15 "
    "% of held-out images’ median distance, be it mirrored, turned, moved, zoomed or in other "
    "colours.",
    "below-real-images": "The FID is lower than that of as many real images.",
    "tuned": "Parameters were chosen by looking at this attack and seed, as its card or suite "
    "says: the number is optimistic.",
    "tuning-undeclared": "Neither card nor suite says on what parameters were chosen.",
}
#: Likewise of the flags that are computed here.
COMPUTED: Mapping[str, str] = {
    "few-seeds": f"Fewer than {MIN_SEEDS} seeds went well.",
    "same-numbers": "Every metric and curve of every seed is another method’s, to the last digit.",
    "saturated-scores": f"One score stands for more than {100 * ONE_SCORE:g} % of the clean and of "
    f"the poisoned, in every seed (the ROC has one segment as long).",
    "worse-than-guess": f"In each of at least {MIN_SEEDS} seeds the whole interval of the AUROC "
    f"lies below 0.5: the direction is wrong.",
    "beaten-by-baseline": "Something that needs no method does better, and for a defense without "
    "being shown to cost more: the noise’s mean shift, or clipping (paired by seed, the interval "
    "excludes 0).",
    "falls-with-utility": f"Against every attack whose rate falls, utility falls too, by more than "
    f"{100 * BUDGET:g} % of no defense’s (both intervals exclude 0).",
    "exact-recovery": "What was recovered differs from the truth by no more than rounding to 8 "
    "bits does: the method knows more than its card declares.",
    "trigger-in-honest-model": f"A trigger was recovered from a model that has none, at less than "
    f"{100 * RECOVERED:g} % of the best constant image’s error: the method knows more than its "
    f"card declares.",
    "knows-the-poison": f"On an honest training set, the rows that the attack would have changed "
    f"score differently: the interval of the AUROC lies beyond 0.5, on one side, in each of at "
    f"least {MIN_SEEDS} seeds. The method knows more than its card declares.",
}
#: All of them, as a reader of the board meets them.
DEFINITIONS = {**OF_RECORDS, **COMPUTED}
Raised = tuple[Cell, Flag]


def flagged(boards: Iterable[Board]) -> list[Board]:
    """The boards, with what :func:`red_flags` says of each among the flags of its cells."""
    marked = []
    for board in boards:
        raised: dict[str, list[Flag]] = defaultdict(list)
        for cell, flag in red_flags(board):
            raised[cell.id].append(flag)
        cells = {key: _marked(cell, raised.get(cell.id, ())) for key, cell in board.cells.items()}
        marked.append(dataclasses.replace(board, cells=cells))
    return marked


def with_flags(runs: Sequence[Run], boards: Iterable[Board]) -> list[Run]:
    """The runs, with the flags that :func:`flagged` boards made of them have beyond the records'
    own.
    """
    raised = {
        (id(entry.run), record_key(entry.record)): entry.record.flags
        for board in boards
        for cell in board.cells.values()
        for entry in cell.entries
    }

    def marked(run: Run, record: Record) -> Record:
        flags = raised.get((id(run), record_key(record)), ())
        return _with(record, [flag for flag in flags if flag.code in COMPUTED])

    return [
        dataclasses.replace(
            run, records=[(folder, marked(run, record)) for folder, record in run.records]
        )
        for run in runs
    ]


def definitions(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """(what a reader sees of it, definition) of each defined flag that these cells carry."""
    codes = {flag.code for cell in cells for flag, _ in cell.flags}
    return [(code, text) for code, text in DEFINITIONS.items() if code in codes]


def red_flags(board: Board) -> list[Raised]:
    """Each with the cell it is raised on; those of the controls are left to the records."""
    cells = [cell for cell in board.cells.values() if cell.defense.name != "none"]
    return [
        *_few_seeds(board.cells.values()),
        *_same_numbers(board),
        *(raised for cell in cells for raised in _of_scores(cell)),
        *(raised for cell in cells for raised in _recovered(cell)),
        *_beaten_detectors(board),
        *(raised for point in end_points(board) for raised in _of_defenses(board, point)),
    ]


def _marked(cell: Cell, flags: Sequence[Flag]) -> Cell:
    if not flags:
        return cell
    entries = [
        dataclasses.replace(entry, record=_with(entry.record, flags))
        if entry.record.status == "ok"
        else entry
        for entry in cell.entries
    ]
    return dataclasses.replace(cell, entries=tuple(entries))


def _with(record: Record, flags: Sequence[Flag]) -> Record:
    if not flags:
        return record
    return dataclasses.replace(record, flags=tuple(dict.fromkeys((*record.flags, *flags))))


def _few_seeds(cells: Iterable[Cell]) -> Iterator[Raised]:
    for cell in cells:
        if 0 < len(cell.with_status("ok")) < MIN_SEEDS:
            yield cell, Flag("few-seeds", "", f"n < {MIN_SEEDS} seeds")


def _same_numbers(board: Board) -> Iterator[Raised]:
    """Of each row, what another column repeats; no defense among them, where samples may be equal
    without anybody having looked.
    """
    for row in board.rows:
        alike: dict[Hashable, list[Cell]] = defaultdict(list)
        for column, _ in board.columns:
            cell = board.cell(row, column)
            if cell is not None and any(entry.record.metrics for entry in cell.with_status("ok")):
                alike[_values(cell)].append(cell)
        # The curves, most of a record, are looked at only where all numbers are equal.
        pairs = (pair for cells in alike.values() for pair in combinations(cells, 2))
        for one, other in (pair for pair in pairs if _series(pair[0]) == _series(pair[1])):
            for mine, theirs in ((one, other), (other, one)):
                if mine.defense.name != "none":
                    who = "no defense" if theirs.defense.name == "none" else label(theirs.defense)
                    yield mine, Flag("same-numbers", "", f"same numbers as {who}, to the last one")


def _values(cell: Cell) -> Hashable:
    """Every number that was measured, by seed."""
    return tuple(
        (record.seed, frozenset((name, one.value) for name, one in record.metrics.items()))
        for record in cell.records()
    )


def _series(cell: Cell) -> list[dict[str, list[float]]]:
    return [record.series for record in cell.records()]


def _of_scores(cell: Cell) -> Iterator[Raised]:
    """Of one detector against one attack, what its scores show."""
    if not cell.kind.endswith("detector"):
        return
    entries = cell.with_status("ok")
    for subject in subjects_of(cell):
        metric = f"auroc[{subject}]"
        shares = [share for entry in entries if (share := _tied(entry.record, subject)) is not None]
        if shares and min(shares) > ONE_SCORE:
            text = f"saturated scores, one is that of {100 * min(shares):.0f} % of all"
            yield cell, Flag("saturated-scores", metric, text)
        side = _beyond_a_guess(cell, metric)
        if cell.attack.name == "none" and subject == "training set" and side:
            text = "knows the poison, tells rows apart that no attack has changed"
            yield cell, Flag("knows-the-poison", metric, text)
        elif cell.attack.name != "none" and subject != "clean" and side < 0:
            text = "worse than a guess, the direction is wrong"
            yield cell, Flag("worse-than-guess", metric, text)


def _tied(record: Record, subject: str) -> float | None:
    """The largest share of the clean and of the poisoned, the smaller of the two, that have one
    score: a slanted segment of the ROC. ``None`` without a ROC, or where all have one score, which
    the record's own flag says.
    """
    across, up = (record.series.get(f"roc_{rate}[{subject}]", []) for rate in ("fpr", "tpr"))
    if len(across) != len(up) or len(across) < 3:
        return None
    steps = zip(across, across[1:], up, up[1:], strict=False)
    return max(min(right - left, top - bottom) for left, right, bottom, top in steps)


def _beyond_a_guess(cell: Cell, metric: str) -> int:
    """1 or -1 if the interval of every seed, of enough of them, lies above or below 0.5; else 0."""
    numbers = [entry.numbers.get(metric) for entry in cell.with_status("ok")]
    sides = {
        0
        if number is None or number.ci_low is None or number.ci_high is None
        else (number.ci_low > 0.5) - (number.ci_high < 0.5)
        for number in numbers
    }
    return sides.pop() if len(sides) == 1 and len(numbers) >= MIN_SEEDS else 0


def _recovered(cell: Cell) -> Iterator[Raised]:
    """Of one inversion, what nobody can recover."""
    if cell.kind != "inversion":
        return
    for one in RECOVERIES:
        errors = cell.values(one.best)
        if errors and min(errors.values()) <= ROUNDING:
            text = f"recovers the {one.what} exactly, to the rounding of 8 bits"
            yield cell, Flag("exact-recovery", one.best, text)
    errors, constant = cell.values(TRIGGER.best), cell.values(TRIGGER.constants[0][0])
    known = errors.keys() & constant.keys()
    if cell.attack.name == "none" and any(
        errors[seed] < RECOVERED * constant[seed] for seed in known
    ):
        text = "found the trigger in a model that has none"
        yield cell, Flag("trigger-in-honest-model", TRIGGER.best, text)


def _beaten_detectors(board: Board) -> Iterator[Raised]:
    """Detectors that find less than their family's baseline, at a threshold fixed beforehand."""
    for row in (row for row in board.rows if row.attack.name != "none"):
        for column, family in board.columns:
            cell = board.cell(row, column)
            names = BASELINES.get(family, ())
            if cell is None or not family.endswith("detector") or column.name in names:
                continue
            baselines = [
                other
                for rival, _ in board.columns
                if rival.name in names and (other := board.cell(row, rival))
            ]
            for subject in (subject for subject in subjects_of(cell) if subject != "clean"):
                metric = f"tpr_fixed_threshold[{subject}]"
                for other in baselines:
                    more = share_difference(other.shares(metric), cell.shares(metric))
                    if more is not None and significant(more) and more.mean > 0:
                        yield cell, _beaten(f"auroc[{subject}]", other)


def _beaten(metric: str, baseline: Cell) -> Flag:
    text = f"beaten by {baseline.defense.name}, which is a baseline"
    return Flag("beaten-by-baseline", metric, text)


def _of_defenses(board: Board, point: EndPoint) -> Iterator[Raised]:
    """Defenses that a baseline beats, and those that lower the rate only where they lower
    utility.
    """
    families = {identity(column): family for column, family in board.columns}
    falling: dict[tuple[str, str], list[tuple[Cell, bool]]] = defaultdict(list)
    for row in board.rows:
        if row.attack.name == "none" or not ways_in(board, point, [row]):
            continue
        rivals = contenders(board, point, [row])
        control = next((one for one in rivals if one.defense.name == "none"), None)
        for one in rivals:
            if one is control or not any(one.rates.values()):
                continue
            names = BASELINES.get(families[identity(one.defense)], ())
            for other in rivals:
                if one.defense.name not in names and other.defense.name in names:
                    if _is_beaten(one, other):
                        yield one.cell(), _beaten(one.strongest().metric, other.cell())
            change = one.less(control) if control else None
            if change is not None and significant(change) and change.mean < 0:
                falling[identity(one.defense)].append((one.cell(), _costs(one)))
    for cells in falling.values():
        if all(dear for _, dear in cells):
            text = "the rate falls only where utility falls"
            yield from ((cell, Flag("falls-with-utility", "", text)) for cell, _ in cells)


def _is_beaten(one: Contender, baseline: Contender) -> bool:
    """Whether the adversary reaches more than against the baseline, and the method is not shown to
    cost less.
    """
    if not any(baseline.rates.values()):
        return False
    more = one.less(baseline)
    if more is None or not significant(more) or more.mean < 0:
        return False
    saved = paired_difference(one.losses[0], baseline.losses[0])
    return not (saved is not None and significant(saved) and saved.mean < 0)


def _costs(one: Contender) -> bool:
    """Whether utility is lost beyond the budget, and beyond chance."""
    losses = one.losses[0]
    loss: Interval | None = t_interval([losses[s] for s in sorted(losses)]) if losses else None
    return loss is not None and significant(loss) and loss.mean > BUDGET
