"""What checks a pull request that brings a bundle: the workflow has no rights, its checker is the
base branch's, and the script refuses what it must.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / ".ci" / "verify-submissions"
WORKFLOW = ROOT / ".github" / "workflows" / "submission.yml"
SUBMISSIONS = Path("results", "submissions")
CASTLEWALLS = Path(sys.executable).parent / "castlewalls"

pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file() or not WORKFLOW.is_file(), reason="not in a checkout"
)


def git(checkout: Path, *arguments: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=checkout, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose last commit has one accepted bundle."""
    folder = tmp_path / "submitted"
    folder.mkdir()
    git(folder, "init", "--quiet")
    return commit(folder, "accepted")


def commit(checkout: Path, name: str, text: str = "BagIt-Version: 1.0\n") -> Path:
    file = checkout / SUBMISSIONS / name / "bagit.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", name)
    return checkout


def checked(checkout: Path, castlewalls: Path | str = CASTLEWALLS) -> Any:
    """The script on the last commit, against the one before."""
    base = git(checkout, "rev-parse", "HEAD~1")
    output = checkout.parent / "verdicts"
    return subprocess.run(
        [SCRIPT, base, checkout, castlewalls, output], capture_output=True, text=True
    )


def test_a_bundle_that_is_none_is_refused_and_its_verdict_is_kept(checkout: Path) -> None:
    done = checked(commit(checkout, "mine-digits"))
    assert done.returncode == 1, done.stderr
    verdict = json.loads((checkout.parent / "verdicts" / "mine-digits.json").read_text())
    assert verdict["passed"] is False and "REFUSED" in done.stdout


def test_a_bundle_that_passes_passes(checkout: Path) -> None:
    """The script's part: `castlewalls verify` itself is tested in tests/bench/bundle."""
    passes = shutil.which("true")
    assert passes is not None
    assert checked(commit(checkout, "mine-digits"), passes).returncode == 0


@pytest.mark.parametrize(
    ("name", "text", "code", "line"),
    [
        ("accepted", "changed\n", 1, "accepted is there already; a new version needs a new name"),
        ("a b;c", "x\n", 1, "a bundle's name must be plain, got 'a b;c'"),
        ("-x", "x\n", 1, "a bundle's name must be plain, got '-x'"),
        ("../../docs", "x\n", 2, "nothing below results/submissions differs"),
    ],
)
def test_what_may_not_be_sent(checkout: Path, name: str, text: str, code: int, line: str) -> None:
    """Whatever the checker says: nobody changes what was accepted, and a name is a name."""
    done = checked(commit(checkout, name, text), shutil.which("true") or "true")
    assert done.returncode == code and line in done.stderr, done.stderr


def test_nobody_brings_a_statement_about_his_own_bundle(checkout: Path) -> None:
    """What lies beside an accepted bundle says to which level it was verified."""
    file = checkout / SUBMISSIONS / "accepted.svr-0123456789ab.json"
    file.write_text("{}")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "a statement")
    done = checked(checkout)
    assert done.returncode == 1 and "is no bundle" in done.stdout + done.stderr, done


def test_the_workflow_hands_out_no_rights() -> None:
    """What a stranger's branch brings is data: no token that writes, no checker of its own."""
    text = WORKFLOW.read_text()
    workflow = yaml.safe_load(text)
    assert set(workflow[True]) == {"pull_request"}  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job and "secrets" not in text
    steps = job["steps"]
    pinned = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[a-z-]+/[a-z-]+@[0-9a-f]{40}", one) for one in pinned)
    checkouts = {
        step["with"]["path"]: step["with"] for step in steps if "checkout@" in step.get("uses", "")
    }
    assert all(one["persist-credentials"] is False for one in checkouts.values())
    assert checkouts["checker"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    commands = "\n".join(step["run"] for step in steps if "run" in step)
    assert "${{" not in commands  # no text of the request becomes part of a command
    assert "submitted/" not in commands and "checker/.ci/verify-submissions" in commands


def test_the_form_asks_what_the_board_shows() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/evaluate-a-defense.yml").read_text())
    asked = {field.get("id") for field in form["body"]}
    assert {"name", "family", "paper", "access", "tuned", "claim"} <= asked
