"""Stages on a real SLURM cluster: two nodes on this machine. Whatever ends a job, nothing that was
made is lost, no number changes, and a failure names its cause.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.engine import jobs, slurm
from bench.engine.jobs import JobExecutor, Room, read_jobs
from bench.engine.slurm import Slurm, SlurmProfile
from bench.engine.store import Store
from bench.resources import Resources

STAGES = str(Path(__file__).with_name("fake_stages.py"))
Lab = Any


@pytest.fixture(scope="module")
def cluster(loopback: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if missing := loopback.missing():
        assert "CASTLEWALLS_SLURM" not in os.environ, missing  # .ci/run sets it
        pytest.skip(missing)
    yield from loopback.running(tmp_path_factory.mktemp("slurm"))


@pytest.fixture
def here(cluster: Any, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    lab.executor()  # for its reporter
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 2.0)
    cluster.call("scontrol", "update", "NodeName=n1,n2", "State=RESUME")  # if a test drained one
    yield cluster
    print(cluster.call("sinfo", "-N", "-l"), cluster.call("squeue", "-l"))  # where a test fails


def executor(lab: Lab, **profile: Any) -> JobExecutor:
    usual = {"cpus": 1, "memory_gb": 1, "poll_seconds": 1, "minutes": 5, "batch_seconds": 1}
    return JobExecutor(
        lab.store, SlurmProfile(**usual | profile), lab.reporter, name="small", stages=STAGES
    )


def test_a_run_has_the_bits_of_a_local_one(lab: Lab, here: object, tmp_path: Path) -> None:
    """Five models, more than an array may have here, each with what is made of it in its job."""
    models = [lab.stage("train", seed=seed) for seed in range(5)]
    below = [lab.stage("sample", {"generator": key}, what="clean") for key in models]
    last = lab.stage("sample", {str(n): key for n, key in enumerate(below)}, what="all")
    run = executor(lab)
    assert run.run(lab.stages, [last]) == {}
    assert sorted(lab.reporter.keys("done")) == sorted([*models, *below, last])
    assert sorted(map(len, (group.keys for group in run.groups))) == [1, 2, 2, 2, 2, 2]
    values = lab.values()
    lab.store = Store(tmp_path / "local")
    lab.run()
    assert lab.values() == values


def test_a_failure_names_its_cause_and_what_hangs_on_it(lab: Lab, here: object) -> None:
    bad = lab.stage("broken", how="raise")
    below = lab.stage("sample", {"generator": bad}, what="clean")
    good = lab.stage("train", seed=0)
    failures = executor(lab).run(lab.stages, [below, good])
    assert {key: one.reason for key, one in failures.items()} == dict.fromkeys(
        (bad, below), "RuntimeError: the plugin is wrong"
    )
    assert failures[below].stage == bad and "fake_stages.py" in failures[bad].trace
    assert lab.store.finished(good)


def test_a_killed_task_is_begun_again(lab: Lab, here: object) -> None:
    """As by a kernel that is out of memory; submitit alone would wait for ever."""
    first = lab.stage("train", seed=0)
    last = lab.stage("sample", {"generator": first}, what="clean", gate=str(lab.gate))
    run = executor(lab)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working([last]))
    for task in lab.tasks():
        task.kill()
    lab.wait_for_note("ended as FAILED", "trying again")
    lab.gate.touch()
    thread.join(300)
    assert run.scheduler.failures == {} and lab.store.finished(last)
    assert lab.reporter.keys("done") == [first, last]
    assert read_jobs(run.file) == []


def test_one_that_dies_every_time_is_a_failure_in_words(lab: Lab, here: object) -> None:
    bad = lab.stage("train", seed=0, sleep=600)
    run = executor(lab, tries=1)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working([bad]))
    for task in lab.tasks():
        task.kill()
    thread.join(300)
    assert "ended as FAILED (exit code " in run.scheduler.failures[bad].reason


def test_what_somebody_cancelled_is_not_begun_again(lab: Lab, here: Any) -> None:
    bad = lab.stage("train", seed=0, sleep=600)
    run = executor(lab)
    thread = lab.begun(run)
    here.call("scancel", *(job.id for job in run.jobs.values()))
    thread.join(300)
    assert "ended as CANCELLED" in run.scheduler.failures[bad].reason and run.attempts == {0: 1}
    lab.wait_for(lambda: lab.tasks() == [])


def test_a_node_that_dies_is_made_up_for(lab: Lab, here: Any) -> None:
    """With all that ran on it, as by a power cut; the other one makes what is left."""
    first = lab.stage("train", seed=0)
    last = lab.stage("sample", {"generator": first}, what="clean", gate=str(lab.gate))
    run = executor(lab)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working([last]))
    node = here.call("squeue", "-h", "-o", "%N").split()[0]
    here.kill(node)
    working = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(lab.store.root) in " ".join(process.info["cmdline"] or [])
    ]
    # With what SLURM itself runs there for this cluster, and not for another on this machine.
    above = {one for process in working for one in process.parents() if one.name() == "slurmstepd"}
    for process in {*working, *above}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    lab.wait_for_note("ended as NODE_FAIL", "trying again")
    lab.gate.touch()
    thread.join(300)
    here.start_node(node)
    here.wait("idle", 300)
    assert run.scheduler.failures == {} and lab.store.finished(last)
    assert lab.reporter.keys("done") == [first, last]


def test_what_makes_room_for_another_job_is_begun_again(lab: Lab, here: Any) -> None:
    """Preemption, as on the cheap partition of many clusters; what was made is kept."""
    first = [lab.stage("train", seed=seed) for seed in range(2)]
    gate = {"what": "clean", "gate": str(lab.gate)}
    last = [lab.stage("sample", {"g": key}, **gate) for key in first]
    run = executor(lab)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working(last))
    here.call("sbatch", "-p", "urgent", "-n2", "-o", "/dev/null", "--wrap", "sleep 3")
    lab.wait_for_note("ended as PREEMPTED", "trying again")
    lab.gate.touch()
    thread.join(300)
    assert run.scheduler.failures == {} and all(map(lab.store.finished, last))
    assert [lab.reporter.keys("done").count(key) for key in first] == [1, 1]


def test_a_job_beyond_its_time_limit_is_begun_again(lab: Lab, here: Any, tmp_path: Path) -> None:
    """What it made before is kept. An administrator lowers the limit here: SLURM's least is a
    minute.
    """
    first = lab.stage("train", seed=0)
    last = lab.stage("broken", {"generator": first}, how="hang", once=str(tmp_path / "hung"))
    run = executor(lab)
    thread = lab.begun(run)
    lab.wait_for(lambda: (tmp_path / "hung").exists())
    (job,) = {job.id.partition("_")[0] for job in run.jobs.values()}
    here.call("scontrol", "update", f"JobId={job}", "TimeLimit=0")
    thread.join(300)
    assert run.scheduler.failures == {} and lab.store.finished(last)
    assert lab.reporter.keys("done") == [first, last]
    assert any("ended as TIMEOUT" in one and "trying again" in one for one in notes(lab))


def test_a_run_that_was_killed_finds_its_jobs_again(lab: Lab, here: object, tmp_path: Path) -> None:
    """The jobs go on without it, and none is begun twice."""
    keys = [lab.stage("train", seed=seed, sleep=4) for seed in range(2)]
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from bench.engine.progress import Reporter\n"
        "from bench.engine.graph import Stage\n"
        "from bench.engine.jobs import JobExecutor\n"
        "from bench.engine.slurm import SlurmProfile\n"
        "from bench.engine.store import Store\n"
        f"stages = [Stage(**one) for one in {[describe(lab, key) for key in keys]!r}]\n"
        "profile = SlurmProfile(cpus=1, memory_gb=1, poll_seconds=1, minutes=5, batch_seconds=1)\n"
        f"JobExecutor(Store(Path({str(lab.store.root)!r})), profile, Reporter(), name='small',\n"
        f"    stages={STAGES!r}).run({{one.key: one for one in stages}}, [s.key for s in stages])\n"
    )
    leader = subprocess.Popen([sys.executable, str(script)])
    jobs = lab.store.root / "jobs" / "small.json"
    lab.wait_for(lambda: len(lab.tasks()) == 2)
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    before = {job.id for job in read_jobs(jobs)}
    run = executor(lab)
    assert run.run(lab.stages, keys) == {} and len(before) == 2
    assert any("2 jobs of this run are still in the queue" in one for one in notes(lab))
    assert run.attempts == {}  # nothing was submitted
    assert all(lab.store.finished(key) for key in keys)


def test_a_controller_that_starts_again_loses_nothing(lab: Lab, here: Any) -> None:
    key = lab.stage("train", seed=0, sleep=10)
    run = executor(lab)
    thread = lab.begun(run)
    # It writes its state every five seconds. Without that it would give the next test's job the
    # number of this one, and the node would refuse it and take no more.
    time.sleep(6)
    here.kill("ctld")
    time.sleep(2)
    here.start_controller()
    thread.join(300)
    assert run.scheduler.failures == {} and lab.store.finished(key)


def test_two_copies_of_a_stage_do_no_harm(lab: Lab, here: object) -> None:
    """A job that SLURM had given up goes on somewhere: both make the same, and one result stays."""
    key = lab.stage("train", seed=0, sleep=3)
    first, second = executor(lab), executor(lab)
    second.file = second.file.with_name("other.json")
    threads = [lab.begun(first)]
    other = threading.Thread(target=second.run, args=(lab.stages, [key]))
    other.start()
    for thread in (*threads, other):
        thread.join(300)
    assert (
        first.scheduler.failures == second.scheduler.failures == {} and lab.store.fault(key) == ""
    )


def test_a_job_has_the_environment_of_its_node(
    lab: Lab, here: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `setup` loads had no effect, the GPUs that SLURM had given a job were not known to it,
    and the login machine's secrets were written into a file. A fraction of a GB is memory, too, and
    what srun does not inherit is said again: a job would have one CPU of those it waited for.
    """
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    names = ["LOADED", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"]
    key = lab.stage("environment", names=names)
    run = executor(lab, setup=["export LOADED=yes"], memory_gb=0.5)
    assert run.run(lab.stages, [key]) == {}
    seen = json.loads((lab.store.folder(key) / "value.json").read_bytes())
    assert seen["LOADED"] == "yes" and seen["SLURM_JOB_ID"] and seen["SLURM_CPUS_PER_TASK"] == "1"
    folder = lab.store.root / "jobs"
    assert not any(b"hf_0123" in one.read_bytes() for one in folder.rglob("*") if one.is_file())
    (script,) = folder.rglob("*_submission.sh")
    assert "--cpus-per-task=1" in script.read_text().partition("\nsrun ")[2]


def test_jobs_ask_for_what_their_stages_declare(
    lab: Lab, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was, a job waited for two hours of 8 GB. Each size is an array of its own."""
    monkeypatch.setattr(jobs, "MEMORY_GB", 0.5)  # the nodes have less than the usual
    small = [lab.stage("train", seed=seed, seconds=60) for seed in range(2)]
    large = lab.stage("train", seed=2, seconds=3600)
    lab.stages[large] = replace(lab.stages[large], resources=Resources(memory_gb=2))
    run = executor(lab, memory_gb=None, minutes=None)
    assert run.run(lab.stages, [*small, large]) == {}
    folder = lab.store.root / "jobs"
    scripts = [file.read_text() for file in folder.rglob("*_submission.sh")]
    asked = {tuple(_asked(text, option) for option in ("mem", "time")) for text in scripts}
    assert asked == {("512M", "15"), ("2048M", "240")} and len(scripts) == 2


def _asked(script: str, option: str) -> str:
    (value,) = re.findall(rf"^#SBATCH --{option}=(\S+)$", script, re.M)
    return str(value)


def describe(lab: Lab, key: str) -> dict[str, Any]:
    stage = lab.stages[key]
    return {name: getattr(stage, name) for name in ("name", "params", "inputs", "title", "alike")}


def notes(lab: Lab) -> list[str]:
    return lab.reporter.keys("note")


def test_a_job_with_other_code_says_so(
    lab: Lab, here: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are made of the code: results of another would stand under them."""
    key = lab.stage("train", seed=0)
    monkeypatch.setattr(jobs, "planned_code", lambda: ("0123456789", ""))
    failures = executor(lab, tries=1).run(lab.stages, [key])
    assert "is not the one that planned this run (01234567)" in failures[key].reason
    assert not lab.store.finished(key)


def test_a_job_that_slurm_holds_for_an_administrator_is_begun_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a node could not start would wait for ever, and nobody had cancelled it."""
    key = lab.stage("train", seed=0)
    lab.executor()
    run = executor(lab, tries=2, poll_seconds=0.1)
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.05)
    queue: dict[str, str] = {}
    began: list[str] = []

    def begin(self: Slurm, tasks: list[list[str]], folder: Path, room: Room) -> list[str]:
        began.append(str(len(began)))
        queue[began[-1]] = slurm.HELD
        return [began[-1]]

    def call(command: list[str]) -> str:
        if command[0] == "scancel":
            del queue[command[1]]
        if command[0] == "squeue":
            return "".join(f"{job}|{reason}\n" for job, reason in queue.items())
        return "JobState=CANCELLED" if command[:3] == ["scontrol", "show", "job"] else ""

    monkeypatch.setattr(Slurm, "begin", begin)
    monkeypatch.setattr(slurm, "_call", call)
    failures = run.run(lab.stages, [key])
    assert began == ["0", "1"] and "job 1 ended as CANCELLED" in failures[key].reason


def test_a_suite_from_the_command_line(small_suite: Any, here: Any) -> None:
    """The same account and records as of a local run, and nothing left at work."""
    Path("lab.yaml").write_text("cpus: 1\nmemory_gb: 1\npoll_seconds: 1\nminutes: 5\n")
    small_suite.made("far", "--executor", "slurm", "--profile", "lab.yaml")
    small_suite.assert_as_here("far")
    done = CliRunner().invoke(cli, ["status", "--store", "far"])
    run, jobs = done.stdout.splitlines()
    assert "cells ok; finished 20" in run and jobs == "no run in far has jobs on a cluster"
    done = CliRunner().invoke(cli, ["cancel", "--store", "far"])
    assert done.stdout == "0 jobs ended\n"
