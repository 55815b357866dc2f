"""Level 3: some cells of a bundle made again from the source in it, and compared.

Which ones follows from the manifest and from a nonce that the verifier draws once the manifest is
fixed, so that nobody who submits can know them. They run through the runner like any others, in a
store of their own. This, and nothing below level 3, imports the submitted plugin.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist, variance
from typing import Any

from bench.bundle.controls import ranked, standard_error
from bench.bundle.integrity import Contents
from bench.bundle.layout import SOURCE, cell_name, cell_words, identity, row_of
from bench.bundle.recomputed import close
from bench.cells import POPULATION
from bench.engine.progress import Reporter
from bench.engine.store import Store
from bench.errors import UserError
from bench.record import Metric, Record, read_runs
from bench.runner import prepare, run_together
from bench.text import one_line

#: How many standard errors of their difference two numbers may be apart on another machine.
REACH = 3.0
#: The chance that any rate of an honest bundle is refused there, where samples are held in pairs.
ERROR = 0.01
#: What the board does not rank by, and what it ranks by follows from.
ALSO = ("model_score", "trigger_cosine")
#: What must agree for two runs of the same code to give the same digits.
_MACHINE = ("castlewalls", "packages", "python", "platform", "cpu", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """``sha256``: of the manifest's bytes and the nonce's; ``cells``: those that it chose of
    ``total``.
    """

    nonce: str
    sha256: str
    cells: tuple[Record, ...]
    total: int


@dataclass(kw_only=True)
class Remade:
    """A cell made again. ``rule``: ``exact``, ``paired``, or empty if there is nothing to compare;
    ``numbers``: by name, the bundle's, the new one, and how far apart they may be; ``faults``: what
    does not agree, a line each; ``why``: why no exact agreement was asked for.
    """

    cell: str
    rule: str = ""
    why: str = ""
    numbers: dict[str, tuple[float | None, float | None, float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> tuple[str, ...]:
        """For people: what does not agree, then both values of what the board ranks by."""
        if self.rule == "exact" and not self.faults:
            return (f"all {len(self.numbers)} numbers are the same to the last digit",)
        beside = tuple(
            f"{name}: {_text(mine)}, made again {_text(theirs)}"
            + (f", at most {limit:.3g} apart" if limit else "")
            for name, (mine, theirs, limit) in self.numbers.items()
            if ranked(name)
        )
        return (*self.faults, *([f"made with {self.why}:"] if self.why else []), *beside)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        numbers = {
            name: {"bundle": mine, "again": theirs, "within": limit}
            for name, (mine, theirs, limit) in self.numbers.items()
        }
        about = {"cell": self.cell, "rule": self.rule, "why": self.why}
        return about | {"numbers": numbers, "faults": self.faults}


def draw(manifest: bytes, nonce: str, contents: Contents, count: int) -> Draw:
    """``count`` of the column's measured cells, or all if there are no more: those whose SHA-256,
    behind that of manifest and nonce, is lowest. A population follows from its cells.
    """
    digest = hashlib.sha256(manifest + nonce.encode()).hexdigest()
    cells = [
        record
        for record in contents.records
        if record.defense.name == contents.column
        and record.status == "ok"
        and record.kind != POPULATION
    ]

    def lot(record: Record) -> str:
        return hashlib.sha256(f"{digest} {cell_name(record)}".encode()).hexdigest()

    chosen = tuple(sorted(cells, key=lot)[:count])
    return Draw(nonce=nonce, sha256=digest, cells=chosen, total=len(cells))


def make_again(
    contents: Contents,
    chosen: Draw,
    suite: str,
    work: Path,
    store: Path,
    reporter: Reporter,
    options: Mapping[str, Any],
) -> list[Remade]:
    """Every drawn cell, made again and compared. ``suite``: its name or file; ``work``: an empty
    folder, for the plugin's source; ``options``: of :func:`bench.runner.prepare`. Raises
    :class:`UserError` if the source cannot be used; ``KeyboardInterrupt`` propagates.
    """
    detects = any(record.kind.endswith("detector") for record in chosen.cells)
    group = "detectors" if detects else "defenses"
    column: dict[str, Any] = {"defenses": [], "detectors": [], group: [contents.column]}
    prepared = prepare(suite, plugins=_unpacked(contents, work), **column, **options)
    wanted = {identity(record) for record in chosen.cells}
    made = {cell.id for cell in prepared.plan.cells if cell.stage is not None}
    cells = tuple(cell for cell in prepared.plan.cells if cell.id in wanted)
    plan = replace(prepared.plan, cells=cells, filtered=True).limited(len(cells))
    if cells:
        run_together([replace(prepared, plan=plan)], Store(store), reporter)
    # The store may hold other runs of the same cells.
    again = {
        identity(record): record
        for run in read_runs(store)
        if run.suite == plan.suite
        for _, record in run.records
    }
    known = spreads(contents.records)
    count = sum(map(ranked, (name for record in chosen.cells for name in record.metrics)))
    return [
        *(compare(record, again.get(identity(record)), known, count) for record in chosen.cells),
        *(
            Remade(cell=cell_words(record), faults=["must not be skipped: its source can make it"])
            for record in contents.records
            if record.status == "skipped" and identity(record) in made
        ),
    ]


def _unpacked(contents: Contents, work: Path) -> list[Path]:
    """The modules of plugins that do not come with castlewalls, written from what was hashed."""
    assert contents.expected is not None  # level 1 refuses an unknown suite
    ours, listed = contents.expected.ours, contents.about.get("plugins")
    plugins = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    theirs = [one for one in plugins if str(one.get("name")) not in ours]
    if not theirs:
        return []
    if left := [one["name"] for one in contents.about["files"] if not one["carried"]]:
        raise UserError(f"{one_line(left[0], 80)} is in the bundle by its hash alone")
    for path, data in contents.payload.items():
        if path.startswith(SOURCE):
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(data)
    modules = [f"{SOURCE}{one.get('file')}" for one in theirs]
    if unknown := [name for name in modules if name not in contents.payload]:
        raise UserError(f"plugin.json must name the module of each plugin, got {unknown[0][:80]!r}")
    return [work / name for name in dict.fromkeys(modules)]


# --- compared -------------------------------------------------------------------------------------

#: (row, metric) -> the variance over the bundle's seeds.
Spreads = Mapping[tuple[str, str], float]


def spreads(records: Iterable[Record]) -> Spreads:
    """Of every number of more than one seed."""
    values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        for name, metric in record.metrics.items():
            if metric.value is not None and record.kind != POPULATION:
                values[row_of(record), name].append(metric.value)
    return {key: variance(numbers) for key, numbers in values.items() if len(numbers) > 1}


def compare(record: Record, again: Record | None, known: Spreads, comparisons: int = 1) -> Remade:
    """A bundle's record with the same cell made again: every digit where machine, versions and code
    are the same, else what the board ranks by: rates sample by sample (:func:`paired`), the rest
    :func:`within` some standard errors. ``comparisons``: how many numbers are compared in all.
    """
    result = Remade(cell=cell_words(record))
    if again is None or again.status != "ok":
        why = f"{again.status}: {again.reason}" if again else "no cell of its source and suite"
        result.faults.append(f"must be made again, got {one_line(why, 200)}")
        return result
    result.why = _unlike(record, again)
    result.rule = "paired" if result.why else "exact"
    for name in sorted(record.metrics.keys() | again.metrics.keys()):
        one = record.metrics.get(name, Metric(value=None))
        other = again.metrics.get(name, Metric(value=None))
        if result.rule == "exact":
            limit, wrong = 0.0, _digits(one) != _digits(other)
        elif ranked(name) or name in ALSO:
            pairs = _pairs(record, again, name)
            limit = (
                _reach(pairs, one, other, ERROR / comparisons)
                if pairs
                else within(one, other, known.get((row_of(record), name), 0.0))
            )
            wrong = not _near(one.value, other.value, limit)
        else:
            continue
        result.numbers[name] = one.value, other.value, limit
        if wrong:
            result.faults.append(f"{name} {_differs(one.value, other.value, limit)}")
    return result


def _unlike(record: Record, again: Record) -> str:
    """What of machine, versions and code differs; empty if nothing does, so that every digit must
    be the same.
    """
    mine, theirs = record.provenance, again.provenance
    other = [name for name in _MACHINE if mine.get(name) != theirs.get(name)]
    if not other and mine.get("stage") != theirs.get("stage"):
        other = ["code"]
    return f"other {', '.join(other)}" if other else ""


def _digits(metric: Metric) -> tuple[Any, ...]:
    return metric.value, metric.ci_low, metric.ci_high, metric.n


#: The outcomes of the same samples: a bundle's, and made again.
Pairs = Sequence[tuple[float, float]]


def _pairs(record: Record, again: Record, name: str) -> Pairs:
    """Of a rate, if both have its outcomes."""
    one, other = (side.series.get(f"outcomes[{name}]", ()) for side in (record, again))
    return list(zip(one, other, strict=True)) if len(one) == len(other) else []


def _reach(pairs: Pairs, one: Metric, other: Metric, error: float) -> float:
    """As :func:`paired`, and no farther than shares of different samples may be: whoever invents
    outcomes can let as many change as he likes.
    """
    together = other.n / other.effective_n if other.n and other.effective_n else 1.0
    apart = math.hypot(standard_error(one), standard_error(other))
    return min(paired(pairs, error, together), apart * NormalDist().inv_cdf(1 - error / 2))


def paired(pairs: Pairs, error: float, together: float = 1.0) -> float:
    """How far apart two shares of the same samples may be: those that changed must not have changed
    one way only (McNemar's exact test, two-sided, at the level ``error``). A sample's noise or
    image is the same on every machine, so few change, and how far the seeds of a bundle are apart
    is no part of it. ``together``: samples that count as one, by which changes are divided.
    """
    from scipy import special  # a second, which level 1 does not need

    changed = sum(one != other for one, other in pairs)
    if not changed:
        return 0.0
    fewest = next(
        fewer
        for fewer in range(changed // 2 + 1)
        if 2 * special.betainc((changed - fewer) / together, fewer / together + 1, 0.5) >= error
    )
    return (changed - 2 * fewest) / len(pairs)


def within(one: Metric, other: Metric, spread: float = 0.0) -> float:
    """:data:`REACH` standard errors of the difference of two numbers of one seed. Another machine
    may train another model, so it is at least that of two seeds, whose variance in the bundle is
    ``spread``.
    """
    samples = standard_error(one) ** 2 + standard_error(other) ** 2
    return REACH * math.sqrt(max(samples, 2 * spread))


def _near(one: float | None, other: float | None, limit: float) -> bool:
    if one is None or other is None:
        return one is other
    return close(one, other) or abs(one - other) <= limit


def _differs(one: float | None, other: float | None, limit: float) -> str:
    if _text(one) == _text(other):
        return f"{_text(one)} has other digits, another interval or another n when made again"
    reach = f" within {limit:.3g}" if limit else ""
    return f"is {_text(one)}, and must be as made again, {_text(other)}{reach}"


def _text(value: float | None) -> str:
    return "absent" if value is None else f"{value:.9g}"
