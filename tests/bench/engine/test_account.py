"""The account of a run: what was on the board stays there until there is something newer, whatever
ends the run.
"""

import json

import pytest

from bench.engine.run import execute
from bench.record import read_runs


@pytest.fixture
def matrix(lab):
    """One trained generator, and a finished cell."""
    lab.trained = lab.stage("train", seed=0)
    lab.first = lab.cell({"clean": lab.trained})
    return lab


def run(lab, **options):
    outcome = execute(lab.plan(), lab.store, executor := lab.executor(jobs=1, **options))
    return outcome, executor.reporter


def killed(lab):
    """A run that is ended before its first stage is done."""
    executor = lab.executor(jobs=1)

    def end(*arguments):
        raise KeyboardInterrupt

    executor.run = end
    with pytest.raises(KeyboardInterrupt):
        execute(lab.plan(), lab.store, executor)


def test_a_finished_suite_that_grows_and_is_killed_keeps_its_board(matrix):
    """With a training of hours as the first new stage the board would be gone for hours."""
    run(matrix)
    before = read_runs(matrix.store.root)[0].records
    matrix.cell({"clean": matrix.stage("train", seed=1)}, attack="two")
    killed(matrix)
    (now,) = read_runs(matrix.store.root)
    assert now.records == before and now.finished is None
    assert now.counts == {"ok": 1, "failed": 0, "skipped": 0, "pending": 1}


def test_a_cell_keeps_its_reason_and_its_older_result_until_there_is_a_newer_one(matrix, tmp_path):
    """New code means new keys: nothing is finished any more, and still what was found must stay on
    the board.
    """
    bad = matrix.stage("broken", how="raise")
    matrix.cell({"clean": bad}, attack="bad")
    run(matrix)
    reasons = [
        (record.status, record.reason) for _, record in read_runs(matrix.store.root)[0].records
    ]
    assert [status for status, _ in reasons] == ["ok", "failed"]
    newer = type(matrix)(matrix.store.root)
    trained = newer.stage("train", seed=0, code="newer")
    newer.cell({"clean": trained})
    newer.cell({"clean": newer.stage("broken", how="raise", code="newer")}, attack="bad")
    killed(newer)
    assert [
        (record.status, record.reason) for _, record in read_runs(matrix.store.root)[0].records
    ] == reasons
    outcome, _ = run(newer)
    assert outcome.counts == {"ok": 1, "failed": 1, "skipped": 0, "pending": 0}


@pytest.mark.parametrize("name", ["record.json", "stage.json", "value.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", None])
def test_a_damaged_result_is_named_moved_aside_and_made_again(matrix, name, text):
    """A copy that was cut off used to end every later run with a traceback that did not name the
    file.
    """
    run(matrix)
    path = matrix.store.folder(matrix.first) / name
    good = path.read_bytes()
    path.unlink() if text is None else path.write_text(text)
    outcome, reporter = run(matrix)
    assert outcome.counts["ok"] == 1 and outcome.stages_made == 1
    (line,) = reporter.keys("note")
    assert line.startswith("record tiny one none") and name in line and "made again" in line
    if name == "value.json":
        assert path.read_bytes() == good
    outcome, reporter = run(matrix)
    assert outcome.stages_made == 0 and reporter.keys("note") == []


@pytest.mark.parametrize("text", ["", "{", '{"cells": 3}'])
def test_a_damaged_account_is_named_and_written_anew(matrix, text):
    outcome, _ = run(matrix)
    outcome.file.write_text(text)
    again, reporter = run(matrix)
    assert again.counts["ok"] == 1 and again.stages_made == 0
    assert any("fake.json cannot be read" in line for line in reporter.keys("note"))
    assert len(read_runs(matrix.store.root)[0].records) == 1


def test_another_suite_of_the_same_name_says_what_it_replaces(matrix):
    """Its column silently left the board."""
    execute(matrix.plan(description="the first one"), matrix.store, matrix.executor(jobs=1))
    other = type(matrix)(matrix.store.root)
    other.cell({"clean": other.stage("train", seed=0)}, attack="two")
    _, reporter = run(other)
    (line,) = reporter.keys("note")
    assert (
        line.startswith("replaces the run of fake (the first one, started 2")
        and "1 of its 1 cells" in line
    )
    _, reporter = run(other)
    assert reporter.keys("note") == []


def test_an_account_of_an_older_version_is_read(matrix):
    """Without labels, kind, protocol or description."""
    outcome, _ = run(matrix)
    account = json.loads(outcome.file.read_text())
    del account["description"]
    account["cells"] = [
        {name: cell[name] for name in ("id", "status", "record")} for cell in account["cells"]
    ]
    outcome.file.write_text(json.dumps(account))
    assert len(read_runs(matrix.store.root)[0].records) == 1
