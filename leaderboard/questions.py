"""The first screen: one ranking per question, over all boards, each with its answer in a line.

Ranks are those of :mod:`leaderboard.ranking` and :mod:`leaderboard.finders`, inside one board;
nothing here compares across boards.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from bench.record import PluginSpec
from bench.results import Submitted
from leaderboard import methods, palette, plots
from leaderboard.aggregate import Interval
from leaderboard.board import Board, Cell, Identity, Row, identity, under
from leaderboard.finders import FinderLine, FinderRanking, finder_standing
from leaderboard.inversions import TARGET, TRIGGER, Recovery
from leaderboard.labels import label, shortened, shortened_defenses
from leaderboard.live import so_far
from leaderboard.matrix import summary
from leaderboard.methods import Paper
from leaderboard.names import RATE
from leaderboard.ranking import (
    HOLDS,
    LEVEL,
    PART,
    STATUSES,
    UNRANKED,
    DefenseLine,
    Ranking,
    headline,
    standing,
)
from leaderboard.values import NO_VALUE, Value, count_text, fewest, percent, value
from leaderboard.view import BoardView

#: Of answers: what holds, that nothing does, that it is not known.
_ORDER = {True: 0, False: 1, None: 2}


class About(NamedTuple):
    """Of a method: its papers, and what its user must have (:func:`leaderboard.methods.needs`)."""

    papers: tuple[Paper, ...]
    needs: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of a ranking. ``level``: to which a bundle's numbers were verified, empty for what
    nobody submitted; ``bundle``: its name. ``status``: of :data:`STATUSES`; ``worst``: against
    ``against``, ``value`` the same as a number; ``extras``: one value and its number for each of
    the question's further columns; ``counted``: seeds, and samples of each, 0 where there are none;
    ``so_far``: how much of it is there, while a run goes on.
    """

    cell: Cell
    family: str
    rank: str
    ranks: tuple[int, int] | None
    status: str
    standing: str
    bar: Markup
    value: float
    worst: Value
    against: str
    mean: float
    extras: tuple[tuple[Value, float | None], ...]
    seconds: float | None
    counted: tuple[int, int]
    flags: tuple[str, ...]
    pareto: bool
    papers: tuple[Paper, ...]
    needs: str
    troubles: tuple[str, ...]
    so_far: str
    level: str
    bundle: str

    @property
    def control(self) -> bool:
        """Whether it is no defense."""
        return self.cell.defense.name == "none"

    @property
    def n(self) -> str:
        """Seeds times samples of each."""
        return count_text(*self.counted)

    @property
    def samples(self) -> int:
        """``n`` in all, to sort by."""
        seeds, samples = self.counted
        return seeds * (samples or 1)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """``good``: whether something holds, ``None`` if that is not known; ``best``: what does, or
    why nothing; ``tail``: how well; ``beside``: what that is short of; ``n``: behind that number,
    empty without one.
    """

    good: bool | None
    best: str
    tail: str = ""
    beside: str = ""
    n: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The entries of one board, best first. ``extent``: what the worst case is over; ``baseline``:
    what no defense, a guess or a constant image reads; ``notes``: what a reader must know of all of
    them; ``calls``: the adversary's; ``attacks``: their names; ``so_far``: as an entry's, of all.
    """

    board: Board
    subject: str
    extent: str
    baseline: str
    entries: tuple[Entry, ...]
    answer: Answer
    notes: tuple[str, ...]
    calls: tuple[str, ...]
    attacks: tuple[str, ...]
    so_far: str
    source: Ranking | FinderRanking = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Question:
    """``id``: an HTML id and a word of links; ``short``: the head of the number ranked by;
    ``kind``: of its entries; ``extra_heads``: of the further columns; ``recovery``: what inversions
    are asked for.
    """

    id: str
    title: str
    ask: str
    short: str
    kind: str
    lower_is_better: bool
    extra_heads: tuple[str, ...]
    groups: tuple[Group, ...]
    recovery: Recovery | None = None

    @property
    def submitted(self) -> bool:
        """Whether any of its entries is from a bundle."""
        return any(entry.level for group in self.groups for entry in group.entries)

    @cached_property
    def names(self) -> dict[Identity, str]:
        """Of each entry, as short as tells it from the others; the title has it in full."""
        listed = (entry.cell.defense for group in self.groups for entry in group.entries)
        return shortened_defenses(listed)

    @property
    def tally(self) -> str:
        """Of all answers, how many say that something holds, that nothing does, or neither."""
        counts = Counter(group.answer.good for group in self.groups)
        named = ((True, "yes"), (False, "no"), (None, "open"))
        return ", ".join(f"{counts[good]} {word}" for good, word in named if counts[good])

    def answered(self) -> list[Group]:
        """The groups with an answer that somebody can use before the others."""
        return sorted(self.groups, key=lambda group: _ORDER[group.answer.good])


def questions(views: Sequence[BoardView]) -> tuple[Question, ...]:
    """Those that some board has entries for, the backdoor first."""
    boards = [view.board for view in views]
    words = methods.words_of(boards)
    known = {
        key: About(methods.papers_of_defense(boards, key), methods.needs(key[0], words))
        for key in {identity(column) for board in boards for column, _ in board.columns}
    }

    def about(spec: PluginSpec) -> About:
        return known.get(identity(spec), About((), ""))

    asked = [
        Question(
            id="stops",
            title="Stops the backdoor",
            ask="Does the model still do what the adversary asks of it?",
            short="attack success",
            kind="Defense",
            lower_is_better=True,
            extra_heads=("FID added",),
            groups=_defenses(views, "Stops the backdoor", about),
        ),
        Question(
            id="finds",
            title="Finds the poison",
            ask="Are poisoned rows, images, prompts or noise found before they do harm?",
            short="share found",
            kind="Detector",
            lower_is_better=False,
            extra_heads=("false alarms", "AUROC"),
            groups=_finders(views, None, about),
        ),
        _recovers("recovers-trigger", TRIGGER, "calls it by", views, about),
        _recovers("recovers", TARGET, "makes it draw", views, about),
        Question(
            id="classifies",
            title="Classifies safely",
            ask="Is a classifier that learned from the model free of the backdoor?",
            short="classifier ASR",
            kind="Defense",
            lower_is_better=True,
            extra_heads=("accuracy lost",),
            groups=_defenses(views, "Classifies safely", about),
        ),
    ]
    return tuple(question for question in asked if question.groups)


def _recovers(
    question_id: str,
    recovery: Recovery,
    secret: str,
    views: Sequence[BoardView],
    about: Callable[[PluginSpec], About],
) -> Question:
    return Question(
        id=question_id,
        title=f"Recovers the {recovery.what}",
        ask=f"Does the model give away what the adversary {secret}?",
        short="error / constant",
        kind="Inversion",
        lower_is_better=True,
        extra_heads=("best epoch", "honest model"),
        groups=_finders(views, recovery, about),
        recovery=recovery,
    )


def seconds_of(board: Board, defense: PluginSpec) -> float | None:
    """Mean run time of a column's cells under attack; ``None`` if none was measured."""
    cells = (board.cell(row, defense) for row in board.rows if row.attack.name != "none")
    times = [time.mean for cell in cells if cell and (time := summary(cell, "cost[seconds]"))]
    return math.fsum(times) / len(times) if times else None


