"""What is asked of SLURM, and what is made of its answers, without a cluster."""

import json

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.engine import slurm
from bench.engine.slurm import HELD, Slurm
from bench.engine.store import write_atomically


@pytest.fixture
def calls(monkeypatch):
    """What was called; ``answers``: by program, instead of nothing."""
    made = []

    def call(command):
        made.append(command)
        return made.answers.get(command[0], "")

    made = type("Calls", (list,), {"answers": {}})()
    monkeypatch.setattr(slurm, "_call", call)
    return made


def queued(lab, *ids, run="small"):
    """Rows of jobs that a run left in the queue."""
    rows = [{"id": one, "keys": ["k"], "folder": "f", "task": "0.1"} for one in ids]
    (lab.store.root / "jobs").mkdir(exist_ok=True)
    write_atomically(lab.store.root / "jobs" / f"{run}.json", json.dumps(rows))


def test_jobs_of_another_project_are_never_ended(calls):
    """The queue has all of an account's jobs, and one held there may wait for its owner."""
    calls.answers["squeue"] = f"1|{HELD}\n2|{HELD}\n3|Priority\n"
    assert Slurm().alive(["1", "3"]) == {"1", "3"}
    assert [call for call in calls if call[0] == "scancel"] == [["scancel", "1"]]


def test_status_ends_nothing(lab, calls):
    """Who only looks must find all as it was, a job that is held for an administrator too."""
    queued(lab, "1")
    calls.answers["squeue"] = f"1|{HELD}\n"
    done = CliRunner().invoke(cli, ["status", "--store", str(lab.store.root)])
    assert "job 1, in the queue" in done.stdout
    assert [call[0] for call in calls] == ["squeue"]


def test_cancel_says_so_if_slurm_ends_nothing(lab, calls):
    """Jobs that were believed ended would go on at the account's cost."""
    queued(lab, "1")
    calls.answers |= {"squeue": "1|Priority\n", "scancel": None}
    done = CliRunner().invoke(cli, ["cancel", "--store", str(lab.store.root)])
    assert done.exit_code == 2 and "scancel fails" in done.stderr and not done.stdout


def test_a_held_job_that_could_not_be_ended_is_ended_later(calls):
    """A controller that does not answer for a moment must not end the run, nor leave the job."""
    calls.answers |= {"squeue": f"1|{HELD}\n", "scancel": None}
    backend = Slurm()
    assert backend.alive(["1"]) == {"1"}
    calls.answers["scancel"] = ""
    assert backend.alive(["1"]) == {"1"} and backend.held == {"1"}
    backend.alive(["1"])
    assert [call[0] for call in calls].count("scancel") == 2
