"""Sorts records into boards (one per testbed and protocol) and cells (one attack, under one
sampler, against one defense, all seeds).

The order of what comes out never depends on the order of what goes in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from bench.record import Flag, Metric, PluginSpec, Record, Run
from bench.words import COSTS, whole_family
from leaderboard.aggregate import Interval, Share
from leaderboard.labels import label
from leaderboard.names import UNKNOWN, Vocabulary, Words, vocabulary
from leaderboard.sound import LABEL, cut, honest_control, sound

FAMILIES = (
    "control",
    "sampler",
    "model",
    "data",
    "classifier",
    "inversion",
    "sample detector",
    "noise detector",
    "prompt detector",
    "model detector",
)
#: :attr:`Cell.kind` of a detector's scores of many models, which is no cell of the matrix.
POPULATION = "population"
#: The anchor that nothing was sampled for.
REAL_IMAGES = "real_images"
_COST_UNITS = {one.name: one.unit for one in COSTS}
Identity = tuple[str, str]
#: Attack, probe, sampler and defense.
CellKey = tuple[Identity, Identity | None, Identity | None, Identity]


class Row(NamedTuple):
    """An attack, or the no-attack control tried with ``probe``; ``sampler``: ``None`` where all of
    the board was sampled by the testbed's own.
    """

    attack: PluginSpec
    probe: PluginSpec | None
    sampler: PluginSpec | None = None

    @property
    def label(self) -> str:
        """What a reader sees of the attack and the sampler."""
        return f"{label(self.attack)}{under(self.sampler)}"

    @property
    def named(self) -> PluginSpec:
        """The attack, called by :attr:`label`."""
        return replace(self.attack, label=self.label)


@dataclass(frozen=True)
class Entry:
    """A record, the folder its pictures are in, and the run it came from; ``suites``: all that hold
    this record.
    """

    folder: Path
    record: Record
    run: Run
    suites: frozenset[str] = frozenset()

    @cached_property
    def numbers(self) -> dict[str, Metric]:
        """:func:`numbers` of the record."""
        return numbers(self.record)

    @property
    def seeds(self) -> str:
        """The seed, or all of a population's."""
        return ", ".join(map(str, self.record.seeds or [self.record.seed]))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack (or the no-attack control, tried with ``probe``) against one defense; ``entries``
    in seed order. ``sampler``: as a :class:`Row` has it.

    ``id`` is an HTML id and a link that stays the same between boards; ``names``: the page's words;
    ``coming``: seeds that a run which goes on has yet to make.
    """

    id: str
    attack: PluginSpec
    probe: PluginSpec | None
    defense: PluginSpec
    kind: str
    entries: tuple[Entry, ...]
    sampler: PluginSpec | None = None
    names: Vocabulary = field(default=UNKNOWN, compare=False, repr=False)
    coming: frozenset[int] = frozenset()

    @cached_property
    def seeds(self) -> frozenset[int]:
        """Those that there is a record of, whatever became of them."""
        return frozenset(entry.record.seed for entry in self.entries)

    @property
    def so_far(self) -> str:
        """``1 of 3 seeds so far`` while a run goes on; empty once all are there."""
        if not self.coming:
            return ""
        planned = len(self.seeds | self.coming)
        return f"{len(self.seeds)} of {planned} seed{'s' if planned > 1 else ''} so far"

    @property
    def row(self) -> Row:
        """The row of its board."""
        return Row(self.attack, self.probe, self.sampler)

    @cached_property
    def measured(self) -> frozenset[str]:
        """The metrics that some record has a value of."""
        return frozenset(
            name
            for entry in self.entries
            for name, number in entry.numbers.items()
            if number.value is not None
        )

    @cached_property
    def summaries(self) -> dict[str, Interval | None]:
        """What :func:`leaderboard.matrix.summary` has worked out already."""
        return {}

    @cached_property
    def texts(self) -> dict[str, tuple[str, str, str]]:
        """What :func:`leaderboard.matrix.value_of` has written already: number, interval and n."""
        return {}

    def words(self, metric: str) -> Words:
        """What a metric of this cell means."""
        return self.names.words(metric, self.unit(metric))

    @cached_property
    def _by_status(self) -> dict[str, list[Entry]]:
        by_status: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_status.setdefault(entry.record.status, []).append(entry)
        return by_status

    def with_status(self, status: str) -> Sequence[Entry]:
        """In seed order."""
        return self._by_status.get(status, ())

    @cached_property
    def _values(self) -> dict[str, dict[int, float]]:
        values: dict[str, dict[int, float]] = {}
        for entry in self.with_status("ok"):
            for name, number in entry.numbers.items():
                if number.value is not None:
                    values.setdefault(name, {})[entry.record.seed] = number.value
        return values

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> value over the seeds that have one."""
        return dict(self._values.get(metric, ()))

    def shares(self, metric: str) -> dict[int, Share]:
        """Seed -> value and the samples it is worth, of a metric in [0, 1]; a record that does not
        say how many counts as one.
        """
        shares: dict[int, Share] = {}
        for entry in self.with_status("ok"):
            number = entry.numbers.get(metric)
            if number is not None and number.value is not None:
                shares[entry.record.seed] = Share(
                    min(1.0, max(0.0, number.value)),
                    max(getattr(number, "effective_n", None) or number.n or 1, 1),
                )
        return shares

    @cached_property
    def _units(self) -> dict[str, str]:
        units: dict[str, str] = {}
        for entry in self.with_status("ok"):
            for name, number in entry.numbers.items():
                agreed = units.setdefault(name, number.unit) == number.unit
                units[name] = number.unit if agreed else ""
        return units

    @cached_property
    def fewest_samples(self) -> dict[str, int]:
        """Of each metric whose records say it, the fewest samples behind the number of a seed."""
        fewest: dict[str, int] = {}
        for entry in self.with_status("ok"):
            for name, number in entry.numbers.items():
                if number.n:
                    fewest[name] = min(number.n, fewest.get(name, number.n))
        return fewest

    def unit(self, metric: str) -> str:
        """What the records say the metric is measured in; empty if they do not say, or disagree."""
        return self._units.get(metric, "")

    def outcomes(self, metric: str) -> dict[int, tuple[float, ...]]:
        """Seed -> 0 or 1 for each sample, where the record has them and they agree with its
        value.
        """
        outcomes: dict[int, tuple[float, ...]] = {}
        for entry in self.with_status("ok"):
            series, number = (
                entry.record.series.get(f"outcomes[{metric}]"),
                entry.numbers.get(metric),
            )
            if (
                series
                and number is not None
                and number.value is not None
                and set(series) <= {0.0, 1.0}
            ):
                if abs(sum(series) / len(series) - number.value) < 1e-6:
                    outcomes[entry.record.seed] = tuple(series)
        return outcomes

    def seeds_asked(self, other: Cell) -> set[int]:
        """Those of ``other`` that this cell must have too, or one could pick the seeds: of the
        suites that tried this cell at all. What another suite measured in more seeds is no gap.
        """
        mine = frozenset().union(*(entry.suites for entry in self.entries))
        return {entry.record.seed for entry in other.entries if entry.suites & mine}

    def why_absent(self, metric: str) -> str:
        """Why no seed that went well has this number, as their records say; empty if none does."""
        family = whole_family(metric)
        reasons = [
            record.absent.get(metric, record.absent.get(family, "")) for record in self.records()
        ]
        return next((reason for reason in reasons if reason), "")

    def records(self) -> list[Record]:
        """Of the seeds that went well."""
        return [entry.record for entry in self.with_status("ok")]

    @cached_property
    def absences(self) -> frozenset[tuple[str, str]]:
        """(reason, metric) of what some seed lacks."""
        return frozenset(
            (reason, name) for record in self.records() for name, reason in record.absent.items()
        )

    @cached_property
    def flags(self) -> tuple[tuple[Flag, int], ...]:
        """Each flag with the number of seeds that carry it."""
        counted = Counter(flag for entry in self.entries for flag in set(entry.record.flags))
        return tuple(sorted(counted.items(), key=lambda pair: (pair[0].line, pair[0].code)))

    @cached_property
    def flagged_seeds(self) -> dict[Flag, set[int]]:
        """The seeds that carry each flag."""
        seeds: dict[Flag, set[int]] = {}
        for entry in self.entries:
            for flag in entry.record.flags:
                seeds.setdefault(flag, set()).add(entry.record.seed)
        return seeds


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A cell that there is no record of yet, of a run that goes on: ``family``: of its column;
    ``seconds``: until its first one is expected.
    """

    row: Row
    defense: PluginSpec
    family: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Board:
    """What may be compared: one testbed under one protocol. ``rows`` start with the controls,
    ``columns`` with no defense. ``populations``: of each attack, sampler and detector of models the
    one with most seeds. ``awaited``: cells, and by ``True`` populations, that are still to come.
    """

    id: str
    testbed: PluginSpec
    protocol: str
    rows: tuple[Row, ...]
    columns: tuple[tuple[PluginSpec, str], ...]
    cells: dict[CellKey, Cell]
    anchors: tuple[Cell, ...]
    populations: tuple[Cell, ...] = ()
    names: Vocabulary = field(default=UNKNOWN, compare=False, repr=False)
    awaited: Mapping[tuple[CellKey, bool], Awaited] = field(default_factory=dict)

    @cached_property
    def grid(self) -> tuple[tuple[Row, tuple[Cell | None, ...]], ...]:
        """Every row with its cell in each column, ``None`` where there is none."""
        return tuple(
            (row, tuple(self.cell(row, column) for column, _ in self.columns)) for row in self.rows
        )

    @cached_property
    def _by_object(self) -> dict[tuple[int, int], Cell | None]:
        """The cells by the ids of their own row and column, which live as long as the board."""
        return {
            (id(row), id(column)): self.cells.get(cell_key(row, column))
            for row in self.rows
            for column, _ in self.columns
        }

    def cell(self, row: Row, column: PluginSpec) -> Cell | None:
        """``None`` where there is none; ``row`` and ``column`` may be another board's."""
        key = (id(row), id(column))
        if key in self._by_object:
            return self._by_object[key]
        return self.cells.get(cell_key(row, column))

    def expected(self, row: Row, column: PluginSpec, population: bool = False) -> Awaited | None:
        """What is still to come there; ``None`` if nothing is."""
        return self.awaited.get((cell_key(row, column), population)) if self.awaited else None

    def with_awaited(self) -> Board:
        """The same with the rows and columns of what is still to come, where they will be."""
        coming = [one for (_, population), one in self.awaited.items() if not population]
        return replace(
            self,
            rows=_in_order([*self.rows, *(one.row for one in coming)]),
            columns=_columns([*self.columns, *((one.defense, one.family) for one in coming)]),
        )

    def undefended(self, row: Row) -> Cell | None:
        """The row's cell without a defense."""
        none = next((column for column, _ in self.columns if column.name == "none"), None)
        return self.cell(row, none) if none else None

    def all_cells(self) -> list[Cell]:
        """Row by row, then the populations and the anchors."""
        grid = [cell for _, cells in self.grid for cell in cells if cell]
        return [*grid, *self.populations, *self.anchors]

    def suites(self) -> list[str]:
        """Of whose runs its cells are."""
        return sorted({entry.run.suite for cell in self.all_cells() for entry in cell.entries})