def _defenses(
    views: Sequence[BoardView], title: str, about: Callable[[PluginSpec], About]
) -> tuple[Group, ...]:
    groups = []
    for view in views:
        rankings = [one for one, _ in view.rankings if one.end_point.title == title]
        ranking = headline(view.board, rankings)
        if ranking is not None:
            every = max(len(one.rows) for one in rankings)
            groups.append(_defense_group(view.board, ranking, every, about))
    return tuple(groups)


def _defense_group(
    board: Board, ranking: Ranking, every: int, about: Callable[[PluginSpec], About]
) -> Group:
    kinds = {identity(column): family for column, family in board.columns}
    entries = tuple(
        _defense_entry(board, ranking, line, kinds[identity(line.cell.defense)], about)
        for line in ranking.in_order()
    )
    notes = []
    if len(ranking.rows) < every:
        notes.append(
            f"Of {every} attacks, those that these defenses all met; the others are in the matrix."
        )
    if ranking.aside:
        left = "; ".join(ranking.left_out())
        notes.append(f"Left out, since it does not work without a defense either: {left}.")
    if ranking.unjudged:
        left = "; ".join(ranking.not_judged())
        notes.append(f"Not judged, since there is no result without a defense: {left}.")
    if not ranking.several() and not ranking.works():
        notes.append("Without a defense it reaches no more than an honest model reads.")
    if ranking.ranked() and ranking.detectable is not None:
        notes.append(
            f"A difference to no defense below {RATE.number(ranking.detectable)} would be missed "
            f"more often than once in five."
        )
    if ranking.honest is not None:
        notes.append(f"An honest model reads {RATE.number(ranking.honest)}.")
    return Group(
        board=board,
        subject="",
        extent=f"worst of {ranking.extent()}" if ranking.several() else ranking.rows[0].label,
        baseline=f"no defense {RATE.number(ranking.without.mean)}" if ranking.without else "",
        entries=entries,
        answer=_answer(ranking, every),
        notes=tuple(notes),
        calls=_calls(board, ranking.rows),
        attacks=tuple(row.attack.name for row in ranking.rows),
        so_far=so_far(board, [one.cell.defense for one in entries], "defenses"),
        source=ranking,
    )


