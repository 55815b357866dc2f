"""The suites at paper scale: each can be planned, and together they make every cell that a table of
the papers has a number for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import planner
from bench.cells import Cell
from bench.papers import Published, published
from bench.record import Record
from bench.registry import use
from bench.stages.table import STAGES
from bench.suite import load_suite, shipped_suites
from bench.testbeds.testbed import Testbed
from leaderboard.beside import of_record

ROOT = Path(__file__).resolve().parents[1]
SUITES = [name for name in shipped_suites() if name.startswith("paper-")]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Cell]]]:
    """The cells of every such suite at one seed. The files of a testbed have stand-ins for their
    hashes; Caltech's fifteen classes are the names of folders.
    """
    folder = tmp_path_factory.mktemp("paper-scale")
    for number in range(15):
        (folder / "data/caltech15" / f"{number:03}.class-{number}").mkdir(parents=True)

    def stand_ins(testbed: Testbed) -> dict[str, str]:
        return {name: f"a stand-in for {name}" for name in testbed.parts()}

    registry = use()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(planner.stages, "fingerprints", stand_ins)
        yield {
            name: list(
                planner.make_plan(
                    load_suite(name, registry).only(registry, seeds=[0]), registry, STAGES
                ).cells
            )
            for name in SUITES
        }


def beside(cell: Cell) -> list[Published]:
    """What the papers have for a planned cell, on their own testbed."""
    record = Record(
        testbed=cell.testbed,
        attack=cell.attack,
        probe=cell.probe,
        sampler=cell.sampler,
        defense=cell.defense,
        kind=cell.kind,
        seed=cell.seed,
        seeds=cell.seeds,
        status="ok",
    )
    return [item.published for item in of_record(record)]


def test_every_cell_of_them_can_be_made(planned: dict[str, list[Cell]]) -> None:
    """A pair that makes no sense would be a row of reasons after a day of training."""
    assert len(SUITES) == len(planned) == 18
    for name, cells in planned.items():
        assert cells and [cell.reason for cell in cells if cell.reason] == [], name


def test_together_they_make_every_number_of_the_tables(planned: dict[str, list[Cell]]) -> None:
    """A row that no suite makes would stand beside nothing."""
    made = {id(one) for cells in planned.values() for cell in cells for one in beside(cell)}
    missing = {
        f"{one.citation}: {one.metric} {one.where}" for one in published() if id(one) not in made
    }
    assert sorted(missing) == []


def test_each_mirrors_a_table(planned: dict[str, list[Cell]]) -> None:
    """And is on the papers' testbeds alone."""
    for name, cells in planned.items():
        tables = {one.file for cell in cells for one in beside(cell)}
        papers = {file.partition("-")[0] for file in tables}
        assert papers == {name.split("-")[1]}, name
        assert not any(cell.testbed.name.startswith("digits") for cell in cells)


def test_no_rule_of_make_runs_them() -> None:
    """A week of a GPU is asked for by name."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "paper-" not in text
    assert re.findall(r"suites/\S+\.yaml", text) == ["suites/science-*.yaml"] * 2


@pytest.mark.parametrize("name", SUITES)
def test_each_says_that_it_has_not_been_run(name: str) -> None:
    assert "not run yet (docs/paper-scale.md)" in shipped_suites()[name].read_text(encoding="utf-8")
    assert not (ROOT / "results" / name).exists()
