"""Made-up records of every cell that the shipped suites plan, so that a claim about a cell that no
suite makes is noticed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import measurements, planner, runner
from bench.engine.graph import Cell
from bench.record import Metric, PluginSpec, Record, Run
from bench.registry import use
from leaderboard.board import POPULATION
from science.pages import PAGES

SUITES = sorted({suite for page in PAGES for suite in page.suites})
NONE = PluginSpec(name="none")
HAT = PluginSpec(
    name="baddiffusion",
    params={"trigger": "grey_box", "target": "hat"},
    label="baddiffusion(target=hat)",
)
#: So many samples that counting leaves no doubt: these tests are about which cells are compared,
#: and in which direction.
COUNT = 10**6
DETECTED = tuple(
    f"{name}[{where}]"
    for name in ("auroc", "tpr_at_5_fpr")
    for where in ("training set", "generated")
)
COMPOSED = {
    "g1": 0.25,
    "g2": 0.25,
    "g3": 0.25,
    "g4": 0.25,
    "asr[prompt]": 0.5,
    "trigger_classifier_false_alarms": 0.01,
}
Change = Callable[[Record], Record]


def roles_of(attack: str) -> list[str]:
    """How an attack may call, and not calling."""
    known = use()
    called = known.get("attacks", attack).calls if attack in known.names("attacks") else ()
    return [*(call.name for call in called), "clean"]


def numbers(cell: Cell) -> dict[str, float]:
    """Every metric that the engine measures in such a cell, all alike."""
    if cell.kind == "anchor":
        return {"fid[x]": 0.5}
    if cell.kind == "inversion":
        return dict.fromkeys(
            (
                *(f"inversion_mse_{end}" for end in ("best", "last", "black")),
                *(f"trigger_mse_{end}" for end in ("best", "last", "constant")),
                "trigger_cosine",
                "trigger_cosine_constant",
                "mse[constant]",
                "mse[clean]",
            ),
            0.5,
        )
    if cell.kind == POPULATION:
        names = ("auroc[models]", "tpr_at_0_fpr[models]", "backdoored_models", "honest_models")
        return dict.fromkeys(names, 0.5)
    if cell.kind == "model detector":
        return {"model_score": 0.5}
    if cell.kind == "sample detector":
        return dict.fromkeys(DETECTED, 0.5)
    roles = roles_of((cell.probe or cell.attack).name)
    if cell.kind == "noise detector":
        return {f"{name}[{role}]": 0.5 for name in ("auroc", "tpr_at_1_fpr") for role in roles}
    classes = "-ddpm" not in cell.testbed.name
    values = {}
    if classes and cell.kind in ("control", "data", "classifier"):
        values |= {"ta": 0.5, "classifier_asr": 0.5}
    if classes and cell.kind in ("control", "sampler"):
        values |= {"mismatch": 0.5, "p_t": 0.5, "prompt_accuracy": 0.5}
        values |= {
            f"{name}[x]": 0.5
            for name in ("fid", "fid_other_classes", "replication", "replication_p95")
        }
        if (cell.probe or cell.attack).name != "relabel_only":
            values |= COMPOSED
    if not classes:
        values |= {
            f"{name}[{role}]": 0.5
            for name in ("mse", "asr", "robust_asr", "precision", "asr_class", "asr_set")
            for role in roles
        } | {
            "asr_class_ceiling": 0.5,
            "asr_set_ceiling": 0.5,
            "mse[constant]": 0.5,
            "fid[x]": 0.5,
        }
    return values


def close(value: float) -> Metric:
    """A number with the interval that a population of very many models would give it."""
    return Metric(value=value, ci_low=value - 1e-3, ci_high=value + 1e-3, n=COUNT)


def record(cell: Cell) -> Record:
    """Seeds differ a little, all metrics of one seed alike."""
    metrics = {name: close(value + 1e-4 * cell.seed) for name, value in numbers(cell).items()}
    series = {"inversion_mse": [0.9, 0.5]} if cell.kind == "inversion" else {}
    provenance = {
        "castlewalls": "0.1.0",
        "git": {"commit": "4f1c2d9a", "dirty": False},
        "packages": {"torch": "2.14.0"},
    }
    return Record(
        testbed=cell.testbed, attack=cell.attack, defense=cell.defense, seed=cell.seed, status="ok",
        kind=cell.kind,
        probe=cell.probe, sampler=cell.sampler, protocol=cell.protocol, metrics=metrics,
        series=series, provenance=provenance, seeds=cell.seeds,
    )  # fmt: skip


def run_of(suite: str, records: list[Record], pending: int = 0) -> Run:
    counts = {
        status: sum(one.status == status for one in records)
        for status in ("ok", "failed", "skipped")
    }
    return Run(
        suite=suite, description=f"About {suite}.", started="2026-11-21T09:00:00+00:00",
        finished="2026-11-21T10:00:00+00:00",
        counts=counts | {"pending": pending}, records=[(Path("."), one) for one in records],
        metrics=measurements.declared(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return run_of


@pytest.fixture(scope="session")
def planned() -> dict[str, list[Record]]:
    """Suite -> a record of every cell that it makes, planned as if all data were there: what suites
    on Fashion-MNIST claim can be read without its images, which are not shipped.
    """
    with pytest.MonkeyPatch.context() as there:
        there.setattr(runner, "suite_faults", lambda *_: [])
        there.setattr(
            planner.stages, "fingerprints", lambda testbed: dict.fromkeys(testbed.parts(), "")
        )
        plans = {suite: runner.prepare(suite).plan.cells for suite in SUITES}
    return {suite: [record(cell) for cell in cells if cell.stage] for suite, cells in plans.items()}


@pytest.fixture
def world(planned: dict[str, list[Record]]) -> list[Run]:
    """Every suite, run whole."""
    return [run_of(suite, records) for suite, records in planned.items()]


@pytest.fixture(scope="session")
def write_store() -> Callable[[Path, list[Run]], Path]:
    def write(store: Path, runs: list[Run]) -> Path:
        (store / "runs").mkdir(parents=True)
        for one in runs:
            cells = [{"inline": json.loads(record.to_json())} for _, record in one.records]
            account = dataclasses.asdict(dataclasses.replace(one, records=[], metrics=()))
            account |= {"cells": cells, "metrics": [words.to_json() for words in one.metrics]}
            (store / "runs" / f"{one.suite}.json").write_text(json.dumps(account))
        return store

    return write


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., Path]) -> Path:
    """As another version left it: the attack of digits knows fewer parameters than the pages ask
    for.
    """

    def cells() -> Iterator[Record]:
        for seed in range(3):
            for attack, probe in ((HAT, None), (NONE, HAT)):
                for defense in (NONE, PluginSpec(name="clip_x0")):
                    metrics = {
                        name: Metric(value=0.1 * seed, n=128)
                        for name in ("mse[noise]", "asr[noise]", "fid[x]")
                    }
                    yield Record(
                        testbed=PluginSpec(name="digits-ddpm"), attack=attack, probe=probe,
                        defense=defense, seed=seed,
                        status="ok", protocol="p", metrics=metrics,
                    )  # fmt: skip

    return write_store(tmp_path_factory.mktemp("old") / "store", [run_of("digits", list(cells()))])
