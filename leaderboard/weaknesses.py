"""What the records show against a method. Nothing is judged here that a ranking, a flag or a status
does not say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaderboard.aggregate import Interval
from leaderboard.board import Cell, Row, each_attack, identity
from leaderboard.detections import subjects
from leaderboard.finders import FinderLine, FinderRanking
from leaderboard.labels import label
from leaderboard.matrix import summary
from leaderboard.names import RATE
from leaderboard.populations import TELLS
from leaderboard.ranking import (
    BUDGET,
    HOLDS,
    LEVEL,
    OUTSIDE,
    PART,
    UNRANKED,
    WORSE,
    DefenseLine,
    Ranking,
)
from leaderboard.values import NO_VALUE, count_text, interval_text, samples_of
from leaderboard.view import BoardView
from leaderboard.whole import DETECTION, Whole

#: Lines of one kind that a page has.
_MOST = 6


@dataclass(frozen=True)
class Weakness:
    """One sentence, and the cell that shows it. ``flag``: it is about the measurement."""

    text: str
    cell: Cell | None
    flag: bool = False


def of_defense(name: str, views: Sequence[BoardView], whole: Whole) -> tuple[Weakness, ...]:
    """Of a defense, detector or inversion: where it does worst, where it is no better or worse than
    none, what it costs beyond the budget, where it failed, and its flags.
    """
    lines = [
        (ranking, line)
        for view in views
        for ranking, _ in view.rankings
        if not ranking.several()
        for line in ranking.lines + ranking.outside
        if line.cell.defense.name == name
    ]
    cells = _cells(whole, name)
    every = [
        *_worst(lines),
        *_most(_standings(lines)),
        *_most(_finders(name, views)),
        *_most(_populations(name, views)),
        *_most(_troubles(cells)),
        *_most(_flags([cell for cell in cells if cell.attack.name != "none"])),
    ]
    return tuple(every)


def of_attack(name: str, views: Sequence[BoardView], whole: Whole) -> tuple[Weakness, ...]:
    """Of an attack: what stops it, which of its calls hardly work, where it does no more than an
    honest model, what finds it, and its flags.
    """
    single = [
        ranking
        for view in views
        for ranking, _ in view.rankings
        if not ranking.several() and ranking.rows[0].attack.name == name
    ]
    lines = [
        (board, line)
        for board, some in whole.boards
        for line in some
        if line.row.attack.name == name
    ]
    cells = [item.table.cell for _, line in lines for item in line.items if item.table.cell]
    every = [
        *_most(_stopped([ranking for ranking in single if ranking.works()])),
        *_most(_feeble([ranking for ranking in single if not ranking.works()])),
        *_most(_calls(single)),
        *_most(_detected(whole, name)),
        *_most(_troubles(cells)),
        *_most(_flags([cell for cell in cells if cell.defense.name == "none"])),
    ]
    return tuple(every)


def _most(lines: Iterable[Weakness]) -> list[Weakness]:
    listed = list({line.text: line for line in lines}.values())
    more = len(listed) - _MOST
    return listed[:_MOST] + ([Weakness(f"… and {more} more like these.", None)] if more > 0 else [])


def _cells(whole: Whole, name: str) -> list[Cell]:
    cells = {
        item.table.cell.id: item.table.cell
        for _, lines in whole.boards
        for line in lines
        for item, column in zip(line.items, whole.columns, strict=True)
        if column.spec.name == name and item.table.cell
    }
    return list(cells.values())


def _against(row: Row, call: str) -> str:
    return f"{row.label}{f', called by {call}' if call else ''}"


def _counted(line: DefenseLine | FinderLine) -> str:
    return f"n {count_text(*line.counted)}"


def _worst(lines: Sequence[tuple[Ranking, DefenseLine]]) -> list[Weakness]:
    if not lines:
        return []
    ranking, line = max(lines, key=lambda pair: pair[1].worst.mean)
    without = f"; no defense {RATE.number(ranking.without.mean)}" if ranking.without else ""
    return [
        Weakness(
            f"Worst case: {ranking.end_point.short} {RATE.number(line.worst.mean)} "
            f"{interval_text(RATE, line.worst)}, {_counted(line)}, against "
            f"{_against(ranking.rows[0], line.way.call)}{without}.",
            line.cell,
        )
    ]


def _standings(lines: Sequence[tuple[Ranking, DefenseLine]]) -> list[Weakness]:
    texts = {
        WORSE: "Worse than nothing",
        LEVEL: "No better than nothing",
        PART: "Leaves half of it or more",
    }
    weak = []
    for state in (WORSE, LEVEL, PART, OUTSIDE, UNRANKED):
        for ranking, line in lines:
            where, rate = ranking.rows[0].label, RATE.number(line.worst.mean)
            if line.state != state:
                continue
            if state in texts:
                text = f"{texts[state]} against {where}: {rate}, {_counted(line)}."
                weak.append(Weakness(text, line.cell))
            elif state == UNRANKED:
                reason = f": {line.note}" if line.note else ""
                weak.append(Weakness(f"Not ranked against {where}{reason}.", line.cell))
            elif line.loss is not None:
                what = "accuracy" if ranking.end_point.higher_is_better else "FID"
                weak.append(
                    Weakness(
                        f"Costs {100 * line.loss.mean:.0f} % of no defense’s {what} against "
                        f"{where}, n {line.loss.n}, more than the budget of {100 * BUDGET:g} %.",
                        line.cell,
                    )
                )
    return weak


def _finders(name: str, views: Sequence[BoardView]) -> list[Weakness]:
    weak = []
    for view in views:
        for ranking in view.detections + view.recoveries:
            for line in ranking.lines:
                if line.cell.defense.name == name:
                    weak.append(Weakness(_finder_text(ranking, line), line.cell))
    return weak


def _populations(name: str, views: Sequence[BoardView]) -> list[Weakness]:
    """Of a detector of models: those that it does not tell from honest ones."""
    weak = []
    for view in views:
        for detector, line in ((one, line) for one in view.model_detectors for line in one.lines):
            if line.cell.defense.name == name and line.verdict != TELLS:
                number = f": AUROC {line.auroc.text} {line.auroc.interval}".rstrip()
                weak.append(
                    Weakness(
                        f"{detector.name}, models of {label(line.cell.attack)} on "
                        f"{label(view.board.testbed)}: "
                        f"{line.verdict}{number if line.auroc != NO_VALUE else ''}, "
                        f"{line.attacked} backdoored, {line.honest} honest.",
                        line.cell,
                    )
                )
    return weak


def _finder_text(ranking: FinderRanking, line: FinderLine) -> str:
    inverts = ranking.recovery is not None
    what = (
        f"error to the {ranking.what} over a constant’s"
        if inverts
        else f"share found, judging {ranking.what},"
    )
    text = (
        f"Worst case: {what} {RATE.number(line.worst.mean)} {interval_text(RATE, line.worst)}, "
        f"{_counted(line)}, against {label(line.attack)}"
    )
    if line.note:
        return f"{text}; not ranked: {line.note}."
    guess = "a constant image" if inverts else "a guess"
    return f"{text}." if line.finds else f"{text}: no better than {guess}."


def _troubles(cells: Sequence[Cell]) -> list[Weakness]:
    """Each reason once, with how many of the cells under attack it stands in."""
    weak = []
    attacked = [cell for cell in cells if cell.attack.name != "none"]
    for status in ("failed", "skipped"):
        by_reason: dict[str, list[Cell]] = {}
        for cell in attacked:
            for reason in {entry.record.reason: None for entry in cell.with_status(status)}:
                by_reason.setdefault(reason or "no reason recorded", []).append(cell)
        weak += [
            Weakness(f"{status.capitalize()}, {len(some)} of {len(attacked)} cells: {reason}", one)
            for reason, some in by_reason.items()
            for one in some[:1]
        ]
    return weak


def _flags(cells: Sequence[Cell]) -> list[Weakness]:
    """Each flag once, with how many of the cells carry it, and the first that does."""
    carried: dict[str, list[Cell]] = {}
    for cell in cells:
        for line in {flag.line: None for flag, _ in cell.flags}:
            carried.setdefault(line, []).append(cell)
    ordered = sorted(carried.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [
        Weakness(f"Flag on {len(some)} of {len(cells)} cells: {line}", some[0], flag=True)
        for line, some in ordered
    ]


def _stopped(rankings: Sequence[Ranking]) -> list[Weakness]:
    """By each defense that holds somewhere: against how many of the rows that it met, and the most
    that it leaves.
    """
    met: dict[str, list[tuple[Ranking, DefenseLine]]] = {}
    for ranking in rankings:
        for line in ranking.lines + ranking.outside:
            if line.cell.defense.name != "none":
                met.setdefault(label(line.cell.defense), []).append((ranking, line))
    weak = []
    for defense, pairs in met.items():
        holding = [(ranking, line) for ranking, line in pairs if line.holds]
        if not holding:
            continue
        ranking, worst = max(holding, key=lambda pair: pair[1].worst.mean)
        dear = any(line.state != HOLDS for _, line in holding)
        price = ", in some at a price beyond the budget" if dear else ""
        before = f"of {RATE.number(ranking.without.mean)} " if ranking.without else ""
        weak.append(
            Weakness(
                f"Stopped by {defense} in {len(holding)} of {len(pairs)} rows{price}; at most "
                f"{RATE.number(worst.worst.mean)} {before}is left ({ranking.end_point.short}, "
                f"{_counted(worst)}).",
                worst.cell,
            )
        )
    return weak


def _feeble(rankings: Sequence[Ranking]) -> list[Weakness]:
    rows = [ranking.rows[0] for ranking in rankings]
    names = {identity(row.attack): label(row.attack) for row in rows}
    return [
        Weakness(f"{one} reaches no more than an honest model reads, without any defense.", None)
        for one in each_attack(rows, names)
    ]


def _calls(rankings: Sequence[Ranking]) -> list[Weakness]:
    """Each call that works less than half as often as the best one, without a defense, where the
    attack works at all.
    """
    feeble: dict[str, list[tuple[float, DefenseLine]]] = {}
    rows: Counter[str] = Counter()
    for ranking in rankings:
        for line in ranking.lines:
            low = line.worst.low if line.worst.low is not None else line.worst.mean
            if line.cell.defense.name != "none" or low <= (ranking.honest or 0.0):
                continue
            rows.update({way.call for way, _ in line.by_way})
            for way, value in line.by_way:
                if way != line.way and value < line.worst.mean / 2:
                    feeble.setdefault(way.call, []).append((value, line))
    weak = []
    for call, pairs in sorted(feeble.items()):
        value, line = min(pairs, key=lambda pair: pair[0] / pair[1].worst.mean)
        weak.append(
            Weakness(
                f"Called by {call} it works less than half as often as called best, in "
                f"{len(pairs)} of {rows[call]} rows; at worst {RATE.number(value)} beside "
                f"{RATE.number(line.worst.mean)} by {line.way.call}, "
                f"{_counted(line)}.",
                line.cell,
            )
        )
    return weak


def _detected(whole: Whole, name: str) -> list[Weakness]:
    """By each detector and what it judges: in how many of the rows its AUROC is above 0.5 beyond
    doubt, and the highest.
    """
    seen: dict[tuple[str, str], list[tuple[Cell, Interval]]] = {}
    for _, lines in whole.boards:
        for line in lines:
            for item, column in zip(line.items, whole.columns, strict=True):
                cell = item.table.cell
                if column.metric != DETECTION or item.value is None or cell is None:
                    continue
                if line.row.attack.name != name:
                    continue
                for subject in subjects(cell):
                    interval = summary(cell, f"auroc[{subject}]")
                    if subject != "clean" and interval is not None:
                        seen.setdefault((column.head, subject), []).append((cell, interval))
    weak = []
    for (detector, subject), pairs in seen.items():
        above = [(cell, one) for cell, one in pairs if one.low is not None and one.low > 0.5]
        if above:
            cell, best = max(above, key=lambda pair: pair[1].mean)
            n = count_text(best.n, samples_of(cell, f"auroc[{subject}]"))
            weak.append(
                Weakness(
                    f"Told apart by {detector}, judging {subject}, in {len(above)} of "
                    f"{len(pairs)} rows; AUROC up to {RATE.number(best.mean)}, n {n}.",
                    cell,
                )
            )
    return weak
