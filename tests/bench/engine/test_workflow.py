"""Jobs for a workflow manager that knows nothing of castlewalls: the Snakefile of the docs, run by
Snakemake.
"""

from __future__ import annotations

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

from bench.cli import cli
from bench.engine.environment import search_path

PAGE = Path(__file__).parents[3] / "docs" / "cluster.md"


def planned(small_suite: Any, *more: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(
        cli, ["plan", *small_suite.options, "--store", "far", "--into", "jobs", *more]
    )
    assert done.exit_code == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(Path("jobs/jobs.json").read_text())
    return rows


def test_jobs_make_what_a_run_makes(small_suite: Any) -> None:
    """By hand, in the order that they ask for; the run that follows makes nothing, and has the
    numbers of a local one.
    """
    Path("profile.yaml").write_text("cpus: 1\nbatch_seconds: 1\nminutes: 1\n")
    rows = planned(small_suite, "--profile", "profile.yaml")
    assert len(rows) > 1 and {row["cpus"] for row in rows} == {1}
    done: set[str] = set()
    for row in rows:
        assert done.issuperset(row["needs"])
        subprocess.run(row["command"], check=True, env=environment())
        done.add(row["job"])
    assert small_suite.made("far")["stages_made"] == 0
    small_suite.assert_as_here("far")


def test_the_snakefile_of_the_docs_makes_a_run(small_suite: Any) -> None:
    if importlib.util.find_spec("snakemake") is None:
        # .ci/run sets it; Snakemake needs Python 3.11.
        assert "CASTLEWALLS_CLUSTERS" not in os.environ or sys.version_info < (3, 11)
        pytest.skip("Snakemake is not installed here")
    rows = planned(small_suite)
    (text,) = re.findall(r"```python\n(import json\nimport shlex.*?)```", PAGE.read_text(), re.S)
    Path("Snakefile").write_text(text)
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going"]
    done = subprocess.run(snakemake, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(Path(f"jobs/{row['job']}.done").is_file() for row in rows)
    assert small_suite.made("far")["stages_made"] == 0
    small_suite.assert_as_here("far")


def environment() -> dict[str, str]:
    paths = os.pathsep.join(search_path())
    return os.environ | {"PYTHONPATH": paths}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--profile", "p.yaml"], "--profile goes with --into FOLDER"),
        (["--into", "full"], "--into must name a new or an empty folder, got"),
        (["--into", "small.yaml"], "--into must name a new or an empty folder, got"),
        (["--into", "jobs", "--profile", "p.yaml"], "--profile p.yaml: there is no such file"),
    ],
)
def test_bad_input_is_one_line(small_suite: Any, more: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    done = CliRunner().invoke(cli, ["plan", *small_suite.options, "--store", "far", *more])
    assert done.exit_code == 2 and done.stderr.startswith(f"castlewalls: {message}")
    assert done.stderr.count("\n") == 1 and os.listdir("full") == ["mine.txt"]