def _defense_entry(
    board: Board,
    ranking: Ranking,
    line: DefenseLine,
    family: str,
    about: Callable[[PluginSpec], About],
) -> Entry:
    baseline = ranking.without.mean if ranking.without else None
    call = f", called by {line.way.call}" if len(line.by_way) > 1 and line.way.call else ""
    row = ranking.rows[line.way.row]
    return Entry(
        cell=line.cell,
        family=family,
        rank=line.rank,
        ranks=line.ranks,
        status=STATUSES[line.state],
        standing=standing(line),
        bar=_bar(line.worst, baseline, False),
        value=line.worst.mean,
        worst=_worst(line.worst),
        against=f"{ranking.attack_names[identity(row.attack)]}{under(row.sampler)}{call}",
        mean=line.mean,
        extras=((percent(line.loss), line.loss.mean if line.loss else None),),
        seconds=seconds_of(board, line.cell.defense),
        counted=line.counted,
        flags=line.flags,
        pareto=line.pareto and line.better,
        papers=about(line.cell.defense).papers,
        needs=about(line.cell.defense).needs,
        troubles=_troubles(board, line.cell.defense),
        so_far=so_far(board, [line.cell.defense]),
        **_verified(board, line.cell.defense),
    )


def _named(lines: Sequence[DefenseLine] | Sequence[FinderLine]) -> str:
    """The first three, as short as tells them apart."""
    return ", ".join(list(shortened(line.cell.defense for line in lines).values())[:3])


def _answer(ranking: Ranking, every: int) -> Answer:
    holders, dear, partial = ranking.holders(), ranking.dear(), ranking.partial()
    before = f"{100 * ranking.without.mean:.0f} % → " if ranking.without else ""
    if holders:
        best = _named(holders)
        more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
        worst = max(line.worst.mean for line in holders)
        return Answer(
            good=True,
            best=best + more,
            tail=f"{before}{100 * worst:.0f} %",
            beside=f"{len(ranking.rows)} of {every} attacks" if len(ranking.rows) < every else "",
            n=fewest(line.counted for line in holders),
        )
    if dear:
        return Answer(
            good=False, best="none inside the budget", beside=f"{_named(dear)} at its price"
        )
    if partial:
        left = max(line.worst.mean for line in partial)
        return Answer(
            good=False,
            best="none holds",
            beside=f"{_named(partial)} in part: {before}{100 * left:.0f} %",
        )
    if not ranking.ranked():
        return Answer(good=None, best="not ranked")
    return Answer(good=False, best="none holds")


def _finders(
    views: Sequence[BoardView],
    recovery: Recovery | None,
    about: Callable[[PluginSpec], About],
) -> tuple[Group, ...]:
    """Of detectors without a ``recovery``."""
    groups = []
    for view in views:
        kinds = {identity(column): family for column, family in view.board.columns}
        for ranking in (*view.detections, *view.recoveries):
            if ranking.recovery != recovery:
                continue
            entries = tuple(
                _finder_entry(view.board, ranking, line, kinds, about) for line in ranking.lines
            )
            several = len(ranking.attacks) > 1
            what = f"{len(ranking.attacks)} attacks" if several else label(ranking.attacks[0])
            groups.append(
                Group(
                    board=view.board,
                    subject="" if recovery else ranking.what,
                    extent=f"worst of {what}" if several else what,
                    baseline="a constant image 1.00" if recovery else "",
                    entries=entries,
                    answer=_finder_answer(ranking),
                    notes=(f"{ranking.metric}: {ranking.warning}.",) if ranking.warning else (),
                    calls=_calls(view.board, view.board.rows),
                    attacks=tuple(row.attack.name for row in view.board.rows),
                    so_far=so_far(
                        view.board,
                        [one.cell.defense for one in entries],
                        "inversions" if recovery else "detectors",
                    ),
                    source=ranking,
                )
            )
    return tuple(groups)


