"""What a job is given: what its stages declare, or more if a profile says so, and never less."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.engine import jobs
from bench.engine.graph import Stage
from bench.engine.jobs import JobExecutor, JobsRefused, Profile, Room
from bench.engine.slurm import SlurmProfile
from bench.errors import UserError
from bench.resources import Resources
from bench.runner import declared_packing

LARGE = Resources(gpu=True, memory_gb=24, gpu_memory_gb=37)
NEEDS = {"small": Resources(memory_gb=4), "large": LARGE, "silent": Resources()}
Lab = Any


def stages(count: int, **resources: Any) -> list[Stage]:
    own = Resources(**resources)
    return [Stage(name="train", params={"n": n}, resources=own) for n in range(count)]


def seconds(own: float | None) -> Callable[[Stage], float | None]:
    return lambda stage: own


def read(folder: Path, text: str, needs: dict[str, Resources] = NEEDS) -> Profile:
    file = folder / "lab.yaml"
    file.write_text(text)
    return SlurmProfile.read(file, needs)


def test_without_a_profile_a_job_has_what_is_declared() -> None:
    """A model of 256 x 256 images was queued for two CPUs with 8 GB."""
    profile = SlurmProfile.read(None, NEEDS)
    assert profile.choice() == {"device": "cuda", "gpus": ["0"]}
    room = profile.room(stages(3, gpu=True, memory_gb=24), seconds(None))
    assert room == Room(cpus=2, gpus=1, memory_gb=24, minutes=120)


def test_where_nothing_is_declared_all_is_as_it_was() -> None:
    """A testbed of somebody who knows of no such field."""
    profile = SlurmProfile.read(None, {"silent": Resources()})
    assert profile.choice() == {"device": "cpu"}
    room = profile.room(stages(3), seconds(None))
    assert room == Room(cpus=2, gpus=0, memory_gb=8, minutes=120)


def test_a_profile_may_give_more(tmp_path: Path) -> None:
    profile = read(tmp_path, "gpus: 4\nmemory_gb: 200\nminutes: 600\ncpus: 8\n")
    room = profile.room(stages(9, gpu=True, memory_gb=24), seconds(None))
    assert room == Room(cpus=8, gpus=4, memory_gb=200, minutes=600)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "gpus: 0",
            "lab.yaml: gpus must be at least 1 for large, which declares that a stage needs a GPU, "
            "got 0; leave gpus out, and a job has what its testbeds declare",
        ),
        (
            "memory_gb: 16",
            "lab.yaml: memory_gb must be at least 24 for large, which declares that a stage needs "
            "24 GB, got 16; leave memory_gb out, and a job has what its testbeds declare",
        ),
    ],
)
def test_a_profile_that_is_below_what_is_declared_is_refused(
    tmp_path: Path, text: str, line: str
) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    assert str(raised.value) == line
    read(tmp_path, text, {"small": NEEDS["small"]})


def test_stages_at_once_have_their_memory_each(tmp_path: Path) -> None:
    """Where the profile says how much there is, no more of them are at work than fit."""
    many = stages(9, gpu=True, memory_gb=24)
    profile = read(tmp_path, "gpus: 4")
    assert profile.stages_at_once(many) == 4
    assert profile.room(many, seconds(1)).memory_gb == 4 * 24
    assert profile.room(many[:2], seconds(1)).memory_gb == 2 * 24
    assert read(tmp_path, "gpus: 4\nmemory_gb: 60").stages_at_once(many) == 2
    assert read(tmp_path, "gpus: 4\nmemory_gb: 8", {}).stages_at_once(stages(9)) == 4


@pytest.mark.parametrize(
    ("own", "minutes", "again", "limit"),
    [
        (1.0, None, False, 15),
        (1800.0, None, False, 120),  # ten minutes, and three times half an hour
        (53_000.0, None, False, 3840),
        (53_000.0, None, True, 7680),
        (None, None, False, 120),
        (1.0, 600, False, 15),
        (1.0, 600, True, 600),
        (None, 600, False, 600),
        (53_000.0, 600, False, 600),
        (1.0, 5, False, 5),
    ],
)
def test_a_time_limit_is_by_forecast_and_bounded_by_the_profile(
    own: float | None, minutes: int | None, again: bool, limit: int
) -> None:
    """All jobs waited for two hours of a node, and a training of fifteen never got done."""
    room = SlurmProfile(minutes=minutes).room(stages(1), seconds(own), again)
    assert room.minutes == limit


class Began:
    """In place of a backend's: makes the stages of jobs at once."""

    def __init__(self, lab: Lab, *refused: Room) -> None:
        self.lab, self.refused, self.rooms = lab, refused, list[tuple[Room, int]]()

    def __call__(self, tasks: list[list[str]], folder: Path, room: Room) -> list[str]:
        if room in self.refused:
            raise JobsRefused("sbatch refuses the jobs: no such node")
        self.rooms.append((room, len(tasks)))
        for spec, task in tasks:
            self.lab.run(json.loads(Path(spec).with_name(f"{task}.json").read_text()))
        return [f"{len(self.rooms)}_{number}" for number in range(len(tasks))]


@pytest.fixture
def run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> JobExecutor:
    """Of two small stages and a large one."""
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.02)
    for seed, own in enumerate((Resources(), Resources(), LARGE)):
        key = lab.stage("train", seed=seed)
        lab.stages[key] = replace(lab.stages[key], resources=own)
    lab.executor()  # for its reporter
    profile = SlurmProfile(poll_seconds=0.05, batch_seconds=0.1)
    executor = JobExecutor(
        lab.store, profile, lab.reporter, name="small", stages=lab.executor().source
    )
    monkeypatch.setattr(executor.backend, "most", lambda: 1000)
    monkeypatch.setattr(executor.backend, "alive", lambda ids: set(ids))
    return executor