def families(columns: Iterable[tuple[PluginSpec, str]]) -> list[tuple[str, int]]:
    """Each family in column order with the number of its columns."""
    return [
        (family, len(list(group)))
        for family, group in groupby(columns, key=lambda column: column[1])
    ]


def identity(spec: PluginSpec) -> Identity:
    """What makes two plugins the same: name and parameters, not the label."""
    return spec.identity


def same_sampler(one: PluginSpec | None, other: PluginSpec | None) -> bool:
    """Whether two samplers are one, or both the testbed's own."""
    return (one and identity(one)) == (other and identity(other))


def under(sampler: PluginSpec | None) -> str:
    """Behind what was sampled: `` under ddim``; empty where there is only one."""
    return f" under {label(sampler)}" if sampler else ""


def each_attack(rows: Iterable[Row], names: Mapping[Identity, str]) -> list[str]:
    """Each row's attack once, by its name in ``names``, and under which samplers it is met."""
    samplers: dict[Identity, dict[str, None]] = {}
    for row in rows:
        listed = samplers.setdefault(identity(row.attack), {})
        if row.sampler:
            listed.setdefault(label(row.sampler))
    return [
        names[key]
        + (f" under {' and '.join(listed)}" if 0 < len(listed) < 3 else "")
        + (f" under {len(listed)} samplers" if len(listed) > 2 else "")
        for key, listed in samplers.items()
    ]


