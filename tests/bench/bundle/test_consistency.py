"""Level 2 on what the published results hold: their records pass, and changed ones do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.bundle import consistency
from bench.bundle.expected import Expected
from bench.cells import POPULATION
from bench.record import PluginSpec, Record
from bench.results import read_source

ROOT = Path(__file__).resolve().parents[3]
Records = list[Record]


@pytest.fixture(scope="module")
def column() -> Records:
    """Of one detector of models, with its controls."""
    (run,) = read_source(ROOT / "results" / "model-detectors")
    return [
        record
        for _, record in run.records
        if record.defense.name == "none"
        or record.defense.params.get("family") == "trojdiff"
        and record.defense.name == "terd_model"
    ]


def faults(records: Records) -> list[str]:
    contents: Any = SimpleNamespace(records=records, column="terd_model")
    return consistency.populations(contents)[0]


def _populations(change: Callable[[Record], Record | None]) -> Callable[[Records], Records]:
    def changed(records: Records) -> Records:
        made = [change(one) if one.kind == POPULATION else one for one in records]
        return [one for one in made if one is not None]

    return changed


def _scores(record: Record, side: str, values: list[float]) -> Record:
    return dataclasses.replace(record, series=record.series | {f"scores[{side}]": values})


def test_the_published_populations_follow_from_their_cells(column: Records) -> None:
    assert len([one for one in column if one.kind == POPULATION]) == 3
    assert faults(column) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_populations(lambda one: _scores(one, "honest", [-1000.0] * 5)), "scores[honest] must"),
        (
            _populations(
                lambda one: (
                    one
                    if one.attack.name != "all"
                    else _scores(one, "attacked", [float(index) for index in range(10)])
                )
            ),
            "scores[attacked] must be those of its cells",
        ),
        (_populations(lambda one: None), "must be there, and is missing"),
        (
            _populations(lambda one: None if one.attack.name == "all" else one),
            "the population of all models must be there",
        ),
        (
            lambda records: [*records, *(one for one in records if one.attack.name == "all")],
            "must be there once",
        ),
        (
            _populations(
                lambda one: (
                    dataclasses.replace(one, attack=PluginSpec(name="invented"))
                    if one.attack.name == "trojdiff"
                    else one
                )
            ),
            "must be there once, with cells that have scores of models",
        ),
        (
            _populations(
                lambda one: (
                    dataclasses.replace(one, status="skipped", reason="", metrics={}, series={})
                    if one.attack.name == "all"
                    else one
                )
            ),
            "must have a result, as its cells have, got: skipped",
        ),
        (
            _populations(lambda one: dataclasses.replace(one, seeds=())),
            "scores[attacked] must be those of its cells",
        ),
        (
            lambda records: [
                dataclasses.replace(one, metrics={})
                if one.kind == "model detector" and one.attack.name == "trojdiff"
                else one
                for one in records
                if one.kind != POPULATION or one.attack.name == "baddiffusion"
            ],
            "must have a score of its model",
        ),
    ],
    ids=[
        "honest scores",
        "all attacks",
        "none there",
        "all is missing",
        "twice",
        "invented",
        "skipped",
        "no seeds",
        "an attack that is not found",
    ],
)
def test_a_population_is_of_its_cells(column: Records, change: Any, words: str) -> None:
    """Or a detector that finds nothing has an AUROC of 1."""
    assert any(words in line for line in faults(change(column))), faults(change(column))


def test_too_few_models_for_an_area_have_no_number(column: Records) -> None:
    """The engine leaves scores of two models a side alone: an honest bundle of two seeds."""
    few = [
        dataclasses.replace(one, seeds=one.seeds[:2], metrics={}, series={})
        if one.kind == POPULATION
        else one
        for one in column
        if one.kind == POPULATION or one.seed < 2
    ]
    alone = [one for one in few if one.attack.name not in ("all", "trojdiff")]
    assert faults(alone) == []
    kept = [one for one in column if one.attack.name not in ("all", "trojdiff")]
    numbers = [one for one in kept if one.kind == POPULATION or one.seed < 2]
    assert any("no number of fewer than 3 models" in line for line in faults(numbers))


@pytest.mark.parametrize("kind", ["anchor", "control", "invented", "sampler"])
def test_a_cell_is_of_a_kind_that_its_plugin_can_have(column: Records, kind: str) -> None:
    """The board puts it where its kind says: among the controls, for one."""
    known = Expected(suite="s", controls={}, protocols=frozenset(), listed={}, ours={})
    own = [one for one in column if one.defense.name == "terd_model"]
    contents: Any = SimpleNamespace(records=own, column="terd_model")
    assert consistency._kind_faults(contents, known) == []
    changed = next(one for one in own if one.kind != POPULATION)
    contents.records = [
        dataclasses.replace(one, kind=kind) if one is changed else one for one in own
    ]
    lines = consistency._kind_faults(contents, known)
    wanted = "must be of one kind" if kind == "sampler" else "kind must be"
    assert any(wanted in line for line in lines)
