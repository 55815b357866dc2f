"""Which defense holds: against each attack and in the worst case over them, measured against no
defense, inside a declared budget.

A defense is *better* than none if the interval of its paired difference to no defense, in the
adversary's rate, lies wholly on the defender's side. It *holds* if it also takes away more than
:data:`leaderboard.aggregate.MOST` of what the attack adds to an honest model's rate, else it
defends in part. Only what is better, at a loss of utility inside :data:`BUDGET`, is ranked above no
defense, by the rate and, where the rates do not differ, by the loss. What is no better than no
defense shares its rank; what helps the adversary is ranked below it. No seed that failed or is
missing can help a defense: the first counts as a success of the adversary, the second leaves the
defense without a rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from bench.record import PluginSpec
from leaderboard import bootstrap
from leaderboard.aggregate import (
    MIN_SEEDS,
    MOST,
    Interval,
    lexicographic_ranks,
    minimum_detectable_difference,
    paired_difference,
    rank_texts,
    share_difference,
    significant,
    t_interval,
)
from leaderboard.board import Board, Cell, Identity, Row, each_attack, identity, same_sampler
from leaderboard.contenders import Contender, EndPoint, Way, contenders, end_points, ways_in
from leaderboard.labels import label, shortened, shortened_defenses
from leaderboard.matrix import badges, is_share
from leaderboard.names import Words
from leaderboard.values import samples_of

#: How much of its utility (FID, or a classifier's accuracy) a defense may cost and still be ranked,
#: as a share of no defense's.
BUDGET = 0.10
#: A call whose samples reach less than this share of the usual precision, what shows the target
#: counted in, draws rubbish.
BROKEN = 0.5
#: The states of a defense, best first.
HOLDS, PART, NONE, LEVEL, WORSE, OUTSIDE, UNRANKED = (
    "holds",
    "part",
    "none",
    "level",
    "worse",
    "outside",
    "unranked",
)
STATES = (HOLDS, PART, NONE, LEVEL, WORSE, OUTSIDE, UNRANKED)
#: What each is called, of a detector or an inversion too, whose "nothing" is a guess, and what a
#: reader can filter entries by, in the order of the menu.
STATUSES = {
    HOLDS: "holds",
    PART: "in part",
    NONE: "control",
    LEVEL: "no better than nothing",
    WORSE: "worse than nothing",
    OUTSIDE: "outside the budget",
    UNRANKED: "not ranked",
}


@dataclass(frozen=True, kw_only=True)
class DefenseLine:
    """A defense's line. ``state``: how it compares with no defense; ``better``, ``holds``: whether
    it is better, and takes most of the attack away, whatever it costs; ``rank`` is empty where it
    has none; ``ranks``: the interval in which it could lie by the rate, with its own rank and those
    of a tie. ``worst``: the rate of the way in that works best, ``way``; ``by_way``: all of them;
    ``mean``: over the attacks, each at its strongest way. ``change``: of ``worst``, paired, against
    no defense's. ``above_honest``: ``worst`` less what an honest model without defense reads, never
    below 0. ``loss``: the share of utility that is lost where it is dearest; ``pareto``: nothing
    else that is better than none is better in both; ``counted``: the fewest seeds of an attack, and
    the samples of each; ``utility_samples``: those behind ``utility``; ``note``: why it has no
    rank.
    """

    cell: Cell
    state: str
    better: bool
    holds: bool
    rank: str
    ranks: tuple[int, int] | None
    worst: Interval
    way: Way
    by_way: tuple[tuple[Way, float], ...]
    mean: float
    change: Interval | None
    above_honest: float | None
    utility: Interval | None
    loss: Interval | None
    pareto: bool
    counted: tuple[int, int]
    utility_samples: int
    flags: tuple[str, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One row (an attack, under one sampler), or the worst case over several. ``without``,
    ``honest``: the rate without a defense, and on an honest model; ``samples``: the seeds and the
    samples in each; ``detectable``: the smallest difference to no defense that they would show four
    times in five, ``None`` if they would show none; ``lines``: best first, unranked last;
    ``outside``: those beyond the budget; ``aside``: attacks that do not work even without a
    defense, so that no defense can be judged by them; ``unjudged``: attacks without a result of no
    defense, so that none can be compared with it; ``comparisons``: how many differences were
    tested.
    """

    end_point: EndPoint
    rows: tuple[Row, ...]
    without: Interval | None
    samples: tuple[int, int]
    detectable: float | None
    honest: float | None
    lines: tuple[DefenseLine, ...]
    outside: tuple[DefenseLine, ...]
    aside: tuple[Row, ...]
    unjudged: tuple[Row, ...]
    comparisons: int
    utility_words: Words
    contenders: tuple[Contender, ...]

    @property
    def utility_decimals(self) -> int:
        """The same for every defense, so that a column can be compared."""
        every = self.lines + self.outside
        utilities = [line.utility.mean for line in every if line.utility]
        return self.utility_words.decimals_for(*utilities, 0.0)

    def contested(self) -> bool:
        """Whether any defense here changes what the adversary achieves; alone, no defense at all is
        no ranking.
        """
        return any(line.cell.defense.name != "none" for line in self.lines + self.outside)

    def works(self) -> bool:
        """Whether the attack, without a defense, reaches more than an honest model reads; ``True``
        where that is unknown.
        """
        if self.without is None or self.honest is None or self.without.n < MIN_SEEDS:
            return True
        return self.without.low is None or self.without.low > self.honest

    def judges(self) -> bool:
        """Whether a defense can be judged by it: an attack that works, as far as is known, and was
        measured without a defense.
        """
        return self.without is not None and self.works()

    def ranked(self) -> bool:
        """Whether there is a defense, beside none, with enough seeds."""
        return any(line.state not in (NONE, UNRANKED) for line in self.lines + self.outside)

    def in_order(self) -> tuple[DefenseLine, ...]:
        """All defenses, those last that are not ranked: what an unmeasured attack leaves of them is
        unknown.
        """
        ranked = [line for line in self.lines if line.state != UNRANKED]
        unranked = [line for line in self.lines if line.state == UNRANKED]
        return (*ranked, *self.outside, *unranked)

    def holders(self) -> list[DefenseLine]:
        """What holds best inside the budget."""
        return _first([line for line in self.lines if line.state == HOLDS])

    def partial(self) -> list[DefenseLine]:
        """What defends best in part, inside the budget."""
        return _first([line for line in self.lines if line.state == PART])

    def dear(self) -> list[DefenseLine]:
        """What holds, at a price beyond the budget."""
        return [line for line in self.outside if line.holds]

    @property
    def attacks(self) -> tuple[PluginSpec, ...]:
        """Those of the rows, each called by its row."""
        return tuple(row.named for row in self.rows)

    @cached_property
    def attack_names(self) -> dict[Identity, str]:
        """Of each attack here, as short as tells it from the others."""
        return shortened(row.attack for row in self.rows + self.aside + self.unjudged)

    @cached_property
    def defense_names(self) -> dict[Identity, str]:
        """Of each defense here, likewise."""
        return shortened_defenses(line.cell.defense for line in self.lines + self.outside)

    def left_out(self) -> list[str]:
        """The attacks set aside, each once."""
        return each_attack(self.aside, self.attack_names)

    def not_judged(self) -> list[str]:
        """The attacks without a result of no defense, each once."""
        return each_attack(self.unjudged, self.attack_names)

    def several(self) -> bool:
        """Whether this is the worst case over attacks."""
        return len(self.rows) > 1

    def extent(self) -> str:
        """What the worst case is over."""
        what = "pairs of attack and sampler" if self.rows[0].sampler else "attacks"
        return f"{len(self.rows)} {what}"


