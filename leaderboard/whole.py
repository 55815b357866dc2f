"""The whole matrix: every attack against every defense and detector over all boards, each column in
the metric of its family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench.record import PluginSpec
from leaderboard import methods, palette
from leaderboard.board import FAMILIES, Board, Cell, Identity, Row, digest, identity
from leaderboard.contenders import end_points, ways_in
from leaderboard.detections import subjects
from leaderboard.inversions import RECOVERIES, TARGET
from leaderboard.labels import label, parts_of, shortened, shortened_defenses
from leaderboard.matrix import (
    TableCell,
    badges,
    measured,
    not_yet,
    sources,
    summary,
    value_of,
    without_value,
)
from leaderboard.methods import Paper
from leaderboard.names import split
from leaderboard.populations import AUROC as MODELS
from leaderboard.values import count_text

#: What a column's cells show, with its name as a column's head.
ASR, CLASSIFIER, DETECTION, POPULATION = (
    "residual ASR",
    "classifier ASR",
    "AUROC",
    "AUROC, models",
)
#: The same of an inversion, with what it recovered.
RECOVERED = {f"inversion MSE, {one.what}": one for one in RECOVERIES}
_OF_FAMILY = {
    "sampler": ASR,
    "model": ASR,
    "data": CLASSIFIER,
    "classifier": CLASSIFIER,
    "model detector": POPULATION,
}
CLASSIFIER_RATE = "classifier_asr"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A defense or detector under one metric. ``head``: its name, with the parameters only where
    the name alone is another column's too; ``needs``: as :func:`leaderboard.methods.needs`.
    """

    spec: PluginSpec
    family: str
    metric: str
    head: str
    params: str
    papers: tuple[Paper, ...]
    needs: str

    @cached_property
    def key(self) -> str:
        """In the page's address and ids: the same wherever the column stands."""
        return f"c{digest(identity(self.spec), self.metric)}"

    @property
    def control(self) -> bool:
        """Whether it is no defense."""
        return self.family == "control"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A cell of the matrix. ``name``: its metric in the records; ``value``: to sort by, ``None``
    without a number; ``beside``: further (name, value) of the same kind.
    """

    table: TableCell
    name: str
    value: float | None
    beside: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One attack of one board; ``attack``, ``probe``: as short as tells them from the board's
    others; ``calls``: the adversary's, ``papers``: of the attack.
    """

    row: Row
    attack: str
    probe: str
    calls: tuple[str, ...]
    papers: tuple[Paper, ...]
    items: tuple[Item, ...]

    @property
    def control(self) -> bool:
        """Whether the model is honest."""
        return self.row.attack.name == "none"


@dataclass(frozen=True)
class Whole:
    """``boards``: each with its lines, attacks first and the controls after them."""

    columns: tuple[Column, ...]
    boards: tuple[tuple[Board, tuple[Line, ...]], ...]

    def families(self) -> list[tuple[str, int]]:
        """Runs of columns of one family, with their number."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.family:
                runs[-1] = (column.family, runs[-1][1] + 1)
            else:
                runs.append((column.family, 1))
        return runs

    def sources(self) -> list[str]:
        """Of what papers printed for these cells."""
        return sources(
            item.table for _, lines in self.boards for line in lines for item in line.items
        )

    def cells(self) -> int:
        """How many cells have a number."""
        return sum(
            item.value is not None
            for _, lines in self.boards
            for line in lines
            for item in line.items
        )


def whole(boards: Sequence[Board]) -> Whole:
    """All boards in one table; no number is compared across them. What is still to come has its
    row and column, and says when it is expected.
    """
    planned = [board.with_awaited() if board.awaited else board for board in boards]
    columns = _columns(planned)
    return Whole(
        columns=columns,
        boards=tuple((board, _lines(board, columns)) for board in planned),
    )


def _lines(board: Board, columns: Sequence[Column]) -> tuple[Line, ...]:
    attacks = shortened(row.attack for row in board.rows)
    probes = shortened(row.probe for row in board.rows if row.probe)
    # No defense has a column for each metric of some board, and awaits only those of its own.
    own = _metrics_of(board, "control") if board.awaited else []
    bare = replace(board, awaited={}) if board.awaited else board
    return tuple(
        Line(
            row=row,
            attack=attacks[identity(row.attack)],
            probe=probes[identity(row.probe)] if row.probe else "",
            calls=methods.calls(board, row),
            papers=methods.papers_of_attack(board, row),
            items=tuple(
                _item(
                    bare if column.control and column.metric not in own else board,
                    row,
                    column,
                    ways,
                )
                for column in columns
            ),
        )
        for row, ways in _ways(board)
    )


def _ways(board: Board) -> list[tuple[Row, list[str]]]:
    """Each row with the metrics that are the adversary's rates there; the controls come last."""
    point = next((one for one in end_points(board) if CLASSIFIER_RATE not in one.families), None)
    rows = sorted(board.rows, key=lambda row: row.attack.name == "none")
    return [
        (row, [way.metric for way in ways_in(board, point, [row])] if point else []) for row in rows
    ]