def numbers(record: Record) -> dict[str, Metric]:
    """The metrics, and each cost as a metric ``cost[...]``."""
    costs = {
        name: Metric(value=value, unit=_COST_UNITS.get(name, ""), higher_is_better=False)
        for name, value in ((f"cost[{part}]", value) for part, value in record.cost.items())
    }
    return {**record.metrics, **costs}


def boards(runs: Sequence[Run]) -> list[Board]:
    """Every board, by testbed and protocol, those with more records before others of the same
    testbed: a main suite before what varies a parameter of it. A cell that several runs hold counts
    once: the last :func:`by_weight` is shown.
    """
    groups: dict[tuple[Identity, str], list[Entry]] = {}
    names = vocabulary(runs)
    for entry in _entries(runs, names):
        groups.setdefault((identity(entry.record.testbed), entry.record.protocol), []).append(entry)
    # A cell that failed early may not know its protocol; it belongs to its testbed's only board, if
    # there is one.
    for testbed, protocol in sorted(groups):
        others = [key for key in groups if key[0] == testbed and key[1]]
        if not protocol and len(others) == 1:
            known = {_key(entry.record) for entry in groups[others[0]]}
            groups[others[0]].extend(
                entry for entry in groups.pop((testbed, "")) if _key(entry.record) not in known
            )
    ordered = sorted(groups, key=lambda group: (group[0][0], -len(groups[group]), group))
    return [_board(group[1], groups[group], names) for group in ordered]


