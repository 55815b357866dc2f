"""Our own code, edited while a run goes on: no result of the new stands under a key of the old."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.engine import fingerprint
from bench.errors import UserError

#: A run in a checkout of its own, which each stage says how to edit.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
from bench.engine.context import StageKind
ROOT = Path(importlib.import_module("bench.engine.fingerprint").ROOT)

def run(params, inputs, out, context):
    if params["edit"]:
        with (ROOT / "bench/metrics/manifold.py").open("a") as file:
            file.write("# edited\\n")
    importlib.import_module(params["needs"])
    (out / "value.txt").write_text("1")

STAGES = {"stage": StageKind(run=run)}

if __name__ == "__main__":
    from bench.engine.executor import Executor
    from bench.engine.graph import Stage
    from bench.engine.progress import Reporter
    from bench.engine.slots import make_slots
    from bench.engine.store import Store
    stages, above = {}, {}
    for edit, needs in json.loads(sys.argv[2]):
        stage = Stage(name="stage", params={"edit": edit, "needs": needs}, inputs=above)
        stages[stage.key], above = stage, {"above": stage.key}
    store = Store(sys.argv[1])
    executor = Executor(store, make_slots("cpu", 1), Reporter(), stages=__file__)
    failures = executor.run(stages, list(stages))
    print(json.dumps([failures[key].reason if key in failures else "" for key in stages]))
"""


@pytest.fixture
def checkout(tmp_path):
    for room in fingerprint.RUN:
        shutil.copytree(
            fingerprint.ROOT / room,
            tmp_path / "checkout" / room,
            ignore=shutil.ignore_patterns("assets", "__pycache__"),
        )
    return tmp_path / "checkout"


def reasons(checkout, *stages):
    """Why each of a chain of stages failed. ``stages``: whether it edits, and what it imports."""
    script = checkout.parent / "stages.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, checkout.parent / "store", json.dumps(stages)],
        env=os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal(checkout):
    return (
        f"castlewalls in {checkout} was changed after this run was planned; run the same command "
        f"again"
    )


def test_a_stage_after_an_edit_is_refused(checkout):
    """After `git pull` during a run of hours, numbers of the new code would be kept for ever under
    keys that say the old; what was begun before is kept.
    """
    first, second = reasons(checkout, (True, "json"), (False, "json"))
    assert first == "" and second == refusal(checkout)


def test_a_stage_that_imports_an_edited_module_is_refused(checkout):
    """A module that a worker imports on first use is the edited one, in a process of the old."""
    assert reasons(checkout, (True, "bench.metrics.manifold")) == [refusal(checkout)]


def test_files_written_again_with_the_same_text_are_the_same_code(checkout, monkeypatch):
    """Whoever changes branch and back would lose the run; and an edit must still be noticed."""
    monkeypatch.setattr(fingerprint, "ROOT", checkout)
    planned = fingerprint.code_of_all(), fingerprint._state_of_all()
    file = Path(checkout / "bench/metrics/manifold.py")
    os.utime(file, (1, 1))
    fingerprint.refuse_other_code(planned)
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match="was changed after this run was planned"):
        fingerprint.refuse_other_code(planned)
