"""The Makefile, with paths as people have them. A recorder stands in for the installed command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment that counts as set up; its command writes down its arguments, a line each."""
    (tmp_path / "v/bin").mkdir(parents=True)
    command = tmp_path / "v/bin/castlewalls"
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\n')
    command.chmod(0o755)
    (tmp_path / "v/bin/python").symlink_to(sys.executable)
    (tmp_path / "v/.castlewalls").touch()
    return tmp_path / "v"


def test_a_store_with_spaces_in_its_path_is_one_store(environment: Path, tmp_path: Path) -> None:
    """Unquoted, the run would go to another folder, and a piece of the path would be taken for a
    suite.
    """
    store = f"{tmp_path}/my dir/a store"
    done = _make("leaderboard", f"VENV={environment}", f"STORE={store}", "JOBS=2")
    assert done.returncode == 0, done.stderr
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("--store") + 1] == store and arguments[-2:] == ["--jobs", "2"]
    assert arguments[:4] == ["run", "digits-cut", "poison-cut", "sd-cut"]


@pytest.mark.parametrize("path", ["{}/my dir/v", "{}/v ", "", "{}/a\tb"])
def test_an_environment_that_make_cannot_name_is_refused_in_one_line(
    tmp_path: Path, path: str
) -> None:
    """make split the path and wrote environments into two other folders, which may have held
    something.
    """
    value = path.format(tmp_path)
    done = _make("leaderboard", f"VENV={value}", f"STORE={tmp_path}/store")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and f"VENV must be a path without spaces, got '{value}'" in line
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_is_refused(environment: Path) -> None:
    done = _make("leaderboard", f"VENV={environment}", "STORE=")
    assert done.returncode == 2 and "STORE must be a folder, got ''" in done.stderr
