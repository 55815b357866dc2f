"""Whether a bundle is complete and agrees with itself and with what was published (level 2)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.bundle.bag import sha256
from bench.bundle.controls import agreement
from bench.bundle.expected import Expected
from bench.bundle.integrity import Contents
from bench.bundle.layout import SOURCE, cell_words, identity, row_of
from bench.bundle.pictured import Judges
from bench.bundle.pictured import faults as picture_faults
from bench.bundle.recomputed import differences, recompute, uncovered
from bench.bundle.witnesses import Witness
from bench.cells import ALL, POPULATION
from bench.measurements.model_detection import FEWEST
from bench.names import brief
from bench.record import SLACK, Record
from bench.registry import DETECTORS, FAMILIES, RESERVED
from bench.results import published as published_results
from bench.results import read_results
from bench.text import one_line

#: Numbers that depend on the row alone: a column that has others was measured by other rules.
OF_THE_ROW = re.compile(
    r"asr_threshold|robust_asr_threshold\[.*\]|robust_asr_false_alarms|mse\[constant\]"
    r"|precision_ceiling|asr_class_ceiling|asr_set_(ceiling|false_alarms)|trigger_classifier_(false_alarms|misses).*"
)
#: What arrays of unexpected shapes and kinds can raise.
ODD = (ValueError, TypeError, RuntimeError, IndexError, ArithmeticError)
Outcome = tuple[list[str], str]
#: Of the models of an attack, by seed.
Scores = dict[int, set[float]]
#: By attack.
ByAttack = dict[str, Scores]
#: Kept, for each costs seconds.
JUDGES = Judges()


@dataclass(frozen=True, kw_only=True)
class Check:
    """``run``: what is wrong, a line each, and what was seen."""

    name: str
    title: str
    run: Callable[[Contents], Outcome]


def cells(contents: Contents) -> Outcome:
    """Exactly the cells of the suite: every control, and the column in every row, at every seed."""
    known = _expected(contents)
    faults = _column_faults(contents, known)
    column = known.column(contents.settings)
    wanted = {
        name: f"control {cell.title}, seed {cell.seed}" for name, cell in known.controls.items()
    }
    wanted |= {
        name: f"{row.attack.label} x {contents.column}, seed {row.seed}"
        for name, row in column.items()
    }
    if contents.run_suite != known.suite:
        faults.append(f"suite in run.json must be {known.suite}, got {brief(contents.run_suite)}")
    ids = [identity(record) for record in contents.records]
    there = Counter(ids)
    faults += [
        f"{text} must be there, and is missing" for n, text in wanted.items() if n not in there
    ]
    for name, record in zip(ids, contents.records, strict=True):
        if there[name] > 1:
            faults.append(f"{cell_words(record)} must be there once, got {there[name]} records")
        elif name not in wanted and not _is_population(record, contents, known):
            faults.append(f"{cell_words(record)} is no cell of {known.suite} and {contents.column}")
        if record.status == "failed":
            faults.append(f"{cell_words(record)} must have a result, got: failed, {record.reason}")
    faults += _kind_faults(contents, known) + _skip_faults(contents, known)
    skipped = sum(record.status == "skipped" for record in contents.records)
    seen = f"{len(known.controls)} controls, {len(column)} of {contents.column}"
    return faults, seen + (f", {skipped} skipped" if skipped else "")


def _expected(contents: Contents) -> Expected:
    assert contents.expected is not None  # level 1 refuses an unknown suite
    return contents.expected


def _column_faults(contents: Contents, known: Expected) -> list[str]:
    listed = {one for one in known.listed if one[0] == contents.column}
    settings = contents.settings
    if listed and settings != listed:
        return [f"{contents.column} must have the settings that {known.suite} lists, got others"]
    if not listed and len(settings) != 1:
        return [f"{contents.column} must have one set of parameters, got {len(settings)}"]
    return []


def _kind_faults(contents: Contents, known: Expected) -> list[str]:
    """The board puts a cell where its kind says: a control's is the suite's, and the column has one
    of those that plugins can have.
    """
    faults, own = [], set()
    for record in contents.records:
        control = known.controls.get(identity(record))
        kinds = {*FAMILIES.values(), *DETECTORS.values()} if control is None else {control.kind}
        if control is None and record.kind != POPULATION:
            own.add(record.kind)
        if record.kind not in kinds | ({POPULATION} if control is None else set()):
            faults.append(f"{cell_words(record)}: kind must be {' or '.join(sorted(kinds))}")
    if len(own) > 1:
        faults.append(f"{contents.column} must be of one kind, got {brief(' and '.join(own))}")
    return faults


def _is_population(record: Record, contents: Contents, known: Expected) -> bool:
    seeds = {cell.seed for cell in known.controls.values()}
    return (
        record.kind == POPULATION
        and record.defense.name == contents.column
        and set(record.seeds) == seeds
    )


def _skip_faults(contents: Contents, known: Expected) -> list[str]:
    """A cell is left out for what its plugins declare, so for all seeds of a row or for none; and
    what is a result for the honest must be one for the column's own row.
    """
    by_row: dict[str, set[str]] = {}
    words: dict[str, str] = {}
    for record in contents.records:
        row = row_of(record)
        by_row.setdefault(row, set()).add(record.status)
        words[row] = cell_words(record).rpartition(", seed")[0]
    faults = [
        f"{words[row]} must be skipped at all seeds or at none"
        for row, statuses in by_row.items()
        if "skipped" in statuses and len(statuses) > 1
    ]
    for record in contents.records:
        control = known.controls.get(identity(record))
        if control is not None and (record.status == "skipped") != (control.stage is None):
            faults.append(f"{cell_words(record)} must not be {record.status}")
    return faults


def borrowed(contents: Contents) -> Outcome:
    """A name that comes with castlewalls is of the code that comes with it."""
    ours = _expected(contents).ours.get(contents.column)
    if ours is None:
        return [], "its own"
    hashes = {sha256(data) for name, data in contents.payload.items() if name.startswith(SOURCE)}
    if hashes == ours:
        return [], "one of castlewalls', with its code"
    return [f"the name {contents.column} is of a plugin of castlewalls with other code"], ""


def derived(contents: Contents) -> Outcome:
    """What follows from other fields: intervals hold their values, a skipped cell has no numbers,
    rules are those of the row's control.
    """
    faults: list[str] = []
    controls = {
        identity(record): record
        for record in contents.records
        if record.defense.name == "none" and record.status == "ok"
    }
    compared = 0
    for record in contents.records:
        what = cell_words(record)
        if record.status != "ok" and (record.metrics or record.series):
            faults.append(f"{what} must have no numbers, for it was {record.status}")
        for name, metric in record.metrics.items():
            low, high, value = metric.ci_low, metric.ci_high, metric.value
            if value is None or low is None or high is None:
                continue
            reach = SLACK * max(1.0, abs(value))
            if not low - reach <= value <= high + reach:
                faults.append(f"{what}: {name} must lie within [{low:g}, {high:g}], got {value:g}")
        control = controls.get(_control_id(record))
        for name in record.metrics.keys() & (control.metrics if control else {}).keys():
            if OF_THE_ROW.fullmatch(name) and control is not None:
                compared += 1
                mine, theirs = record.metrics[name].value, control.metrics[name].value
                if mine != theirs:
                    faults.append(f"{what}: {name} must be its control's {theirs}, got {mine}")
    return faults, f"{compared} rules are the controls'"


def _control_id(record: Record) -> str:
    """The identity of the same row without a defense, whose parameters are none."""
    parts = json.loads(identity(record))
    parts[3] = ["none", {}]
    return json.dumps(parts, sort_keys=True)


def recalculated(contents: Contents) -> Outcome:
    """Numbers from the witnesses."""
    faults: list[str] = []
    count = total = 0
    for record in _measured(contents):
        what = cell_words(record)
        try:
            witness = contents.witnesses.of(record)
            if witness is None and record.kind != POPULATION:
                faults.append(f"{what} must have a witness, and has none")
                continue
            again = recompute(record, witness or Witness())
            faults += [f"{what}: {line}" for line in differences(record, again)]
            faults += [
                f"{what}: {name} must follow from a witness, and has none"
                for name in uncovered(record, again)
            ]
            count += len(again.metrics.keys() & record.metrics.keys())
            total += len(record.metrics)
        except ODD as error:
            faults.append(f"{what}: its witness cannot be used: {one_line(str(error))}")
    return faults, f"{count} of {total} numbers; the others rest on features, weights or data"


def pictured(contents: Contents) -> Outcome:
    """Samples that are shown against what was said of them."""
    faults: list[str] = []
    known, count = _expected(contents), 0
    rows = known.controls | known.column(contents.settings)
    for record in _measured(contents):
        try:
            row, witness = rows.get(identity(record)), contents.witnesses.of(record)
            if row is None or witness is None:
                continue
            lines = picture_faults(record, witness, row, JUDGES)
            faults += [f"{cell_words(record)}: {line}" for line in lines]
            count += sum(map(len, witness.images.values()))
        except ODD as error:
            what = f"{cell_words(record)}: its pictures cannot be judged"
            faults.append(f"{what}: {one_line(str(error))}")
    return faults, f"{count} images"


def populations(contents: Contents) -> Outcome:
    """A detector of models has a population for each attack and one for all of them, at every seed,
    of the scores that its cells have, the honest models' among them.
    """
    faults: list[str] = []
    whole = [record for record in contents.records if record.kind == POPULATION]
    wanted = _wanted_populations(contents)
    for record in contents.records:
        of_models = record.kind == DETECTORS["model"] and record.defense.name == contents.column
        score = record.metrics.get("model_score")
        if of_models and record.status == "ok" and (score is None or score.value is None):
            faults.append(f"{cell_words(record)} must have a score of its model")
    there = Counter((_under(record), _row_of_models(record)) for record in whole)
    for _, key in sorted(wanted.keys() - there.keys()):
        name = ALL if key == ALL else json.loads(key)[0]
        faults.append(f"the population of {name} models must be there, and is missing")
    for record in whole:
        what, name = cell_words(record), (_under(record), _row_of_models(record))
        if name not in wanted or there[name] > 1:
            faults.append(f"{what} must be there once, with cells that have scores of models")
        elif record.status != "ok":
            faults.append(f"{what} must have a result, as its cells have, got: {record.status}")
        elif min(sum(map(len, those.values())) for those in wanted[name]) < FEWEST:
            if record.series or record.metrics:
                faults.append(f"{what} must have no number of fewer than {FEWEST} models")
        else:
            for side, those in zip(("attacked", "honest"), wanted[name], strict=True):
                if _by_seed(record, side) != _of_cells(those):
                    faults.append(f"{what}: scores[{side}] must be those of its cells")
    return faults, f"{len(whole)} populations"


def _wanted_populations(contents: Contents) -> dict[tuple[str, str], tuple[ByAttack, ByAttack]]:
    """By testbed with settings and row: the scores of its backdoored models, and of the honest."""
    wanted: dict[tuple[str, str], tuple[ByAttack, ByAttack]] = {}
    for under, by_attack in _model_scores(contents).items():
        honest = {key: one for key, one in by_attack.items() if json.loads(key)[0] == RESERVED}
        attacked = {key: one for key, one in by_attack.items() if key not in honest}
        rows = {key: {key: one} for key, one in attacked.items()}
        if len(attacked) > 1:
            rows[ALL] = attacked
        wanted |= {(under, key): (those, honest) for key, those in rows.items()}
    return wanted


def _model_scores(contents: Contents) -> dict[str, ByAttack]:
    """What the cells have: by testbed and settings, then by attack."""
    scores: dict[str, ByAttack] = {}
    for record in contents.records:
        score = record.metrics.get("model_score")
        if record.kind != POPULATION and score is not None and score.value is not None:
            of = scores.setdefault(_under(record), {}).setdefault(_attack(record), {})
            of.setdefault(record.seed, set()).add(score.value)
    return scores


def _of_cells(scores: Mapping[str, Scores]) -> dict[int, list[float]]:
    """By seed, one of each attack, sorted; several of one model, where its cells differ."""
    seeds = sorted({seed for one in scores.values() for seed in one})
    return {
        seed: sorted(value for one in scores.values() for value in one.get(seed, ()))
        for seed in seeds
    }


def _by_seed(record: Record, side: str) -> dict[int, list[float]]:
    """As :func:`_of_cells`, of a population's series; empty if they are not alike many a seed."""
    values, seeds = record.series.get(f"scores[{side}]", []), sorted(record.seeds)
    if not seeds:
        return {}
    each, left = divmod(len(values), len(seeds))
    if left or not each:
        return {}
    return {
        seed: sorted(values[index * each : (index + 1) * each]) for index, seed in enumerate(seeds)
    }