def _columns(boards: Sequence[Board]) -> tuple[Column, ...]:
    specs: dict[tuple[Identity, str], tuple[PluginSpec, str]] = {}
    for board in boards:
        for spec, family in board.columns:
            recovered = _recovered(boards, spec) if family == "inversion" else []
            for metric in recovered or _metrics_of(board, family):
                specs.setdefault((identity(spec), metric), (spec, family))
    names = shortened_defenses(spec for spec, _ in specs.values())
    words = methods.words_of(boards)
    order = (ASR, CLASSIFIER, DETECTION, POPULATION, *RECOVERED)
    columns = [
        Column(
            spec=spec,
            family=family,
            metric=metric,
            **_head(names[identity(spec)]),
            papers=methods.papers_of_defense(boards, key),
            needs=methods.needs(spec.name, words),
        )
        for (key, metric), (spec, family) in specs.items()
    ]

    def position(column: Column) -> tuple[object, ...]:
        known = FAMILIES.index(column.family) if column.family in FAMILIES else len(FAMILIES)
        return known, column.family, order.index(column.metric), label(column.spec)

    return tuple(sorted(columns, key=lambda column: (*position(column), identity(column.spec))))


def _head(name: str) -> dict[str, str]:
    """A column's name and, below it, what tells it from its neighbours; of several defenses at once
    in one.
    """
    if len(parts_of(name)) > 1:
        return {"head": name, "params": ""}
    head, _, params = name.partition("(")
    return {"head": head, "params": params.removesuffix(")")}


def _recovered(boards: Sequence[Board], spec: PluginSpec) -> list[str]:
    """What an inversion is measured by: all that it recovered somewhere; if nothing, the target,
    for the reason.
    """
    cells = [cell for board in boards for row in board.rows if (cell := board.cell(row, spec))]
    return [
        metric
        for metric, recovery in RECOVERED.items()
        if any(cell.values(recovery.last) for cell in cells)
    ] or [metric for metric, recovery in RECOVERED.items() if recovery == TARGET]


def _metrics_of(board: Board, family: str) -> list[str]:
    """What its column is measured by; of no defense, what each of the others is held against."""
    if family == "control":
        points = {point.families[0] for point in end_points(board)}
        return [
            metric
            for metric, names in ((ASR, {"asr", "robust_asr"}), (CLASSIFIER, {CLASSIFIER_RATE}))
            if points & names
        ] or _to_be_measured(board)
    if family.endswith("detector") and family != "model detector":
        return [DETECTION]
    return [_OF_FAMILY.get(family, ASR)]


def _to_be_measured(board: Board) -> list[str]:
    """What no defense will be measured by where nothing is there yet: as the defenses are that are
    still to come.
    """
    coming = {_OF_FAMILY.get(one.family) for one in board.awaited.values()}
    return [metric for metric in (ASR, CLASSIFIER) if metric in coming]


