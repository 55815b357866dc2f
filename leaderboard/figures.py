"""The board's figures: what a defense leaves against what it costs, curves over a parameter, what
the adversary's class is made of, and a detector on the two sets it can judge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leaderboard import charts, plots
from leaderboard.aggregate import Interval
from leaderboard.board import Board, Cell, identity, under
from leaderboard.charts import Disc, Pair, Series, Stack
from leaderboard.labels import label, shortened_defenses, without
from leaderboard.matrix import summary
from leaderboard.names import SECONDS
from leaderboard.questions import Question, seconds_of
from leaderboard.ranking import BUDGET, NONE, Ranking
from leaderboard.sound import cut
from leaderboard.values import fewest, samples_of
from leaderboard.view import BoardView
from leaderboard.whole import ASR, CLASSIFIER, Line, Whole

#: A curve needs this many values of its parameter.
_POINTS = 3
#: Attacks that a detector's marks can be told apart by, each by its number.
_SIGNS = 12
#: Letters of a text, of a name inside a drawing, and of one on an axis.
_LETTERS, _NAME, _AXIS = 60, 36, 48


@dataclass(frozen=True, kw_only=True)
class Figure:
    """``board``: the id of the one that it is of, empty if it is of several; ``title``: what is to
    be seen; ``where``: the testbed; ``legend``: marks with their names; ``source``: the suites that
    its numbers are from.
    """

    board: str = ""
    title: str
    where: str
    drawn: Markup
    legend: tuple[tuple[Markup, str], ...]
    note: str
    source: str


def _source(cells: Iterable[Cell | None]) -> str:
    suites = {entry.run.suite for cell in cells if cell for entry in cell.entries}
    return f"{'Suite' if len(suites) == 1 else 'Suites'}: {cut(', '.join(sorted(suites)), 300)}."


def figures(
    asked: Sequence[Question], views: Sequence[BoardView], whole: Whole, names: Mapping[str, str]
) -> tuple[Figure, ...]:
    """Those that the records have numbers for, in this order. ``names``: of the boards."""
    made: list[Figure | None] = [
        _pareto(group.board, group.source, names)
        for question in asked
        for group in question.groups
        if isinstance(group.source, Ranking)
    ]
    made += _curves(whole, names)
    made += [_stacks(view, names) for view in views]
    made += [_plane(view, names) for view in views]
    return tuple(one for one in made if one)


def _pareto(board: Board, ranking: Ranking, names: Mapping[str, str]) -> Figure | None:
    if ranking.end_point.utility is None:
        return None
    every = ranking.lines + ranking.outside
    by_defense = {identity(one.defense): one for one in ranking.contenders}
    called = ranking.defense_names
    discs = []
    for index, line in enumerate(sorted(every, key=lambda line: label(line.cell.defense))):
        zero = Interval(0.0, None, None, line.worst.n)
        loss = zero if line.state == NONE else line.loss
        if loss is None:
            continue
        one = by_defense[identity(line.cell.defense)]
        rows = range(len(ranking.rows)) if line.state != NONE else ()
        dots = tuple(
            (one.mean(one.strongest(row)), 100 * sum(lost.values()) / len(lost))
            for row in rows
            if (lost := one.losses[row])
            and any(one.rates[way] for way in one.rates if way.row == row)
        )
        discs.append(
            Disc(
                label=cut(called[identity(line.cell.defense)], _NAME),
                index=index,
                x=line.worst,
                y=_scaled(loss, 100.0),
                size=seconds_of(board, line.cell.defense),
                dots=dots,
            )
        )
    if len(discs) < 2:
        return None
    what = "accuracy lost" if ranking.end_point.higher_is_better else "FID added"
    over = f"worst of {ranking.extent()}" if ranking.several() else ranking.rows[0].label
    return Figure(
        board=board.id,
        title=f"{ranking.end_point.title}: what is left, and at what price",
        where=names[board.id],
        drawn=charts.pareto(
            discs,
            100 * BUDGET,
            f"{ranking.end_point.short} (share of images), {cut(over, _AXIS)}",
            f"{what}, % of no defense’s",
            f"{ranking.end_point.short} against {what} on {names[board.id]}",
        ),
        legend=(),
        note=f"{_sizes(discs)} Disc: the worst case with 95 % intervals, dots: each attack. Band: "
        f"the budget of {100 * BUDGET:g} %. What lies outside is held at the frame. Low and left "
        f"is good. n: {fewest(line.counted for line in every)} or more.",
        source=_source(
            board.cell(row, line.cell.defense) for line in every for row in ranking.rows
        ),
    )


def _scaled(one: Interval, factor: float) -> Interval:
    low, high = (None if end is None else factor * end for end in (one.low, one.high))
    return Interval(factor * one.mean, low, high, one.n)


def _sizes(discs: Sequence[Disc]) -> str:
    sizes = [disc.size for disc in discs if disc.size]
    if not sizes:
        return ""
    low, high = SECONDS.number(min(sizes)), SECONDS.number(max(sizes))
    return f"Size: run time of a cell, {low} to {high}."


def _curves(whole: Whole, names: Mapping[str, str]) -> list[Figure | None]:
    """A figure for each parameter of a testbed, an attack or a sampler in which rows differ alone,
    for each metric.
    """
    groups: dict[tuple[str, str, str], list[tuple[float, Board, Line]]] = {}
    for board, lines in whole.boards:
        for line in lines:
            if line.control:
                continue
            for owner, name, value, rest in _axes(board, line):
                groups.setdefault((owner, name, rest), []).append((value, board, line))
    made: list[Figure | None] = []
    for (owner, name, _), points in sorted(groups.items(), key=lambda item: item[0]):
        if len({value for value, _, _ in points}) >= _POINTS:
            for metric in (ASR, CLASSIFIER):
                made.append(_curve(owner, name, points, metric, whole, names))
    return made


def _axes(board: Board, line: Line) -> list[tuple[str, str, float, str]]:
    """(whose, parameter, its value, everything else that makes the row) for each number."""
    sampler = line.row.sampler
    own = {
        "testbed": (board.testbed.name, board.testbed.params),
        "attack": (line.row.attack.name, line.row.attack.params),
        "sampler": (sampler.name, sampler.params) if sampler else ("", {}),
    }
    axes = []
    for owner, (_, params) in own.items():
        for name, value in params.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            rest = {
                key: [other, {k: v for k, v in theirs.items() if (key, k) != (owner, name)}]
                for key, (other, theirs) in own.items()
            }
            # A protocol covers the testbed; only there may it differ along the axis.
            fixed = "" if owner == "testbed" else board.protocol
            axes.append((owner, name, float(value), json.dumps([rest, fixed], sort_keys=True)))
    return axes


def _curve(
    owner: str,
    name: str,
    points: Sequence[tuple[float, Board, Line]],
    metric: str,
    whole: Whole,
    names: Mapping[str, str],
) -> Figure | None:
    lines: list[Series] = []
    counts, cells = [], []
    for index, column in enumerate(whole.columns):
        if column.metric != metric:
            continue
        by_value: dict[float, Interval] = {}
        counted: dict[float, tuple[int, int]] = {}
        drawn: dict[float, Cell] = {}
        for value, _, line in points:
            item = line.items[index]
            if item.table.cell is None or not item.name:
                continue
            # Of two boards of one testbed, that with more records comes first.
            if interval := summary(item.table.cell, item.name):
                by_value.setdefault(value, interval)
                counted.setdefault(value, (interval.n, samples_of(item.table.cell, item.name)))
                drawn.setdefault(value, item.table.cell)
        if len(by_value) >= _POINTS:
            text = f"{column.head} {column.params}".strip()
            lines.append(Series(text, len(lines), tuple(sorted(by_value.items()))))
            counts += list(counted.values())
            cells += list(drawn.values())
    if not lines:
        return None
    _, board, first = points[0]
    where = names[board.id] if owner != "testbed" else board.testbed.name
    attack, sampler = label(first.row.attack), under(first.row.sampler)
    attack = without(attack, name) if owner == "attack" else attack
    sampler = without(sampler, name) if owner == "sampler" else sampler
    what = cut(f"{attack}{sampler}", 2 * _LETTERS)
    return Figure(
        title=f"{metric} over {cut(name, 40)}",
        where=f"{where}, {what}",
        drawn=charts.over_parameter(
            lines,
            f"{cut(name, 40)} of the {owner}",
            f"{metric} (share of images)",
            f"{metric} of {what} over {cut(name, 40)} on {where}",
        ),
        legend=tuple((plots.marker(line.index), cut(line.label, _LETTERS)) for line in lines),
        note="By the call that works best. Bars: 95 % intervals over seeds. "
        f"n: {fewest(counts)} or more.",
        source=_source(cells),
    )


def _stacks(view: BoardView, names: Mapping[str, str]) -> Figure | None:
    groups, counts, cells = [], [], []
    for row, lines in view.compositions:
        stacks = []
        called = shortened_defenses(line.cell.defense for line in lines)
        for line in lines:
            g1, g2, p_t = (summary(line.cell, name) for name in ("g1", "g2", "p_t"))
            if g1 is None or g2 is None:
                continue
            against = called[identity(line.cell.defense)]
            share = p_t.mean if p_t and p_t.mean > 0 else None
            stacks.append(Stack(against, g1.mean, g2.mean, share))
            counts.append((g1.n, samples_of(line.cell, "g1")))
            cells.append(line.cell)
        probe = f"no attack, tried with {label(row.probe)}" if row.probe else "no attack"
        if stacks:
            groups.append((probe if row.attack.name == "none" else row.label, stacks))
    if not groups:
        return None
    return Figure(
        board=view.board.id,
        title="What the adversary’s class is made of",
        where=names[view.board.id],
        drawn=charts.stacks(groups, f"G1 and G2 with p_t on {names[view.board.id]}"),
        legend=(
            (Markup('<span class="swatch g1-mark"></span>'), "G1 trigger, another class"),
            (Markup('<span class="swatch g2-mark"></span>'), "G2 trigger, the class asked for"),
        ),
        note="A bar beyond its tick: the generator draws the trigger more often than it was shown "
        f"it. Means over seeds. n: {fewest(counts)} or more.",
        source=_source(cells),
    )


def _plane(view: BoardView, names: Mapping[str, str]) -> Figure | None:
    judged = [
        (index, detector.spec, line, one, other)
        for index, detector in enumerate(view.detectors)
        for line in detector.lines
        if line.row.attack.name != "none"
        and (one := summary(line.cell, "auroc[training set]"))
        and (other := summary(line.cell, "auroc[generated]"))
    ]
    if not judged:
        return None
    attacks = list(dict.fromkeys(line.row.label for _, _, line, _, _ in judged))
    signs = {name: str(at) for at, name in enumerate(attacks, 1)} if len(attacks) <= _SIGNS else {}
    pairs = [
        Pair(f"{label(spec)}, {line.row.label}", signs.get(line.row.label, ""), index, one, other)
        for index, spec, line, one, other in judged
    ]
    detectors = {index: label(spec) for index, spec, *_ in judged}
    counts = [
        (one.n, samples_of(line.cell, f"auroc[{on}]"))
        for _, _, line, *both in judged
        for on, one in zip(("training set", "generated"), both, strict=True)
    ]
    return Figure(
        board=view.board.id,
        title="Detectors on the training set and on what is generated",
        where=names[view.board.id],
        drawn=charts.plane(
            pairs,
            "AUROC, training set",
            "AUROC, generated images",
            f"AUROC on the training set against generated images on {names[view.board.id]}",
        ),
        legend=(
            *((plots.marker(at), cut(name, _LETTERS)) for at, name in detectors.items()),
            *((Markup(), f"{sign}: {cut(name, 2 * _LETTERS)}") for name, sign in signs.items()),
        ),
        note="A mark for each attack, bars: 95 % intervals over seeds. Above the diagonal the "
        "generated images give the poison away sooner than the training set. "
        f"n: {fewest(counts)} or more.",
        source=_source(line.cell for _, _, line, *_ in judged),
    )
