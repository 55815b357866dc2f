"""Stages on a real Ray cluster: two nodes on this machine. A node that dies loses nothing that was
made, and changes no number.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.engine import jobs
from bench.engine.jobs import JobExecutor, Room
from bench.engine.ray import Ray, RayProfile
from bench.engine.store import Store
from bench.errors import UserError

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
if "CASTLEWALLS_CLUSTERS" in os.environ:  # .ci/run sets it
    import ray
else:
    ray = pytest.importorskip("ray", reason="Ray is not installed here")
STAGES = str(Path(__file__).with_name("fake_stages.py"))
ROOM = Room(cpus=1, gpus=0, memory_gb=1, minutes=15)
Lab = Any


class Nodes:
    """A head that runs nothing, and two nodes of one CPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        memory = {"memory": 4 * 10**9, "object_store_memory": 80 * 2**20}
        head = memory | {"num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.memory = memory
        self.nodes = [self.add() for _ in range(2)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, **self.memory)

    def kill(self) -> None:
        """One of them, as by a power cut; another takes its place."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.add())


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    ray.shutdown()
    made.cluster.shutdown()


@pytest.fixture
def here(nodes: Nodes, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    lab.executor()  # for its reporter
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.5)
    return nodes


def executor(lab: Lab, nodes: Nodes, **profile: Any) -> JobExecutor:
    usual = {"cpus": 1, "memory_gb": 0.1, "batch_seconds": 1}
    address = nodes.cluster.address
    return JobExecutor(
        lab.store,
        RayProfile(**usual | {"address": address} | profile),
        lab.reporter,
        name="small",
        stages=STAGES,
    )


def test_a_run_has_the_bits_of_a_local_one(lab: Lab, here: Nodes, tmp_path: Path) -> None:
    models = [lab.stage("train", seed=seed) for seed in range(3)]
    below = [lab.stage("sample", {"generator": key}, what="clean") for key in models]
    last = lab.stage("sample", {str(n): key for n, key in enumerate(below)}, what="all")
    assert executor(lab, here).run(lab.stages, [last]) == {}
    assert sorted(lab.reporter.keys("done")) == sorted([*models, *below, last])
    values = lab.values()
    lab.store = Store(tmp_path / "local")
    lab.run()
    assert lab.values() == values


def test_a_failure_names_its_cause(lab: Lab, here: Nodes) -> None:
    bad = lab.stage("broken", how="raise")
    below = lab.stage("sample", {"generator": bad}, what="clean")
    failures = executor(lab, here).run(lab.stages, [below])
    assert failures[below].reason == "RuntimeError: the plugin is wrong"
    assert failures[below].stage == bad and "fake_stages.py" in failures[bad].trace


def test_a_node_that_dies_is_made_up_for(lab: Lab, here: Nodes) -> None:
    """What it had made is kept, what it was at is begun again, and no process of it stays."""
    first = [lab.stage("train", seed=seed) for seed in range(2)]
    gate = {"what": "clean", "gate": str(lab.gate)}
    last = [lab.stage("sample", {"g": key}, **gate) for key in first]
    run = executor(lab, here)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working(last))
    before = lab.tasks()
    here.kill()
    lab.wait_for_note("was lost", "trying again")
    lab.gate.touch()
    thread.join(300)
    assert run.scheduler.failures == {} and all(map(lab.store.finished, last))
    assert [lab.reporter.keys("done").count(key) for key in first] == [1, 1]
    lab.wait_for(lambda: not any(one.is_running() for one in before))


def test_a_killed_task_is_begun_again(lab: Lab, here: Nodes) -> None:
    key = lab.stage("train", seed=0, gate=str(lab.gate))
    run = executor(lab, here)
    thread = lab.begun(run)
    lab.wait_for(lambda: lab.working([key]))
    for task in lab.tasks():
        task.kill()
    lab.wait_for_note("exit code -9")
    lab.gate.touch()
    thread.join(300)
    assert run.scheduler.failures == {} and lab.store.finished(key)


def test_jobs_end_with_their_run(lab: Lab, here: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves nothing at work that nobody waits for."""
    lab.stage("train", seed=0, sleep=600)
    run = executor(lab, here)

    def stop(*rest: object) -> None:
        if run.scheduler.running:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "_look_after", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run(lab.stages, list(lab.stages))
    lab.wait_for(lambda: lab.tasks() == [])


def test_no_more_jobs_are_begun_than_asked_for(lab: Lab, here: Nodes) -> None:
    """A cluster is shared: `at_once` leaves room for others."""
    for seed in range(3):
        lab.stage("train", seed=seed, sleep=1)
    run = executor(lab, here, at_once=1, batch_seconds=0.1)
    most: list[int] = []
    ended = run.run(lab.stages, list(lab.stages), lambda: most.append(len(run.jobs)))
    assert ended == {}
    assert len(run.groups) == 3 and max(most) <= 1


def test_a_job_that_no_machine_has_room_for_is_announced(here: Nodes) -> None:
    """It waits until one joins, as in a cloud; without a word that looks like a hang."""
    ray.shutdown()
    address, before = here.cluster.address, signal.getsignal(signal.SIGTERM)
    large = replace(ROOM, cpus=9)
    assert "has 9 CPUs, 0 GPUs" in Ray(RayProfile(address=address)).warning(large)
    assert Ray(RayProfile(address=address)).warning(ROOM) == ""
    assert signal.getsignal(signal.SIGTERM) is before  # Ray has one that ends without a word


def test_a_suite_from_the_command_line(small_suite: Any, here: Nodes) -> None:
    Path("lab.yaml").write_text(f"cpus: 1\nmemory_gb: 0.1\naddress: {here.cluster.address!r}\n")
    small_suite.made("far", "--executor", "ray", "--profile", "lab.yaml")
    small_suite.assert_as_here("far")


def test_without_a_cluster_it_is_one_line(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(UserError, match="there is no Ray cluster at 127.0.0.1:1"):
        Ray(RayProfile(address="127.0.0.1:1")).warning(ROOM)