def rankings(board: Board) -> list[Ranking]:
    """For each end point the worst case over its attacks, if there are several, then each attack.
    The no-attack control is not ranked.
    """
    result = []
    for point in end_points(board):
        rows = [row for row in board.rows if row[0].name != "none" and ways_in(board, point, [row])]
        single = [_ranking(board, point, [row]) for row in rows]
        working = [
            (row, ranking) for row, ranking in zip(rows, single, strict=True) if ranking.judges()
        ]
        if len(working) > 1 and any(ranking.contested() for _, ranking in working):
            each = [ranking for _, ranking in working]
            result.append(_ranking(board, point, [row for row, _ in working], each, single))
        result += single
    return [ranking for ranking in result if ranking.lines or ranking.outside]


def headline(board: Board, rankings: Sequence[Ranking]) -> Ranking | None:
    """Of one end point's rankings the one that a reader sees first; ``None`` if no defense takes
    part: the worst case over all attacks, if that ranks a defense at all.

    Where several suites share a board, often no defense met every attack. Then it is the worst case
    over the attacks that the largest set of defenses met, all of them; of two such sets the one
    that met more attacks. Which that is depends on what was run, not on how it went.
    """
    contested = [ranking for ranking in rankings if ranking.contested()]
    single = [one for one in contested if not one.several()]
    if not single:
        return None
    if contested[0].several() and contested[0].ranked():
        return contested[0]
    working = [one for one in single if one.judges()]
    if not working:
        return max(single, key=lambda one: one.without.mean if one.without else 0.0)
    if not contested[0].several():
        return _over(board, working, rankings)
    met = [
        frozenset(
            identity(line.cell.defense)
            for line in ranking.lines + ranking.outside
            if line.state not in (NONE, UNRANKED)
        )
        for ranking in working
    ]
    sizes = [(len(one), sum(one <= other for other in met)) for one in met]
    if not sizes or max(sizes)[0] == 0:
        return contested[0]
    most = met[sizes.index(max(sizes))]
    each = [ranking for ranking, defenses in zip(working, met, strict=True) if most <= defenses]
    return _over(board, each, rankings)


