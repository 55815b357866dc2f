"""docs/submit.md as a newcomer walks it: castlewalls is installed from its wheel, no checkout is at
hand, and every command is a process of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "submit.md"
NOT_SHIPPED = (".*", "store", "site", "build", "*.egg-info", "__pycache__", "tests", "benchmarks")
#: In place of the shipped one, which takes an hour, with what `tiny_digits` has.
SUITE = {
    "name": "digits",
    "defenses": ["clip_x0"],
    "detectors": [],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it, and our dependencies where they are."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *build, "-w", folder, folder / "source"], check=True)
    shutil.rmtree(folder / "source")
    made = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    (wheel,) = folder.glob("castlewalls-*.whl")
    install = ["--python", made / "bin" / "python", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *install, wheel], check=True)
    (installed,) = made.glob("lib/python*/site-packages")
    # A line is a folder on the path; that folder's own .pth files, the checkout's among them, are
    # not read.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (installed / "dependencies.pth").write_text("\n".join(sorted(others)))
    return made


@pytest.fixture
def walk(environment, tmp_path):
    """Runs one line of the page in a new folder; gives what it printed."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    author = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada L."), ("EMAIL", "ada@example.org"))
    }
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    editor = "sed -i s/FILL.IN/Mine/g"
    variables = outside | author | {"PATH": path, "HOME": str(tmp_path), "EDITOR": editor}
    work = tmp_path / "work"
    work.mkdir()

    def step(line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=work, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    return step


@pytest.mark.timeout(900)
def test_the_page_works_as_it_is_written(environment, walk, tiny_digits, tmp_path) -> None:
    (block, *_) = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    bench = Path(walk("python -c 'import bench; print(bench.__path__[0])'").strip())
    assert bench.is_relative_to(environment)
    (bench / "suites" / "digits.yaml").write_text(yaml.safe_dump(SUITE | tiny_digits))
    # A board of every suite is built in tests of the site; here it is of what this walk publishes.
    shutil.rmtree(bench / "published")
    printed = {}
    for line in block.splitlines():
        printed[line] = walk(line)
        verb = shlex.split(line)[1]
        if verb == "run":  # what the project would have published: the controls, and its own column
            walk("castlewalls run digits --no-report")
            walk(f"castlewalls export digits --output {bench / 'published'}")
    verified, again = (text for line, text in printed.items() if "verify" in line)
    assert "level 2 of 3 is reached" in verified and "level 3 of 3 is reached" in again
    board = (tmp_path / "work" / "report.html").read_text()
    assert "Submitted as the bundle mine-digits, verified to level 2 of 3." in board
