"""What is asked of SLURM, and what is made of its answers, without a cluster."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.engine import jobs, slurm
from bench.engine.jobs import JobExecutor, JobsRefused, read_jobs
from bench.engine.slurm import HELD, Slurm, SlurmProfile
from bench.engine.store import write_atomically
from bench.errors import UserError


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


STAGES = str(Path(__file__).with_name("fake_stages.py"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.02)


def executor(lab, **profile):
    lab.executor()  # for its reporter
    profile = SlurmProfile(**{"poll_seconds": 0.05, "batch_seconds": 1} | profile)
    return JobExecutor(lab.store, profile, lab.reporter, name="small", stages=STAGES)


class Making:
    """In place of :meth:`Slurm.begin`: makes the stages of jobs at once. ``refuses``: what it
    raises, one after another, instead.
    """

    def __init__(self, lab, *refuses):
        self.lab, self.reporter, self.refuses = lab, lab.reporter, list(refuses)
        self.sizes, self.rooms = [], []

    def __call__(self, tasks, folder, room):
        if self.refuses and (error := self.refuses.pop(0)):
            raise error
        self.sizes.append(len(tasks))
        self.rooms.append(room)
        for spec, task in tasks:
            self.lab.run(json.loads(Path(spec).with_name(f"{task}.json").read_text()))
        return [f"{len(self.sizes)}_{number}" for number in range(len(tasks))]


def queued(lab, *ids, run="small", folder="f"):
    """Rows of jobs that a run left in the queue."""
    rows = [{"id": one, "keys": ["k"], "folder": folder, "task": "0.1"} for one in ids]
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


def test_a_run_with_other_choices_does_not_forget_jobs_in_the_queue(lab, calls, quick, monkeypatch):
    """`--seeds 0` left with Ctrl-C, then `--seeds 1`: the jobs of seed 0 would be begun twice, no
    command could end them, and after a day their folder was removed under them.
    """
    folder = lab.store.root / "jobs" / "run-before"
    folder.mkdir(parents=True)
    os.utime(folder, (1, 1))
    queued(lab, "7", "gone", folder=str(folder))
    calls.answers["squeue"] = "7|Priority\n"
    key = lab.stage("train", seed=1)
    run = executor(lab)
    monkeypatch.setattr(run.backend, "begin", Making(lab))
    assert run.run(lab.stages, [key]) == {}
    assert [job.id for job in read_jobs(run.file)] == ["7"] and folder.is_dir()
    calls.answers["squeue"] = ""
    executor(lab).run(lab.stages, [key])
    assert read_jobs(run.file) == []


def test_a_job_with_stages_of_two_runs_stays_known_for_the_other(lab, calls, quick):
    """What both need is made, and the rest is still at work."""
    queued(lab, "7")
    calls.answers["squeue"] = "7|None\n"
    key = lab.stage("train", seed=1)
    file = lab.store.root / "jobs" / "small.json"
    row = json.loads(file.read_text())[0]
    file.write_text(json.dumps([row | {"keys": ["k", key]}]))
    run = executor(lab)
    made = iter([lambda: None, lambda: lab.run([key])])
    run.backend.alive = lambda jobs: (next(made, lambda: None)(), set(jobs))[1]
    assert run.run(lab.stages, [key]) == {} and run.attempts == {}
    assert [job.keys for job in read_jobs(file)] == [["k", key]]


@pytest.mark.parametrize(
    ("option", "field"),
    [
        (("--jobs", "2"), "cpus"),
        (("--device", "cpu"), "gpus"),
        (("--gpus-per-stage", "2"), "gpus"),
        (("--gpu-memory", "10"), "gpus"),
    ],
)
@pytest.mark.parametrize("where", ["slurm", "ray", "into"])
def test_what_a_profile_decides_is_no_option(option, field, where, tmp_path):
    """It had no effect, or planned results for a number of GPUs that no job has."""
    command = ["plan", "digits", "--into", str(tmp_path / "jobs")]
    if where != "into":
        command = ["run", "digits", "--executor", where, "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(cli, [*command, *option])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert f"{option[0]} is for this machine" in done.stderr and f"{field} decides" in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_more_jobs_are_begun_than_there_may_be_at_once(lab, calls, quick, monkeypatch):
    """The limit was for each array by itself, and each wave of ready stages is another."""
    keys = [lab.stage("train", seed=seed) for seed in range(5)]
    run = executor(lab, at_once=2)
    making = Making(lab)
    monkeypatch.setattr(run.backend, "begin", making)
    assert run.run(lab.stages, keys) == {} and making.sizes == [2, 2, 1]


def test_jobs_that_are_refused_later_are_offered_again(lab, calls, quick, monkeypatch):
    """One moment of a busy controller ended a run of days. It is noted once, and is no try."""
    keys = [lab.stage("train", seed=seed) for seed in range(2)]
    run = executor(lab, at_once=1, tries=1)
    refusal = JobsRefused("sbatch refuses the jobs: busy")
    monkeypatch.setattr(run.backend, "begin", Making(lab, None, refusal, refusal))
    assert run.run(lab.stages, keys) == {} and run.attempts == {0: 1, 1: 1}
    notes = run.reporter.keys("note")
    assert notes.count("sbatch refuses the jobs: busy; trying again") == 1


def test_a_first_refusal_ends_the_run(lab, calls, quick, monkeypatch):
    """A wrong partition must not be waited for."""
    key = lab.stage("train", seed=0)
    run = executor(lab)
    monkeypatch.setattr(run.backend, "begin", Making(lab, JobsRefused("sbatch refuses: no such")))
    with pytest.raises(UserError, match="no such"):
        run.run(lab.stages, [key])


def test_ctrl_c_while_jobs_are_handed_over_is_no_refusal(lab, calls, quick, monkeypatch):
    """The terminal sends it to sbatch, too, which then fails: the run ended with exit code 2 and a
    reason that was none.
    """
    key = lab.stage("train", seed=0)
    run = executor(lab)

    def interrupted(tasks, folder, room):
        signal.raise_signal(signal.SIGINT)
        raise JobsRefused("sbatch refuses the jobs: ")

    monkeypatch.setattr(run.backend, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(lab.stages, [key])


def test_jobs_that_cannot_be_written_are_one_line(lab, calls, quick, monkeypatch):
    """A full disk was a traceback."""

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    key = lab.stage("train", seed=0)
    monkeypatch.setattr(jobs, "write_atomically", full)
    with pytest.raises(UserError, match=r"the jobs of this run cannot be written .*: disk full"):
        executor(lab).run(lab.stages, [key])
    run = executor(lab)
    run.over = set()
    with pytest.raises(UserError, match=r"small\.json cannot be written: disk full"):
        run._write_jobs()