def _over(board: Board, each: Sequence[Ranking], rankings: Sequence[Ranking]) -> Ranking:
    """The worst case over the attacks of ``each``; by what else no defense can be judged is set
    aside.
    """
    single = [one for one in rankings if not one.several()]
    if len(each) == 1 and all(one.judges() for one in single):
        return each[0]
    rows = [ranking.rows[0] for ranking in each]
    return _ranking(board, each[0].end_point, rows, each, single)


def _ranking(
    board: Board,
    point: EndPoint,
    rows: Sequence[Row],
    each: Sequence[Ranking] = (),
    single: Sequence[Ranking] = (),
) -> Ranking:
    """``each``: the rankings of the ``rows``; ``single``: those of all rows that there are."""
    aside = [one for one in single if not one.works()]
    candidates = contenders(board, point, rows)
    control = next((one for one in candidates if one.defense.name == "none"), None)
    honest = _honest(board, rows, candidates)
    judged = {
        identity(one.defense): _judged(one, control, honest, each, aside) for one in candidates
    }
    ranks, comparisons = _ranks(candidates, judged, point.utility)
    texts, spans = rank_texts(ranks), _spans(candidates, ranks)
    front = _front(
        [one for one in candidates if judged[identity(one.defense)].better or one is control]
    )
    lines = [
        DefenseLine(
            **judged[key]._asdict(),
            cell=one.cell(),
            rank=texts.get(key, ""),
            ranks=spans.get(key),
            worst=one.worst(),
            way=one.strongest(),
            by_way=tuple((way, one.mean(way)) for way, rates in one.rates.items() if rates),
            mean=sum(strongest := [one.mean(one.strongest(row)) for row in _rows(one)])
            / len(strongest),
            above_honest=None if honest is None else max(0.0, one.mean(one.strongest()) - honest),
            utility=_interval(one.utilities[row] if (row := one.dearest()) is not None else {}),
            loss=_interval(one.losses[row] if row is not None and one is not control else {}),
            pareto=key in front,
            counted=(one.measured(), samples_of(one.cell(), one.strongest().metric)),
            utility_samples=samples_of(one.costliest(), point.utility or ""),
            flags=_flags(one) + _wakes(one, aside) + _breaks(one, control),
        )
        for one in candidates
        if (key := identity(one.defense))
    ]
    lines.sort(key=_best_first)
    return Ranking(
        end_point=point,
        rows=tuple(rows),
        without=control.worst() if control else None,
        samples=_samples(control),
        detectable=_detectable(control),
        honest=honest,
        lines=tuple(line for line in lines if line.state != OUTSIDE),
        outside=tuple(line for line in lines if line.state == OUTSIDE),
        aside=tuple(ranking.rows[0] for ranking in aside),
        unjudged=tuple(ranking.rows[0] for ranking in single if ranking.without is None),
        comparisons=comparisons,
        utility_words=board.names.words(point.utility or ""),
        contenders=tuple(candidates),
    )


