"""Runs that are killed, interrupted or doubled: the same records, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.engine.store import Store
from bench.record import read_runs

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def start(store, jobs=2, sleep=0.0, **more):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_SLEEP": str(sleep)} | more
    command = [sys.executable, str(HERE / "fake_run.py"), str(store), str(jobs)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def begun_together(stores, jobs=2):
    """A run on each of ``stores``, by machine, that goes on when all have begun a stage, however
    long a process takes to start here.
    """
    gate = next(iter(stores.values())) / "gate"
    runs = []
    for machine, store in stores.items():
        runs.append(start(store, jobs, FAKE_MACHINE=machine, FAKE_GATE=str(gate)))
        while not list((store / "tmp").glob(f"*.{machine}.*")) and runs[-1].poll() is None:
            time.sleep(0.02)  # one after another: a run clears away what is dead
    gate.touch()
    return runs


def results(store):
    """Every number in a store, by key."""
    values = {
        path.parent.name: path.read_bytes() for path in (store / "stages").glob("*/*/value.json")
    }
    (run,) = read_runs(store)
    metrics = [
        (record.attack.name, record.seed, record.status, record.metrics)
        for _, record in run.records
    ]
    return values, metrics


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    store = tmp_path_factory.mktemp("unbroken")
    assert finish(start(store))["made"] == 17
    return results(store)


def workers_of(pid):
    pids = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split()
    return [int(worker) for worker in pids if Path(f"/proc/{worker}").exists()]


def test_killed_at_random_moments_and_run_again_gives_the_same_bits(tmp_path, unbroken):
    moments = random.Random(7)
    interrupted = 0
    for _ in range(10):
        process = start(tmp_path, sleep=0.03)
        try:
            process.wait(timeout=moments.uniform(0.2, 1.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            interrupted += 1
        process.communicate()
        for path in (tmp_path / "stages").glob("*/*"):
            assert {"stage.json", "value.json"} <= {file.name for file in path.iterdir()}
    assert interrupted >= 2
    assert finish(start(tmp_path))["ok"] == 4
    assert results(tmp_path) == unbroken
    assert list((tmp_path / "tmp").iterdir()) == []


def test_workers_die_with_a_run_that_is_killed(tmp_path):
    """Orphans would keep cores busy and could fight the next run for its stages."""
    process = start(tmp_path, sleep=2.0)
    deadline = time.monotonic() + 200
    workers = []
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        workers = workers_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(worker) for worker in workers)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_runs_on_one_store_never_make_a_stage_twice(tmp_path, unbroken):
    one, two = map(finish, begun_together({"one": tmp_path, "other": tmp_path}, jobs=1))
    assert one["made"] + two["made"] == 17
    assert one["ok"] == two["ok"] == 4
    assert one["elsewhere"] + two["elsewhere"] >= 1
    assert results(tmp_path) == unbroken


def test_an_interrupt_keeps_what_is_finished_and_leaves_nothing_else(tmp_path, unbroken):
    process = start(tmp_path, sleep=0.1)
    while not list(tmp_path.glob("stages/*/*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode != 0
    finished = len(list(tmp_path.glob("stages/*/*")))
    assert 0 < finished < 17
    assert list((tmp_path / "tmp").iterdir()) == []
    (run,) = read_runs(tmp_path)
    assert run.finished is None and run.counts["pending"] > 0
    assert finish(start(tmp_path))["made"] == 17 - finished
    assert results(tmp_path) == unbroken


def test_two_machines_that_share_no_locks_do_each_other_no_harm(tmp_path, unbroken):
    """As over a network file system whose locks hold on one machine only: work may be done twice,
    and nothing else comes of it. Each sees the same folders and locks of its own.
    """
    real = tmp_path / "real"
    views = [tmp_path / "one", tmp_path / "other"]
    for view in views:
        view.mkdir()
        for name in ("stages", "tmp", "partial", "runs"):
            (real / name).mkdir(parents=True, exist_ok=True)
            (view / name).symlink_to(real / name)
    ends = list(map(finish, begun_together({"one": views[0], "other": views[1]})))
    assert [end["failed"] for end in ends] == [0, 0]
    assert ends[0]["made"] + ends[1]["made"] > 17 and ends[0]["elsewhere"] == 0  # it was shared
    assert results(views[0]) == results(views[1]) == unbroken
    assert list((real / "tmp").iterdir()) == []


def test_a_store_from_a_dead_run_is_readable_by_the_next(tmp_path):
    Store(tmp_path).new_folder("ab" * 32).mkdir()
    assert finish(start(tmp_path))["failed"] == 0
    assert list((tmp_path / "tmp").iterdir()) == []
