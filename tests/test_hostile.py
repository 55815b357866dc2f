"""A folder of plugins that misbehave on purpose, each as a column of a tiny suite: whatever becomes
of it, every byte that others made is as it was.

``CASTLEWALLS_HOSTILE=FOLDER`` names the folder, a file a plugin; about half a minute each, so CI
runs what stands in tests/test_guest.py and tests/bench/engine instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.cards import Cards
from bench.errors import UserError
from bench.registry import GROUPS, Group, Registry

ROOT = Path(__file__).resolve().parents[1]
FOLDER = os.environ.get("CASTLEWALLS_HOSTILE", "")
FILES = sorted(Path(FOLDER).glob("*.py")) if FOLDER else []
OF_CLASSES = ("(DataDefense)", "(ClassifierDefense)", "(SampleDetector)", "def poison")
SUITES = {
    "noise": {
        "testbeds": [
            {
                "name": "digits-ddpm",
                "params": {"clean_samples": 32, "triggered_samples": 16, "num_inference_steps": 4},
            }
        ],
        "attacks": [
            {
                "name": "baddiffusion",
                "params": {"training_steps": 5, "poisoned_image": "trigger_only"},
            }
        ],
        "defenses": ["clip_xt"],
        "detectors": ["noise_shift"],
    },
    "classes": {
        "testbeds": [
            {
                "name": "digits-cfg",
                "params": {
                    "num_inference_steps": 2,
                    "generated_samples": 40,
                    "clean_samples": 16,
                    "judged_images": 16,
                    "test_images": 16,
                },
            }
        ],
        "attacks": [{"name": "badnets", "params": {"training_steps": 5}}],
        "defenses": ["clip_x0"],
        "detectors": ["strip"],
    },
}


def castlewalls(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )


def contents(store: Path) -> dict[str, str]:
    files = (path for path in (store / "stages").rglob("*") if path.is_file())
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both suites, run without a stranger."""
    folder = tmp_path_factory.mktemp("honest")
    for name, words in SUITES.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "seeds": [0], **words}))
        done = castlewalls("run", path, "--store", folder / name, "--no-report", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def columns(path: Path) -> list[tuple[Group, str]]:
    """The plugins of a file, or nothing if it is refused, which has to be in one line."""
    try:
        read = Cards([path])
    except UserError as error:
        assert "\n" not in str(error)
        return []
    shipped = Registry(only=())
    named = [(group, name) for group in GROUPS for name in read.names(group)]
    read.close()
    return [(group, name) for group, name in named if name not in shipped.names(group)]


@pytest.mark.skipif(not FILES, reason="CASTLEWALLS_HOSTILE names no folder of plugins")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_of_others_is_changed(path: Path, honest: Path, tmp_path: Path) -> None:
    text = path.read_text()
    suite = "classes" if any(word in text for word in OF_CLASSES) else "noise"
    for group, name in columns(path):
        store = tmp_path / f"store-{group}-{name}"
        shutil.copytree(honest / suite, store)
        before = contents(store)
        chosen = {"defenses": "none", "detectors": "none", group: name}
        options = [word for one, value in chosen.items() for word in (f"--{one}", value)]
        done = castlewalls(
            *("run", honest / f"{suite}.yaml", "--store", store, "--no-report", "--plugin", path),
            *("--timeout", 60, "--retries", 0, *options),
            cwd=tmp_path,
        )
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done.stderr
        after = contents(store)
        assert {name: after.get(name) for name in before} == before
