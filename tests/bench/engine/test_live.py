"""What a run reports of itself while it goes on."""

import time
from types import SimpleNamespace

import pytest

from bench import runner
from bench.cli import runs
from bench.engine import live
from bench.engine.progress import Reporter
from bench.engine.run import execute


@pytest.fixture
def matrix(lab):
    """Six cells of 0.3 s each, one after another."""
    for seed in range(6):
        trained = lab.stage("train", seed=seed, seconds=2.0, sleep=0.3)
        lab.cell({"clean": trained}, seed=seed)
    return lab


def run(lab, show):
    executor = lab.executor(jobs=1)
    plan = lab.plan(turns={cell.stage: (index, 0) for index, cell in enumerate(lab.cells)})
    with live.reporting([plan], executor, show):
        outcome = execute(plan, lab.store, executor)
    return outcome, executor.reporter


def test_what_is_coming_is_told_until_there_is_nothing_left(matrix, monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.2)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    reports = []
    outcome, _ = run(matrix, reports.append)
    assert outcome.counts["ok"] == 6 and len(reports) >= 4
    numbers = [len(report.coming) for report in reports]
    assert numbers == sorted(numbers, reverse=True) and 6 >= numbers[0] > numbers[-1] >= 1
    for report in reports:
        seconds = [after for _, after in report.coming]
        assert seconds == sorted(seconds) and report.seconds == pytest.approx(seconds[-1])
        assert report.done + report.left == 12 and len(report.running) <= 1
    # The first forecast is what is declared; the last knows what a training takes here.
    assert reports[0].seconds > 5 and reports[-1].seconds < 2


def test_a_report_that_costs_more_comes_less_often(matrix, monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.05)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(live, "SHARE", 0.2)
    began = []

    def slow(report):
        began.append(time.monotonic())
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    run(matrix, slow)
    gaps = [later - sooner for sooner, later in zip(began, began[1:], strict=False)]
    assert gaps and min(gaps) >= 0.1 / 0.2


def test_a_finished_run_reports_nothing(matrix):
    run(matrix, None)
    reports = []
    outcome, _ = run(matrix, reports.append)
    assert outcome.stages_made == 0 and reports == []


def test_an_error_of_the_board_is_one_line(matrix, monkeypatch):
    def fails(report):
        raise ValueError("no\ngood")

    outcome, reporter = run(matrix, fails)
    assert outcome.counts["ok"] == 6
    assert reporter.keys("note") == ["the board is written at the end only: no good"]


def test_a_disk_that_is_full_for_a_moment_ends_no_page(matrix, monkeypatch):
    """It went without news until the end, and called a run that lived dead."""
    monkeypatch.setattr(live, "EVERY", 0.1)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    reports = []

    def fails_twice(report):
        reports.append(report)
        if len(reports) <= 2:
            raise OSError("no\nspace")

    outcome, reporter = run(matrix, fails_twice)
    assert outcome.counts["ok"] == 6 and len(reports) >= 4
    assert reporter.keys("note") == ["the board could not be written, and is tried again: no space"]


def test_whatever_ends_a_run_ends_its_page(lab, monkeypatch):
    """After a traceback the page promised more for ever."""
    ended = []
    page = SimpleNamespace(show=None, end=lambda: ended.append(True))

    def broken(*given):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(runner, "run_together", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        runs._run([], lab.store, Reporter(), page, None)
    assert ended == [True]