def _finder_entry(
    board: Board,
    ranking: FinderRanking,
    line: FinderLine,
    kinds: dict[tuple[str, str], str],
    about: Callable[[PluginSpec], About],
) -> Entry:
    inverts = ranking.recovery is not None
    status = UNRANKED if line.note else LEVEL if not line.finds else HOLDS if line.most else PART
    # Without a threshold fixed beforehand there are no false alarms to report.
    texts = line.beside if inverts or len(line.beside) == 3 else (NO_VALUE, *line.beside)
    return Entry(
        cell=line.cell,
        family=kinds[identity(line.cell.defense)],
        rank=line.rank,
        ranks=line.ranks,
        status=STATUSES[status],
        standing=finder_standing(line, inverts),
        bar=_bar(line.worst, 1.0 if inverts else None, not inverts, 2.0 if inverts else 1.0),
        value=line.worst.mean,
        worst=_worst(line.worst),
        against=label(line.attack),
        mean=line.mean,
        extras=tuple((text, _number(text[0])) for text in texts[:2]),
        seconds=seconds_of(board, line.cell.defense),
        counted=line.counted,
        flags=line.flags,
        pareto=False,
        papers=about(line.cell.defense).papers,
        needs=about(line.cell.defense).needs,
        troubles=_troubles(board, line.cell.defense),
        so_far=so_far(board, [line.cell.defense]),
        **_verified(board, line.cell.defense),
    )


def _finder_answer(ranking: FinderRanking) -> Answer:
    inverts = ranking.recovery is not None
    first = [line for line in ranking.lines if line.rank.rstrip("=") == "1"]
    if first:
        # One that finds less, and is not told apart, takes nothing from who finds most.
        held = [line for line in first if line.most]
        named = held or first
        best, n = _named(named), fewest(line.counted for line in named)
        worst = (max if inverts else min)(line.worst.mean for line in named)
        tail = f"error {worst:.2f} of a constant’s" if inverts else f"{100 * worst:.0f} %"
        if held:
            return Answer(good=True, best=best, tail=tail, n=n)
        none = "none recovers it" if inverts else "none finds most"
        return Answer(good=False, best=none, beside=f"{best} in part: {tail}", n=n)
    unranked = sum(bool(line.note) for line in ranking.lines)
    if unranked == len(ranking.lines):
        return Answer(good=None, best="not ranked")
    none = "recovers it" if inverts else "beats a guess"
    if unranked:
        return Answer(
            good=False,
            best=f"none ranked {none}",
            beside=f"{unranked} not ranked",
        )
    return Answer(good=False, best=f"none {none}")


def _worst(worst: Interval) -> Value:
    """Its n has a column of its own."""
    return value(RATE, worst, alone="one seed")._replace(n="")


def _bar(
    worst: Interval, reference: float | None, higher_is_better: bool, end: float = 1.0
) -> Markup:
    step = palette.step(worst.mean, 0.0, end, higher_is_better)
    ends = (worst.low, worst.high)
    return plots.rate_bar(worst.mean, ends, reference, end, 5 if step is None else step)


def _number(text: str) -> float | None:
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return None


def _calls(board: Board, rows: Sequence[Row]) -> tuple[str, ...]:
    calls = [
        call for row in rows if row.attack.name != "none" for call in methods.calls(board, row)
    ]
    return tuple(dict.fromkeys(calls))


def _troubles(board: Board, defense: PluginSpec) -> tuple[str, ...]:
    """Statuses that some of its cells have."""
    cells = [cell for row in board.rows if (cell := board.cell(row, defense))]
    return tuple(s for s in ("failed", "skipped") if any(cell.with_status(s) for cell in cells))


def _verified(board: Board, defense: PluginSpec) -> dict[str, str]:
    """The lowest level of the bundles that a column is from, and their names."""
    cells = [cell for row in board.rows if (cell := board.cell(row, defense))]
    runs = {id(entry.run): entry.run for cell in cells for entry in cell.entries}.values()
    bundles = [run for run in runs if isinstance(run, Submitted)]
    if not bundles or len(bundles) < len(runs):
        return {"level": "", "bundle": ""}
    names = sorted({run.bundle for run in bundles})
    return {"level": str(min(run.level for run in bundles)), "bundle": ", ".join(names)}