class _Judged(NamedTuple):
    """As in :class:`DefenseLine`."""

    state: str
    note: str
    change: Interval | None
    better: bool
    holds: bool


def _judged(
    one: Contender,
    control: Contender | None,
    honest: float | None,
    each: Sequence[Ranking],
    aside: Sequence[Ranking],
) -> _Judged:
    change = one.less(control) if control and one is not control else None
    better = _better(one, change, each, aside)
    holds = better and _holds(one, change, honest, each)
    return _Judged(*_state(one, control, change, better, holds), change, better, holds)


def _first(lines: Sequence[DefenseLine]) -> list[DefenseLine]:
    """Those that share the best rank among these."""
    best = min((_rank_number(line) for line in lines), default=0)
    return [line for line in lines if _rank_number(line) == best]


def _rank_number(line: DefenseLine) -> int:
    return int(line.rank.rstrip("=")) if line.rank else 0


def _lines_of(one: Contender, each: Sequence[Ranking]) -> list[DefenseLine]:
    """The defense's own, of several rankings."""
    lines = [line for ranking in each for line in ranking.lines + ranking.outside]
    return [line for line in lines if identity(line.cell.defense) == identity(one.defense)]


def _better(
    one: Contender,
    change: Interval | None,
    each: Sequence[Ranking],
    aside: Sequence[Ranking],
) -> bool:
    """Over several attacks: against each of them, so that one that it stops cannot hide one that it
    does not, nor one that only works with it.
    """
    if _wakes(one, aside):
        return False
    if each:
        own = _lines_of(one, each)
        return len(own) == len(each) and all(line.better for line in own)
    differs = change is not None and significant(change) and change.mean < 0
    return differs and not one.gaps and enough(one)


def _holds(
    one: Contender, change: Interval | None, honest: float | None, each: Sequence[Ranking]
) -> bool:
    """Of what is better than no defense: whether it takes most of each attack away."""
    if each:
        return all(line.holds for line in _lines_of(one, each))
    if change is None:
        return False
    without = one.mean(one.strongest()) - change.mean  # over the seeds that it has itself
    return -change.mean > MOST * (without - (honest or 0.0))


def _wakes(one: Contender, aside: Sequence[Ranking]) -> tuple[str, ...]:
    """The attacks set aside that work with this defense, though not without one."""
    return tuple(
        f"worse than no defense against {ranking.rows[0].label}"
        for ranking in aside
        for line in _lines_of(one, [ranking])
        if line.change is not None and significant(line.change) and line.change.mean > 0
    )


def _breaks(one: Contender, control: Contender | None) -> tuple[str, ...]:
    """Whether what is called is mostly neither the adversary's nor the data: the attack is stopped
    because the model no longer draws, which no rate of success tells from a repair.
    """
    if control is None or one is control:
        return ()
    broken = []
    for way, rates in one.rates.items():
        cell, plain = one.cells[way.row], control.cells[way.row]
        called = cell.values(f"precision[{way.call}]") if cell else {}
        clean = plain.values("precision[clean]") if plain else {}
        if called and clean and rates:
            share, usual = _mean(called), _mean(clean)
            if share + one.mean(way) < BROKEN * usual:
                broken.append((share, usual))
    if not broken:
        return ()
    share, usual = min(broken)
    return (
        f"called, it draws neither the target nor the data: precision {share:.2f}, of clean "
        f"samples without a defense {usual:.2f}",
    )