def _nothing(board: Board, row: Row, column: Column, population: bool = False) -> Item:
    awaited = board.expected(row, column.spec, population)
    table = not_yet(awaited)
    return Item(table=table if awaited else replace(table, text=""), name="", value=None, beside=())


def _item(board: Board, row: Row, column: Column, ways: Sequence[str]) -> Item:
    cell = board.cell(row, column.spec)
    if column.metric == POPULATION:
        return _population(board, row, column, cell)
    if cell is None:
        return _nothing(board, row, column)
    names = _names(cell, column.metric, ways)
    measured = [name for name in names if cell.values(name)]
    if not measured:
        return _empty(cell, names[0] if names else "")
    if column.metric == ASR:
        # An adversary uses the call that works best.
        means = {name: summary(cell, name) for name in measured}
        measured.sort(key=lambda name: -(means[name].mean if means[name] else 0.0))  # type: ignore[union-attr]
    beside = tuple(measured[1:])
    return _measured(cell, measured[0], beside, column.metric)


def _names(cell: Cell, metric: str, ways: Sequence[str]) -> list[str]:
    if metric == ASR:
        return list(ways)
    if metric == DETECTION:
        measured = [f"auroc[{subject}]" for subject in subjects(cell) if subject != "clean"]
        # What the records say is absent, for its reason.
        return measured or sorted(
            {
                name
                for record in cell.records()
                for name in record.absent
                if split(name)[0] == "auroc" and split(name)[1] != "clean"
            }
        )
    return [RECOVERED[metric].last] if metric in RECOVERED else [CLASSIFIER_RATE]


def _measured(cell: Cell, name: str, beside: Sequence[str], metric: str) -> Item:
    interval = summary(cell, name)
    assert interval is not None  # a metric with values has a mean
    better = metric == DETECTION
    low, high = 0.0, 1.0
    if metric in RECOVERED:
        # As far above the best constant image as below it.
        constants = [summary(cell, one) for one, _ in RECOVERED[metric].constants]
        lines = [line.mean for line in constants if line]
        high = 2 * min(lines) if lines else 0.0
    step = palette.step(interval.mean, low, high, better)
    # An honest model has nothing to defend, so its numbers are neither good nor bad.
    step = None if cell.attack.name == "none" else step
    table = measured(cell, name, interval, step=step, alone="one seed")
    others = []
    for one in beside:
        further = value_of(cell, one)
        n = "" if further.n == table.n else f", n {further.n}"
        others.append((split(one)[1], f"{further.text}{n}"))
    return Item(table=table, name=name, value=interval.mean, beside=tuple(others))


def _empty(cell: Cell, name: str) -> Item:
    return Item(table=without_value(cell, name), name=name, value=None, beside=())


def _population(board: Board, row: Row, column: Column, cell: Cell | None) -> Item:
    """A detector of models has one number for all seeds of an attack."""
    key = _key(row.attack, row.sampler, column.spec)
    of_row = (one for one in board.populations if _key(one.attack, one.sampler, one.defense) == key)
    population = next(of_row, None)
    metric = population.entries[0].numbers.get(MODELS) if population else None
    if population is None or metric is None or metric.value is None:
        if population is None and (cell is None or board.expected(row, column.spec, True)):
            return _nothing(board, row, column, True)
        return _empty(population or cell, MODELS)  # type: ignore[arg-type]
    words = population.words(MODELS)
    known = [words.number(end) for end in (metric.ci_low, metric.ci_high) if end is not None]
    table = TableCell(
        cell=population,
        state="value",
        text=words.number(metric.value),
        interval=f"[{', '.join(known)}]" if len(known) == 2 else "",
        n=count_text(len(population.entries[0].record.seeds), 0),
        step=palette.step(metric.value, 0.0, 1.0, True),
        badges=badges(population, len(population.entries[0].record.seeds), MODELS),
    )
    return Item(table=table, name=MODELS, value=metric.value, beside=())


def _key(attack: PluginSpec, sampler: PluginSpec | None, defense: PluginSpec) -> object:
    return identity(attack), sampler and identity(sampler), identity(defense)
