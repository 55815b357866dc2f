"""Submitted columns on a board: to which level they were verified, and whose name they bear."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.export import export, results_of
from bench.record import Record
from bench.results import Submitted, bundles_in, read_results, read_source
from leaderboard.board import boards
from leaderboard.front import front
from leaderboard.report import render
from leaderboard.sources import read_sources
from leaderboard.view import board_view

MakeStore = Callable[..., Path]
METRIC = "asr[noise]"
COLUMN = "clip_x0"


def lowered(record: Record, defense: str = COLUMN) -> Record:
    """As who has better numbers for one column."""
    if record.defense.name != defense or METRIC not in record.metrics:
        return record
    better = dataclasses.replace(record.metrics[METRIC], value=0.0, ci_low=None, ci_high=None)
    return dataclasses.replace(record, metrics=record.metrics | {METRIC: better})


@pytest.fixture
def bundle(store: Path, tmp_path: Path):
    """``bundle(name, change, code)``: what the board reads of a bundle of one column of the
    store's suite.
    """

    def write(
        name: str,
        change: Callable[[Record], Record | None] = lambda record: record,
        code: str = "one",
    ) -> Path:
        (run,) = read_source(store)
        mine = [one for one in run.records if one[1].defense.name in ("none", COLUMN)]
        changed = [(folder, change(record)) for folder, record in mine]
        records = [(folder, record) for folder, record in changed if record is not None]
        # Dates are a submitter's word.
        sent = dataclasses.replace(run, records=records, finished="2099-01-01T00:00:00+00:00")
        folder = tmp_path / name
        for path, data in results_of(sent).items():
            (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / path).write_bytes(data)
        (folder / "bagit.txt").write_text("BagIt-Version: 1.0\n")
        about = {"column": COLUMN, "files": [{"name": "mine.py", "sha256": code}]}
        (folder / "data" / "plugin.json").write_text(json.dumps(about))
        return folder

    return write


def read(paths: list[Path], level: int | str = 2) -> list:
    levels = {one.resolve(): level for path in paths for one in bundles_in(path)}
    return read_sources(paths, levels)


def columns(runs: list) -> list[list[str]]:
    """Of each board, the columns that have the name, or begin with it."""
    return [
        [spec.name for spec, _ in board.columns if spec.name.partition("@")[0] == COLUMN]
        for board in boards(runs)
    ]


def values(runs: list, name: str) -> set[float]:
    return {
        entry.numbers[METRIC].value
        for board in boards(runs)
        for cell in board.all_cells()
        if cell.defense.name == name and cell.attack.name == "baddiffusion"
        for entry in cell.entries
        if METRIC in entry.numbers
    }


def entries(runs: list) -> dict[str, tuple[str, str]]:
    """Of the columns of the first screen, the level and the bundle."""
    asked = front([board_view(board) for board in boards(runs)])["asked"]
    return {
        entry.cell.defense.name: (entry.level, entry.bundle)
        for one in asked
        for group in one.question.groups
        for entry in group.entries
    }


def test_the_same_numbers_are_one_column(store: Path, bundle) -> None:
    """Whoever sends what is there already adds nothing, and disputes nothing."""
    runs = read([store, bundle("theirs")])
    assert columns(runs) == [[COLUMN]] and [run.problems for run in runs] == [(), ()]
    assert entries(runs)[COLUMN] == ("", "")


@pytest.mark.parametrize("bundle_first", [False, True])
def test_other_numbers_of_a_name_stand_beside_it_under_the_bundles(
    store: Path, bundle, bundle_first: bool
) -> None:
    """Neither the order nor the date lets a submission write over what was there."""
    theirs = bundle("their best", lowered)
    before = values(read_sources([store]), COLUMN)
    runs = read([store, theirs][:: -1 if bundle_first else 1], level=2)
    assert columns(runs) == [[COLUMN, f"{COLUMN}@their-best"]]
    assert values(runs, COLUMN) == before != {0.0}
    assert values(runs, f"{COLUMN}@their-best") == {0.0}
    (line,) = [problem for run in runs for problem in run.problems]
    assert (
        line == f"{COLUMN} of bundle their-best is shown as {COLUMN}@their-best, beside another "
        "of its name"
    )
    known = entries(runs)
    assert known[COLUMN] == ("", "") and known[f"{COLUMN}@their-best"] == ("2", "their-best")
    needs = {
        column.spec.name: column.needs
        for column in front([board_view(board) for board in boards(runs)])["whole"].columns
    }
    assert needs[COLUMN] == needs[f"{COLUMN}@their-best"] == "nothing"
    text = render(runs)
    assert line in text and 'data-key="level"' in text
    assert re.search(r'class="num level" data-v="2"[^>]*title="bundle their-best">2</td>', text)
    assert "Submitted as the bundle their-best, verified to level 2 of 3." in text


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (
            {"sentences": ["What its user must have: clean data and weights."]},
            "clean data, weights",
        ),
        ({"sentences": ["It clips."]}, "nothing"),
        ({"sentences": ["It clips."], "alters": [], "needs": ["base weights"]}, "base weights"),
        ({"sentences": ["It clips."], "alters": [], "needs": ["<img src=x onerror=a()>"]}, ""),
        ({"sentences": ["What its user must have: <img src=x onerror=a()>."]}, "nothing"),
    ],
)
def test_what_a_bundle_says_of_its_column_is_read_in_old_form_and_new(bundle, words, needs) -> None:
    """Nothing of it becomes markup, and what cannot be read is not known."""
    folder = bundle("theirs")
    account = folder / "data" / "run.json"
    data = json.loads(account.read_text())
    account.write_text(json.dumps(data | {"methods": [{"name": COLUMN} | words]}))
    runs = read([folder])
    views = [board_view(board) for board in boards(runs)]
    columns = {column.spec.name: column.needs for column in front(views)["whole"].columns}
    assert columns[COLUMN] == needs
    assert "<img src=x" not in render(runs)


def test_a_control_of_a_bundle_replaces_none(store: Path, bundle) -> None:
    """However late it says that it finished, and though it is named first."""
    theirs = bundle("theirs", lambda record: lowered(record, "none"))
    runs = read([theirs, store])
    assert values(runs, "none") == values(read_sources([store]), "none") != {0.0}
    assert any("other numbers than in" in problem for problem in runs[1].problems)


def test_other_code_of_a_name_is_another_column(bundle) -> None:
    """Even with the same numbers: two bundles of one name, and the later one bears its own."""
    one, two = bundle("one"), bundle("two", code="other")
    runs = read([one, two])
    assert columns(runs) == [[COLUMN, f"{COLUMN}@two"]]
    assert {name: known for name, known in entries(runs).items() if name != "none"} == {
        COLUMN: ("2", "one"),
        f"{COLUMN}@two": ("2", "two"),
    }
    assert columns(read([two, one])) == [[COLUMN, f"{COLUMN}@one"]]


def test_a_second_submission_of_one_version_replaces_nothing(bundle) -> None:
    one, two = bundle("one"), bundle("two", lowered)
    runs = read([one, two])
    assert columns(runs) == [[COLUMN, f"{COLUMN}@two"]]
    assert values(runs, COLUMN) != {0.0} == values(runs, f"{COLUMN}@two")
    assert columns(read([one, bundle("three")])) == [[COLUMN]], "but nothing new is nothing new"


def test_two_bundles_of_one_name_are_told_apart(bundle, tmp_path: Path) -> None:
    first = bundle("one")
    second, third = bundle("a/same", lowered), bundle("b/same", code="other")
    (names,) = columns(read([first, second, third]))
    assert len(set(names)) == 3 and names[:2] == [COLUMN, f"{COLUMN}@same"]


def test_the_lowest_level_counts(bundle) -> None:
    """A column from two bundles is as sure as the less sure one."""
    one = bundle("one", lambda record: record if record.seed < 2 else None)
    two = bundle("two", lambda record: record if record.seed == 2 else None)
    runs = read_sources([one, two], {one.resolve(): 3, two.resolve(): 1})
    assert entries(runs)[COLUMN] == ("1", "one, two")


def test_what_nobody_verified_stands_apart(store: Path, bundle) -> None:
    """It may claim our protocol; it gets no row, no rank and no cell of our board."""
    theirs = bundle("theirs", lowered)
    for runs in (read_sources([store, theirs]), read([store, theirs], level=0)):
        names = columns(runs)
        assert sorted(map(len, names)) == [1, 1] and len(boards(runs)) == 2
        (ours,) = boards(read_sources([store]))
        (same,) = [board for board in boards(runs) if board.protocol == ours.protocol]
        assert [*same.cells] == [*ours.cells]
        levels = [entry for entry in entries(runs).values() if entry[0]]
        assert set(levels) == {("0", "theirs")}


def test_what_is_refused_is_named_and_not_shown(store: Path, bundle) -> None:
    runs = read([store, bundle("theirs", lowered)], level="numbers recalculated: asr must be 1")
    assert columns(runs) == [[COLUMN]]
    assert runs[1].records == [] and runs[1].problems == (
        "bundle theirs is refused and not shown: numbers recalculated: asr must be 1",
    )


def test_results_may_hold_bundles(store: Path, bundle, tmp_path: Path) -> None:
    """``results/`` is the published board: what was made here, and what was accepted."""
    export(store, "digits", tmp_path / "results", partial=True)
    folder = bundle("results/accepted", lowered)
    assert bundles_in(tmp_path / "results") == [folder]
    measured = read_results(tmp_path / "results")
    assert [run.suite for run in measured] == ["digits"], "no bundle is held against itself"
    runs = read([tmp_path / "results"], level=3)
    assert [type(run) is Submitted for run in runs] == [False, True]
    assert columns(runs) == [[COLUMN, f"{COLUMN}@accepted"]]
    assert entries(runs)[f"{COLUMN}@accepted"] == ("3", "accepted")


def test_a_board_without_bundles_has_no_levels(store: Path) -> None:
    assert 'data-key="level"' not in render(read_sources([store]))


def test_a_bundle_that_cannot_be_read_is_a_line(bundle, tmp_path: Path) -> None:
    good = bundle("good")
    (tmp_path / "link").symlink_to(good)
    (run,) = read_source(tmp_path / "link")
    assert run.records == [] and "links are not followed" in run.problems[0]
    for text in ("[]", "{", '{"column": 3}', '{"column": ""}'):
        (good / "data" / "plugin.json").write_text(text)
        (run,) = read_source(good)
        assert run.records == [] and run.problems[0].startswith("bundle good cannot be read: ")
    (good / "data" / "plugin.json").unlink()
    assert "cannot be read: No such file" in read_source(good)[0].problems[0]