def enough(one: Contender) -> bool:
    """Whether at least :data:`MIN_SEEDS` seeds were measured for every attack."""
    return bool(_rows(one)) and one.measured() >= MIN_SEEDS


def _state(
    one: Contender,
    control: Contender | None,
    change: Interval | None,
    better: bool,
    holds: bool,
) -> tuple[str, str]:
    """Its state, and the reason if it has no rank or is listed apart."""
    if control is None:
        return UNRANKED, "nothing without a defense to compare with"
    if one.gaps:
        return UNRANKED, "; ".join(one.gaps)
    if not enough(one):
        return UNRANKED, f"fewer than {MIN_SEEDS} seeds"
    if one is control:
        return NONE, ""
    # What no defense costs in a row that was not measured without one, nobody knows.
    priced = [own for own, usual in zip(one.losses, control.losses, strict=True) if usual]
    known = [_mean(own) for own in priced if len(own) >= MIN_SEEDS]
    if max(known, default=0.0) > BUDGET:
        return OUTSIDE, ""
    if len(known) < len(priced):
        return OUTSIDE, "its cost was not measured"
    if better:
        return (HOLDS if holds else PART), ""
    worse = change is not None and significant(change) and change.mean > 0
    return (WORSE if worse else LEVEL), ""


def _ranks(
    candidates: Sequence[Contender],
    judged: Mapping[Identity, _Judged],
    utility: str | None,
) -> tuple[dict[Identity, int], int]:
    """Identity -> rank, and the number of differences that were tested for it."""
    by_state = {
        state: [one for one in candidates if judged[identity(one.defense)].state == state]
        for state in STATES
    }
    if not by_state[NONE]:
        return {}, 0
    holders = by_state[HOLDS] + by_state[PART]
    losses = [
        one.losses[dearest] if (dearest := one.dearest()) is not None else None for one in holders
    ]
    apart = {
        frozenset(pair): significant(holders[pair[0]].less(holders[pair[1]]))
        for pair in combinations(range(len(holders)), 2)
    }
    values = [
        {seed: share.value for seed, share in one.rates[one.strongest()].items()} for one in holders
    ]
    order = lexicographic_ranks(
        values,
        losses,
        (False, False),
        lambda one, other: apart[frozenset((one, other))],
        lambda one, other: _cost_apart(holders[one], holders[other], utility),
    )
    numbered = {identity(one.defense): rank for one, rank in zip(holders, order, strict=True)}
    level, worse = by_state[NONE] + by_state[LEVEL], by_state[WORSE]
    numbered |= {identity(one.defense): len(holders) + 1 for one in level}
    numbered |= {identity(one.defense): len(holders) + len(level) + 1 for one in worse}
    tested = len(holders) + len(by_state[LEVEL] + worse + by_state[OUTSIDE]) + len(apart)
    return numbered, tested


def _cost_apart(one: Contender, other: Contender, utility: str | None) -> bool:
    """Whether two cost different amounts, each where it is dearest. Where the utility is a share,
    three equal losses of one image are no difference yet.
    """
    rows = one.dearest(), other.dearest()
    if rows[0] is None or rows[1] is None:
        return False
    cells = one.cells[rows[0]], other.cells[rows[1]]
    if utility and cells[0] and cells[1] and all(is_share(cell, utility) for cell in cells if cell):
        return significant(share_difference(cells[0].shares(utility), cells[1].shares(utility)))
    return significant(paired_difference(one.losses[rows[0]], other.losses[rows[1]]))


