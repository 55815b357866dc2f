"""The account of a run: what was on the board stays there until there is something newer, whatever
ends the run.
"""

import json
from dataclasses import replace

import pytest

from bench.engine.executor import Patience
from bench.engine.run import execute, execute_all
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

    def end(*arguments, **options):
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


def test_suites_together_share_stages_and_keep_an_account_each(matrix):
    """What both need is made once, and counts for the first; the first is finished while the second
    still runs.
    """
    other = type(matrix)(matrix.store.root)
    other.trained = other.stage("train", seed=0)
    other.cell({"clean": other.trained}, attack="two")
    other.cell({"clean": other.stage("broken", how="raise")}, attack="bad")
    plans = [
        matrix.plan(turns={matrix.first: (1, 0)}),
        replace(
            other.plan(turns={other.cells[0].stage: (0, 0), other.cells[1].stage: (2, 0)}),
            suite="second",
        ),
    ]
    executor = matrix.executor(jobs=1)
    first, second = execute_all(plans, matrix.store, executor)
    assert (first.stages_made, second.stages_made) == (2, 1)
    assert first.counts["ok"] == 1 and second.counts == {
        "ok": 1,
        "failed": 1,
        "skipped": 0,
        "pending": 0,
    }
    started = executor.reporter.keys("started")
    assert started[0] == matrix.trained and started[1] == other.cells[0].stage
    assert started[2] == matrix.first
    runs = {run.suite: run for run in read_runs(matrix.store.root)}
    assert {run.suite: len(run.records) for run in runs.values()} == {"fake": 1, "second": 2}
    assert all(run.finished for run in runs.values())


def test_each_suite_has_its_own_patience(matrix, tmp_path):
    """A suite that asks for retries gives none to another."""
    plans, patience = [], {}
    for name, retries in (("hasty", 0), ("patient", 1)):
        lab = type(matrix)(matrix.store.root)
        broken = lab.stage("broken", how="raise", once=str(tmp_path / name))
        lab.cell({"clean": broken}, attack=name)
        plans.append(replace(lab.plan(), suite=name))
        patience |= dict.fromkeys(lab.stages, Patience(retries=retries))
    executor = matrix.executor(jobs=1)
    hasty, patient = execute_all(plans, matrix.store, executor, patience=patience)
    assert hasty.counts["failed"] == 1 and patient.counts["ok"] == 1


def test_an_account_is_finished_when_its_last_cell_is(matrix):
    """Not only when the last of several suites ends: until then it may be interrupted."""
    other = type(matrix)(matrix.store.root)
    other.cell({"clean": other.stage("train", seed=1)}, attack="two")
    dates = []

    class Watching(type(matrix.executor(jobs=1))):
        def run(self, stages, targets, changed=lambda: None, **options):
            def watched():
                changed()
                dates.append([run.finished is not None for run in read_runs(self.store.root)])

            return super().run(stages, targets, watched, **options)

    executor = matrix.executor(jobs=1)
    executor.__class__ = Watching
    later = other.plan(turns={other.cells[0].stage: (1, 0)})
    plans = [matrix.plan(), replace(later, suite="second")]
    execute_all(plans, matrix.store, executor)
    assert [True, False] in dates and dates[-1] == [True, True]
