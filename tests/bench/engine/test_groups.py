"""What is put into one job: every stage once, nothing before what it needs, and no queue full of
jobs of a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import cli
from bench.engine.graph import Stage
from bench.engine.groups import grouped
from bench.engine.node import stage_of, stage_values
from bench.engine.schedule import Durations
from bench.engine.slurm import SlurmProfile
from bench.errors import UserError
from bench.plugin_file import Source


@given(st.data(), st.floats(1, 300), st.floats(0, 300), st.integers(0, 4))
def test_every_stage_is_in_one_group_that_waits_for_all_it_needs(
    graphs: Any, data: st.DataObject, longest: float, batch: float, count: int
) -> None:
    """``known``: jobs at work; none is given another stage, and they need nothing."""
    stages: dict[str, Stage] = data.draw(graphs())
    roots = [key for key, stage in stages.items() if not stage.inputs][:count]
    groups = grouped(stages, stages, longest, batch, known=[[key] for key in roots])
    assert sorted(key for group in groups for key in group.keys) == sorted(stages)
    assert [group.keys for group in groups[: len(roots)]] == [[key] for key in roots]
    of = {key: number for number, group in enumerate(groups) for key in group.keys}
    for number, group in enumerate(groups):
        assert all(needed < number for needed in group.needs)
        for position, key in enumerate(group.keys):
            for above in stages[key].inputs.values():
                earlier = above in group.keys[:position]
                assert earlier or of[above] in group.needs | group.all_needs
        assert len(group.keys) == 1 or group.seconds <= max(longest, batch)


def test_a_models_work_is_one_job_and_models_are_not() -> None:
    """Two trainings of an hour side by side, and what takes a second with what it is made of."""
    stages: dict[str, Stage] = {}

    def stage(name: str, seconds: float, *above: str) -> str:
        inputs = {str(role): key for role, key in enumerate(above)}
        one = Stage(name=name, params={"n": len(stages)}, inputs=inputs, seconds=seconds)
        stages[one.key] = one
        return one.key

    reference = stage("reference", 5)
    for _ in range(2):
        model = stage("train", 3600)
        images = [stage("sample", 60, model) for _ in range(3)]
        for one in images:
            stage("record", 1, stage("measure", 1, one, reference))
    names = [
        [stages[key].name for key in group.keys] for group in grouped(stages, stages, 7200, 60)
    ]
    model_job = ["train", "sample", "sample", "sample"]
    rest = ["measure", "record"] * 3
    assert sorted(names) == sorted([["reference"], *[model_job, rest] * 2])


def test_jobs_are_as_large_as_stages_took_and_not_as_was_declared() -> None:
    """A declaration is for the slowest machine; by it a queue would be full of jobs of a second."""
    stages = {}
    for number in range(8):
        one = Stage(name="measure", params={"n": number}, seconds=60, alike=("measure",))
        stages[one.key] = one
    assert len(grouped(stages, stages, 7200, 120)) == 4
    timed = Durations([{"cost": {"seconds": 1.0}, "alike": ["measure"]}])
    assert len(grouped(stages, stages, 7200, 120, expected=timed.of)) == 1


def test_a_stage_crosses_to_a_job_with_its_key() -> None:
    one = Stage(
        name="sample",
        params={"seed": 1},
        inputs={"model": "k"},
        fingerprint="f",
        keyed={"seed": 1},
        alike=("a", "b"),
        charged=frozenset({"model"}),
        plugins=(Source(file="/p.py", hashes={"/p.py": "1"}),),
        locations=("/data",),
    )
    again = stage_of(stage_values(one))
    assert again == one and again.key == one.key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minutes: 0", "lab.yaml: minutes must be at least 1, or null, got 0"),
        ("cpus: two", "lab.yaml: slurm profile: cpus must be a whole number of at least 1, got"),
        ("memory_gb: -1", "lab.yaml: memory_gb must be positive, or null, got -1"),
        ("setup: module x", "lab.yaml: slurm profile: setup must be a list of text, got"),
        ("options: [a]", "lab.yaml: options must be options of sbatch with their values, got"),
        ("partition: 3", "lab.yaml: slurm profile: partition must be text, got 3"),
        ("hours: 3", "lab.yaml: unknown parameter of slurm profile: 'hours'"),
        ("[1]", "lab.yaml must have fields, got a list"),
    ],
)
def test_a_wrong_profile_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        SlurmProfile.read(file)
    assert str(raised.value).startswith(message)


def test_a_profile_says_what_a_plan_is_for(tmp_path: Path) -> None:
    """A machine that submits need not have the cluster's GPUs."""
    file = tmp_path / "lab.yaml"
    cases: list[tuple[str, dict[str, Any]]] = [
        ("", {"device": "cpu"}),
        ("gpus: 2", {"device": "cuda", "gpus": ["0", "1"]}),
    ]
    for text, choice in cases:
        file.write_text(text)
        assert SlurmProfile.read(file).choice() == choice


@pytest.mark.parametrize("command", ["status", "cancel"])
def test_asking_for_jobs_writes_nothing(tmp_path: Path, command: str) -> None:
    """Whatever folder is named by mistake; one that is not there is bad input."""
    done = CliRunner().invoke(cli, [command, "--store", str(tmp_path)])
    assert done.exit_code == 0 and list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(cli, [command, "--store", str(tmp_path / "nowhere")])
    assert done.exit_code == 2 and done.stderr.startswith("castlewalls: there is no store at")
