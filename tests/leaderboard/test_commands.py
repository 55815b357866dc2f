"""The command that a cell shows, through the command line's own parser and the planner."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import results
from bench.cli import runs
from bench.record import PluginSpec, Record
from bench.registry import use
from bench.runner import prepare
from bench.suite import load_suite
from bench.testbeds.testbed import missing
from leaderboard.board import Cell, boards
from leaderboard.commands import Command, commands
from leaderboard.sources import read_sources


def cells(source: Path) -> list[Cell]:
    return [cell for board in boards(read_sources([source])) for cell in board.all_cells()]


def planned(command: str) -> object:
    """The plan of a command, as ``castlewalls`` reads it."""
    program, name, *words = shlex.split(command)
    assert (program, name) == ("castlewalls", "run")
    chosen = dict(runs.run.make_context("run", [*words]).params)
    own = {"store", "as_json", "timeout", "retries", "dry_run", "report", "executor", "profile"}
    (suite,) = chosen.pop("suites")
    return prepare(suite, **{key: value for key, value in chosen.items() if key not in own}).plan


CELLS_OF_A_SUITE = 2


def test_the_commands_of_published_cells_plan_exactly_their_records() -> None:
    """Some cells of every suite: the same attack, sampler, defense and seeds."""
    by_suite: dict[str, list[tuple[Command, Cell]]] = {}
    for cell in cells(results.published()):
        for command in commands(cell):
            by_suite.setdefault(command.text.split()[2], []).append((command, cell))
    seen: set[str] = set()
    plugins = use()
    for name, those in by_suite.items():
        # Fashion-MNIST's images are not shipped: where they are not, nobody can plan its suites.
        if any(missing(testbed) for testbed in load_suite(name, plugins).testbeds):
            continue
        for command, cell in those[:: max(1, len(those) // CELLS_OF_A_SUITE)]:
            suite = command.text.split()[2]
            records = [one.record for one in cell.entries if one.run.suite == suite]
            plan = planned(command.text)
            assert {(one.id, one.seed) for one in plan.cells} == {  # type: ignore[attr-defined]
                (_id(record), record.seed) for record in records
            }, command.text
            assert "castlewalls 0." in command.note and "commit" in command.note
            seen.add(suite)
    assert {"digits", "science-triggers"} <= seen


def _id(record: Record) -> str:
    """As a planned cell has it."""
    from bench.cells import Cell as Planned

    names = ("testbed", "attack", "defense", "seed", "kind", "probe", "sampler", "seeds")
    return Planned(**{name: getattr(record, name) for name in names}).id


@pytest.mark.parametrize("name", ["clip; rm -rf x", "a b", "$(id)", "x\ny", "-f", "`id`"])
def test_a_name_that_a_shell_would_run_is_in_no_command(
    tmp_path: Path, make_store: Callable[..., Path], name: str
) -> None:
    """A record comes from anywhere, and its command is pasted into a shell."""

    def rename(record: Record) -> Record:
        if record.defense.name != "clip_x0":
            return record
        return dataclasses.replace(record, defense=PluginSpec(name=name))

    every = cells(make_store(tmp_path / "store", rename))
    assert any(cell.defense.name == name for cell in every)
    for cell in every:
        assert bool(commands(cell)) is (cell.defense.name != name)
        for command in commands(cell):
            assert shlex.split(command.text) == command.text.split()


def test_a_column_of_several_at_once_is_picked_by_its_code(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    def combine(record: Record) -> Record:
        if record.defense.name != "clip_x0":
            return record
        return dataclasses.replace(record, defense=PluginSpec(name="anp + clip_xt"))

    every = cells(make_store(tmp_path / "store", combine))
    combined = [cell for cell in every if cell.defense.name == "anp + clip_xt"]
    assert combined
    for cell in combined:
        (command, *_) = commands(cell)
        assert "--defenses" not in command.text and "--cells" in command.text


def test_a_sealed_run_asks_for_its_secret(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    """Its seeds follow from the secret; they are no choice."""
    cell = cells(make_store(tmp_path / "store"))[0]
    entries = tuple(
        dataclasses.replace(one, run=dataclasses.replace(one.run, suite="digits-sealed"))
        for one in cell.entries
    )
    (command,) = commands(dataclasses.replace(cell, entries=entries))
    assert command.text.startswith("castlewalls run digits --sealed FILE --attacks")
    assert "--seeds" not in command.text and "secret" in command.note