def _spans(
    candidates: Sequence[Contender], ranks: Mapping[Identity, int]
) -> dict[Identity, tuple[int, int]]:
    """Identity -> rank interval by the rate, among those that have a rank, over the seeds that all
    of them have; none where records do not fit together.
    """
    ranked = [one for one in candidates if identity(one.defense) in ranks]
    sampled = bootstrap.in_common([one.sampled() for one in ranked])
    if len(sampled) < 2:
        return {}
    spans = bootstrap.rank_intervals(sampled, higher_is_better=False)
    by_rate = {identity(one.defense): span for one, span in zip(ranked, spans, strict=True)}
    return bootstrap.with_own_ranks(by_rate, ranks)


def _samples(control: Contender | None) -> tuple[int, int]:
    rates = control.rates[control.strongest()] if control else {}
    return len(rates), round(min((share.n for share in rates.values()), default=0))


def _detectable(control: Contender | None) -> float | None:
    rates = control.rates[control.strongest()] if control else {}
    return (
        minimum_detectable_difference([rates[seed] for seed in sorted(rates)])
        if len(rates) > 1
        else None
    )


def _honest(board: Board, rows: Sequence[Row], candidates: Sequence[Contender]) -> float | None:
    """The highest rate that an honestly trained model reads, without a defense, in any of the
    ways.
    """
    none = next((one.defense for one in candidates if one.defense.name == "none"), None)
    ways = {(way.row, way.metric) for one in candidates for way in one.rates}
    honest = [row for row in board.rows if row[0].name == "none" and row[1] is not None]
    means = [
        t_interval(list(values.values())).mean
        for index, metric in sorted(ways)
        for row in honest
        if none and row.probe and identity(row.probe) == identity(rows[index].attack)
        if same_sampler(row.sampler, rows[index].sampler)
        if (cell := board.cell(row, none)) and (values := cell.values(metric))
    ]
    return max(means, default=None)


def _front(candidates: Sequence[Contender]) -> set[Identity]:
    """Those that no other candidate equals or beats in rate and loss both, and beats in one."""
    points = {
        identity(one.defense): (one.mean(one.strongest()), _mean(one.losses[dearest]))
        for one in candidates
        if (dearest := one.dearest()) is not None
    }
    return {
        key
        for key, (rate, loss) in points.items()
        if not any(x <= rate and y <= loss and (x, y) != (rate, loss) for x, y in points.values())
    }


def _flags(one: Contender) -> tuple[str, ...]:
    """What the records and the board warn of, and what was done about seeds that failed."""
    seeds = len({seed for _, seed in one.failed})
    flags = (
        [f"{seeds} failed seed{'s' if seeds > 1 else ''} counted as the adversary’s success"]
        if seeds
        else []
    )
    for cell in one.cells:
        family = next(iter(one.rates)).metric
        flags += badges(cell, MIN_SEEDS, family, failed=False) if cell else ()
    return tuple(dict.fromkeys(flags))


def standing(line: DefenseLine) -> str:
    """A defense against no defense, in words, with why it is not ranked."""
    text = STATUSES[line.state]
    if line.state == PART:
        text = "in part: half of it or more is left"
    if line.state == OUTSIDE and line.better:
        text = f"{STATUSES[HOLDS if line.holds else PART]}, {text}"
    return f"{text}: {line.note}" if line.note else text


def _rows(one: Contender) -> list[int]:
    return sorted({way.row for way, rates in one.rates.items() if rates})


def _mean(values: Mapping[int, float]) -> float:
    return t_interval([values[seed] for seed in sorted(values)]).mean


def _interval(values: Mapping[int, float]) -> Interval | None:
    return t_interval([values[seed] for seed in sorted(values)]) if values else None


def _best_first(line: DefenseLine) -> tuple[int, int, float, float, str, str]:
    loss = line.loss.mean if line.loss else 0.0
    order = 0 if line.state in (HOLDS, PART) else STATES.index(line.state)
    return order, _rank_number(line), line.worst.mean, loss, label(line.cell.defense), line.cell.id