def by_weight(run: Run) -> tuple[int, str, str, str]:
    """Sorts runs so that the one whose numbers are shown stands last: of the source named first,
    and in it the one that finished last.
    """
    return run.precedence, run.finished or "", run.started, run.suite


def _entries(runs: Sequence[Run], names: Vocabulary) -> Iterable[Entry]:
    latest: dict[str, Entry] = {}
    for run in sorted(runs, key=by_weight):
        for folder, read in run.records:
            record = sound(read, names)
            key = record_key(record)
            before = latest[key].suites if key in latest else frozenset()
            latest[key] = Entry(folder, record, run, before | {run.suite})
    return [latest[name] for name in sorted(latest)]


def record_key(record: Record) -> str:
    """Names a record among all boards'. What calls itself `none` and is no control has the name
    that the board shows it under.
    """
    return json.dumps([identity(record.testbed), record.protocol, _key(honest_control(record))])


def _key(record: Record) -> str:
    """Names a record on its board."""
    specs = (record.attack, record.probe, record.sampler, record.defense)
    seed = list(record.seeds) or record.seed
    return json.dumps([[identity(spec) if spec else None for spec in specs], seed])


def _board(protocol: str, entries: list[Entry], names: Vocabulary) -> Board:
    testbed = entries[0].record.testbed
    own = own_sampler(testbed) if any(entry.record.sampler for entry in entries) else None
    groups: dict[CellKey, list[Entry]] = {}
    anchors: dict[tuple[Identity, Identity | None], list[Entry]] = {}
    populations: dict[CellKey, list[Entry]] = {}
    for entry in entries:
        record = entry.record
        if record.kind == POPULATION:
            row = Row(record.attack, None, record.sampler or own)
            populations.setdefault(cell_key(row, record.defense), []).append(entry)
        elif record.kind == "anchor":
            sampler = identity(record.sampler) if record.sampler else None
            anchors.setdefault((identity(record.attack), sampler), []).append(entry)
        else:
            row = Row(record.attack, record.probe, record.sampler or own)
            groups.setdefault(cell_key(row, record.defense), []).append(entry)
    cells = {
        key: _cell(protocol, group, own, names)
        for key, group in sorted(groups.items(), key=lambda item: _sortable(item[0]))
    }
    relabelled = _relabelling(cells.values())
    cells = {key: relabelled(cell) for key, cell in cells.items()}
    whole = [
        _cell(protocol, [max(group, key=_most_seeds)], own, names)
        for _, group in sorted(populations.items(), key=lambda item: _sortable(item[0]))
    ]
    lines = sorted(anchors.items(), key=lambda item: (item[0][0], item[0][1] or ("", "")))
    return Board(
        id=board_id(testbed, protocol),
        testbed=testbed,
        protocol=protocol,
        rows=_in_order(cell.row for cell in cells.values()),
        columns=_columns((cell.defense, cell.kind) for cell in cells.values()),
        cells=cells,
        anchors=tuple(
            _cell(protocol, group, None if name == REAL_IMAGES else own, names)
            for ((name, _), _), group in lines
        ),
        populations=tuple(relabelled(cell) for cell in whole),
        names=names,
    )


def _relabelling(cells: Collection[Cell]) -> Callable[[Cell], Cell]:
    """Gives a cell labels that stay apart on its board: of attacks, of defenses and of samplers for
    themselves, since the controls of the attacks and of the defenses are both called `none`, and
    nobody mistakes a row for a column.
    """
    attacks = _distinct_labels(spec for cell in cells for spec in (cell.attack, cell.probe) if spec)
    defenses = _distinct_labels(cell.defense for cell in cells)
    samplers = _distinct_labels(cell.sampler for cell in cells if cell.sampler)

    def relabelled(cell: Cell) -> Cell:
        probe, sampler = cell.probe, cell.sampler
        return replace(
            cell,
            attack=attacks.get(identity(cell.attack), cell.attack),
            defense=defenses.get(identity(cell.defense), cell.defense),
            probe=probe and attacks.get(identity(probe), probe),
            sampler=sampler and samplers.get(identity(sampler), sampler),
        )

    return relabelled