def _row_of_models(record: Record) -> str:
    return ALL if record.attack.name == ALL else _attack(record)


def _attack(record: Record) -> str:
    return json.dumps([record.attack.name, record.attack.params], sort_keys=True)


def _under(record: Record) -> str:
    return json.dumps(
        [
            [record.testbed.name, record.testbed.params],
            record.sampler and [record.sampler.name, record.sampler.params],
            record.defense.params,
        ],
        sort_keys=True,
    )


def _measured(contents: Contents) -> list[Record]:
    return [record for record in contents.records if record.status == "ok"]


CHECKS = (
    Check(name="cells", title="every cell of the suite", run=cells),
    Check(name="name", title="the plugin's name", run=borrowed),
    Check(name="derived", title="fields that follow from others", run=derived),
    Check(name="numbers", title="numbers recalculated", run=recalculated),
    Check(name="pictures", title="samples as pictured", run=pictured),
    Check(name="populations", title="scores of models", run=populations),
)


def held_against(
    contents: Contents, folder: Path | None
) -> tuple[Literal["ok", "refused", "not checked"], tuple[str, ...]]:
    """The controls against published ones: the verdict, and its lines."""
    known = _expected(contents)
    mine = [record for record in contents.records if identity(record) in known.controls]
    runs = read_results(folder or published_results(), {record.protocol for record in mine})
    result = agreement(mine, (record for run in runs for _, record in run.records))
    if not result.cells:
        return "not checked", ("none of its controls is published under this protocol",)
    seen = (
        f"{result.cells} of {len(mine)} controls are published; of {result.compared} ranked "
        f"numbers {result.exact} are the same to the last digit"
    )
    if result.faults:
        return "refused", (*result.faults[:5], seen)
    return "ok", (seen,)


def doubts(contents: Contents) -> tuple[str, ...]:
    """What makes a bundle less than it could be, and refuses it nothing."""
    lines: list[str] = []
    if text := contents.about.get("uncommitted"):
        lines.append(f"the plugin's source is in no git commit: {brief(text)}")
    dirty = sum(
        isinstance(git := record.provenance.get("git"), dict) and bool(git.get("dirty"))
        for record in _measured(contents)
    )
    if dirty:
        lines.append(f"castlewalls had uncommitted changes when it made {dirty} cells")
    return tuple(lines)
