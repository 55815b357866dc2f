"""Jobs for a workflow manager that knows nothing of castlewalls: the Snakefile of the docs, run by
Snakemake.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import runner
from bench.cli import cli
from bench.record import read_runs

STAGES = str(Path(__file__).with_name("fake_stages.py"))
PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"


@pytest.fixture
def suite(
    tiny: Any, fake_plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A small one in the current folder: the arguments of a command that asks for it."""
    monkeypatch.setattr(runner, "prepare", functools.partial(runner.prepare, stages=STAGES))
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(
        "name: small\ntestbeds: [tiny]\nattacks: [fake_attack]\ndefenses: [fake_sampler]\n"
    )
    return ["small.yaml", "--plugin", str(fake_plugins)]


def planned(suite: list[str], *more: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["plan", *suite, "--store", "far", "--into", "jobs", *more])
    assert done.exit_code == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(Path("jobs/jobs.json").read_text())
    return rows


def test_jobs_make_what_a_run_makes(suite: list[str]) -> None:
    """By hand, in the order that they ask for; the run that follows makes nothing, and has the
    numbers of a local one.
    """
    Path("profile.yaml").write_text("cpus: 1\nbatch_seconds: 1\nminutes: 1\n")
    rows = planned(suite, "--profile", "profile.yaml")
    assert len(rows) > 1 and {row["cpus"] for row in rows} == {1}
    done: set[str] = set()
    for row in rows:
        assert done.issuperset(row["needs"])
        subprocess.run(row["command"], check=True, env=environment())
        done.add(row["job"])
    assert same(suite)["stages_made"] == 0


def test_the_snakefile_of_the_docs_makes_a_run(suite: list[str]) -> None:
    if importlib.util.find_spec("snakemake") is None:
        # .ci/run sets it; Snakemake needs Python 3.11.
        assert "CASTLEWALLS_CLUSTERS" not in os.environ or sys.version_info < (3, 11)
        pytest.skip("Snakemake is not installed here")
    rows = planned(suite)
    (text,) = re.findall(r"```python\n(import json\nimport shlex.*?)```", PAGE.read_text(), re.S)
    Path("Snakefile").write_text(text)
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going"]
    done = subprocess.run(snakemake, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Path(f"jobs/{row['job']}.done").is_file() for row in rows)
    assert same(suite)["stages_made"] == 0


def environment() -> dict[str, str]:
    paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return os.environ | {"PYTHONPATH": paths}


def same(suite: list[str]) -> dict[str, Any]:
    """What ``run`` says over the jobs' store, whose numbers are those of a run without jobs."""
    made = [
        CliRunner().invoke(cli, ["run", *suite, "--no-report", "--json", "--store", store])
        for store in ("far", "near")
    ]
    assert [one.exit_code for one in made] == [0, 0], made[0].stderr
    far, near = (read_runs(Path(store))[0] for store in ("far", "near"))
    assert far.counts == near.counts and far.counts["ok"] > 2
    assert [one.metrics for _, one in far.records] == [one.metrics for _, one in near.records]
    answer: dict[str, Any] = json.loads(made[0].stdout)
    return answer


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--profile", "p.yaml"], "--profile goes with --into FOLDER"),
        (["--into", "full"], "--into must name a new or an empty folder, got"),
        (["--into", "small.yaml"], "--into must name a new or an empty folder, got"),
        (["--into", "jobs", "--profile", "p.yaml"], "--profile p.yaml: there is no such file"),
    ],
)
def test_bad_input_is_one_line(suite: list[str], more: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    done = CliRunner().invoke(cli, ["plan", *suite, "--store", "far", *more])
    assert done.exit_code == 2 and done.stderr.startswith(f"castlewalls: {message}")
    assert done.stderr.count("\n") == 1 and os.listdir("full") == ["mine.txt"]