def _most_seeds(entry: Entry) -> tuple[int, str, str, tuple[int, ...]]:
    """A part of a suite leaves a population of its own seeds beside the whole one's."""
    seeds, run = entry.record.seeds, entry.run
    return len(seeds), run.finished or "", run.started, seeds


def cell_key(row: Row, column: PluginSpec) -> CellKey:
    """Names a cell on its board."""
    probe, sampler = (identity(spec) if spec else None for spec in (row.probe, row.sampler))
    return identity(row.attack), probe, sampler, identity(column)


def board_id(testbed: PluginSpec, protocol: str) -> str:
    """The HTML id and address of a board."""
    return f"board-{_slug(label(testbed))}-{digest(identity(testbed), protocol)}"


def own_sampler(testbed: PluginSpec) -> PluginSpec:
    """What the testbed's own sampler is called beside others."""
    name = cut(str(testbed.params.get("sampler") or "own"), LABEL)
    return PluginSpec(name=name, label=f"{name} (the testbed’s own)")


def _in_order(every: Iterable[Row]) -> tuple[Row, ...]:
    """Each row once."""
    rows: dict[object, Row] = {}
    for row in every:
        rows.setdefault(cell_key(row, row.attack), row)

    def order(row: Row) -> tuple[object, ...]:
        attack, probe, sampler = row
        # The testbed's own first: it has no parameters.
        return (
            attack.name != "none",
            label(attack),
            label(probe) if probe else "",
            identity(attack),
            bool(sampler and sampler.params),
            label(sampler) if sampler else "",
        )

    return tuple(sorted(rows.values(), key=order))


def _columns(every: Iterable[tuple[PluginSpec, str]]) -> tuple[tuple[PluginSpec, str], ...]:
    """Each defense once, with the first family that is known."""
    columns: dict[Identity, tuple[PluginSpec, str]] = {}
    for spec, kind in every:
        defense, known = columns.get(identity(spec), (spec, ""))
        columns[identity(spec)] = defense, "control" if spec.name == "none" else known or kind

    def order(column: tuple[PluginSpec, str]) -> tuple[object, ...]:
        defense, family = column
        return _family_order(family), family, label(defense), identity(defense)

    return tuple(sorted(columns.values(), key=order))


def _cell(protocol: str, entries: list[Entry], own: PluginSpec | None, names: Vocabulary) -> Cell:
    entries = sorted(entries, key=lambda entry: entry.record.seed)
    record = entries[0].record
    parts = [
        identity(record.testbed),
        identity(record.attack),
        identity(record.probe) if record.probe else None,
        identity(record.defense),
        protocol,
        *([identity(record.sampler)] if record.sampler else []),
        *([POPULATION] if record.kind == POPULATION else []),
    ]
    who = label(record.attack) if not record.probe else f"no attack {label(record.probe)}"
    kinds = sorted(entry.record.kind for entry in entries if entry.record.kind)
    what = "models" if record.kind == POPULATION else "cell"
    slug = f"{what}={_slug(who)}-{_slug(label(record.defense))}-{digest(*parts)}"
    return Cell(
        id=slug,
        attack=record.attack,
        probe=record.probe,
        defense=record.defense,
        kind=kinds[0] if kinds else "",
        entries=tuple(entries),
        sampler=record.sampler or own,
        names=names,
    )


def _distinct_labels(specs: Iterable[PluginSpec]) -> dict[Identity, PluginSpec]:
    """Two plugins under one label would be two indistinguishable columns: those get their
    parameters spelled out.
    """
    by_identity = {identity(spec): spec for spec in specs}
    uses = Counter((spec.name, label(spec)) for spec in by_identity.values())
    return {
        key: replace(spec, label=f"{label(spec)} {_short(key[1])}")
        if uses[spec.name, label(spec)] > 1
        else spec
        for key, spec in by_identity.items()
    }


def _short(params: str) -> str:
    """Parameters beside a label; long ones by their hash."""
    return (
        params
        if len(params) <= 120
        else f"#{hashlib.sha256(params.encode(errors='backslashreplace')).hexdigest()[:8]}"
    )


def _family_order(family: str) -> int:
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)


def _sortable(key: CellKey) -> tuple[Identity, ...]:
    return tuple(part or ("", "") for part in key)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "x"


def digest(*parts: object) -> str:
    """Short, and the same in every run and on every page."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def papers_of(record: Record) -> list[Mapping[str, Any]]:
    """What a record's plugins are taken from, without what is no citation."""
    papers = record.provenance.get("papers", [])
    return [one for one in papers if isinstance(one, dict)] if isinstance(papers, list) else []