def test_an_array_has_jobs_of_one_size(lab: Lab, run: JobExecutor, monkeypatch: Any) -> None:
    began = Began(lab)
    monkeypatch.setattr(run.backend, "begin", began)
    assert run.run(lab.stages, list(lab.stages)) == {}
    assert [(room.memory_gb, count) for room, count in began.rooms] == [(8, 2), (24, 1)]


def test_a_size_that_a_cluster_never_takes_ends_the_run(
    lab: Lab, run: JobExecutor, monkeypatch: Any
) -> None:
    """It took the small ones: it would be asked for ever whether it takes the large one."""
    began = Began(lab, Room(cpus=2, gpus=0, memory_gb=24, minutes=120))
    monkeypatch.setattr(run.backend, "begin", began)
    with pytest.raises(UserError, match="no such node"):
        run.run(lab.stages, list(lab.stages))
    assert len(began.rooms) == 1


@pytest.fixture
def large_suite(small_suite: Any, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """On a testbed that needs a GPU."""
    changed = replace(tiny, resources=LARGE)
    monkeypatch.setattr(sys.modules["castlewalls_fake_testbed"], "TINY", changed)
    return small_suite


@pytest.mark.parametrize("where", ["slurm", "ray", "into"])
def test_nothing_is_queued_for_a_profile_that_is_too_small(large_suite: Any, where: str) -> None:
    Path("lab.yaml").write_text("gpus: 0\n")
    more = ["--into", "jobs"] if where == "into" else ["--executor", where]
    command = ["plan" if where == "into" else "run", *large_suite.options, *more]
    done = CliRunner().invoke(cli, [*command, "--profile", "lab.yaml", "--store", "far"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "lab.yaml: gpus must be at least 1 for tiny, which declares" in done.stderr
    assert not Path("far").exists() and not Path("jobs").exists()


def test_jobs_for_others_are_as_large_as_declared(large_suite: Any) -> None:
    options = ["plan", *large_suite.options, "--store", "far", "--into", "jobs"]
    done = CliRunner().invoke(cli, options)
    assert done.exit_code == 0, done.stderr
    rows = json.loads(Path("jobs/jobs.json").read_text())
    assert {(row["gpus"], row["memory_gb"]) for row in rows} == {(1, 24)}
    spec = json.loads(Path("jobs/spec.json").read_text())
    assert (spec["device"], spec["jobs"]) == ("cuda", 1)


def test_a_plan_lists_them_and_warns_where_there_is_no_gpu(large_suite: Any) -> None:
    done = CliRunner().invoke(cli, ["plan", *large_suite.options, "--json", "--store", "far"])
    row = json.loads(done.stdout.splitlines()[0])
    assert row["resources"] == {"gpu": True, "memory_gb": 24, "gpu_memory_gb": 37}
    assert done.stderr.count("\n") == 1
    assert "warning: tiny: declared for a GPU" in done.stderr


def test_a_run_without_a_gpu_goes_on_with_a_warning(large_suite: Any) -> None:
    done = CliRunner().invoke(cli, ["run", *large_suite.options, "--no-report", "--store", "near"])
    assert done.exit_code == 0
    assert done.stderr.count("tiny: declared for a GPU") == 1


def test_show_has_them() -> None:
    done = CliRunner().invoke(cli, ["show", "celebahq-ddpm"])
    assert "  a stage needs: a GPU, 24 GB of memory, 37 GB of a GPU's\n" in done.stdout
    (item,) = json.loads(CliRunner().invoke(cli, ["show", "digits-ddpm", "--json"]).stdout)
    assert item["resources"] == {"gpu": False, "memory_gb": None, "gpu_memory_gb": None}
    assert "a stage needs" not in CliRunner().invoke(cli, ["show", "digits-ddpm"]).stdout


def test_stages_are_packed_by_what_is_declared() -> None:
    """The largest of a command's testbeds counts, and no more at once than main memory holds."""
    needs = {"a": LARGE, "b": Resources(memory_gb=10, gpu_memory_gb=50)}
    packed = declared_packing(needs, None, total_memory=128)
    assert packed == {"gpu_memory": 50, "jobs": int(0.8 * 128 / 24)}
    assert declared_packing(needs, 2, total_memory=128)["jobs"] == 2
    assert declared_packing(needs, None, total_memory=8)["jobs"] == 1
    only = {"c": Resources(gpu_memory_gb=4)}
    assert declared_packing(only, None) == {"gpu_memory": 4, "jobs": None}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("declared", "--gpu-memory must be in GB for tiny, which declares none"),
        ("much", "--gpu-memory must be a number of GB, or declared, got 'much'"),
        ("4", "--gpu-memory needs --device cuda, and one GPU a stage"),
    ],
)
def test_a_packing_that_cannot_be_is_one_line(small_suite: Any, value: str, line: str) -> None:
    done = CliRunner().invoke(cli, ["plan", *small_suite.options, "--gpu-memory", value])
    assert (done.exit_code, done.stderr) == (2, f"castlewalls: {line}\n")


@pytest.mark.parametrize("wrong", [{"memory_gb": 0}, {"gpu_memory_gb": -1.0}])
def test_a_wrong_declaration_names_its_field(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be positive, or null, got"):
        Resources(**wrong)  # type: ignore[arg-type]
