"""A tiny store with a column of each kind, and bundles of it; made once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from bench import registry
from bench.bundle import bag
from bench.bundle.submit import submit
from bench.engine.context import StageContext
from bench.engine.graph import Plan
from bench.engine.store import Store, commit
from bench.export import results_of
from bench.results import read_source
from bench.runner import prepare
from bench.stages.table import STAGES

SUITE = {
    "name": "tiny",
    "defenses": [
        {
            "name": "anp",
            "params": {"epochs": 2, "steps_per_epoch": 1, "samples": 8, "batch_size": 8},
        }
    ],
    "detectors": ["noise_shift"],
    "seeds": [0, 1],
}
DATE = "2026-01-02T03:04:05+00:00"
PROVENANCE = {
    "castlewalls": "0.1.0",
    "cpu": "a processor",
    "device": "cpu",
    "git": {"commit": "0" * 40, "dirty": False},
    "packages": {"torch": "2.4.0"},
    "python": "3.12.0",
}
PLUGIN = '''"""Shrinks the predicted clean image."""

from dataclasses import dataclass

from bench.plugin import Card, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class Shrink(SamplerDefense):
    card = Card(name="shrink", summary="shrinks the predicted clean image")

    def predicted_x0(self, predicted_x0, timestep):
        return predicted_x0 * 0.5
'''


def fill(store: Store, plan: Plan) -> None:
    """Makes every stage in this process, as a worker of its own would, and the run's account."""
    for key, stage in plan.stages.items():
        if store.finished(key):
            continue
        out = store.new_folder(key)
        out.mkdir()
        inputs = {role: store.folder(made) for role, made in stage.inputs.items()}
        context = StageContext(key=key, provenance=PROVENANCE)
        STAGES[stage.name].run(stage.params, inputs, out, context)
        commit(out, store.folder(key), {"stage": stage.name, "key": key, "params": stage.params})
    account = {"suite": plan.suite, "started": DATE, "finished": DATE, "cells": [], "metrics": []}
    (store.root / "runs" / f"{plan.suite}.json").write_text(json.dumps(account))


@pytest.fixture(scope="session")
def files(tmp_path_factory, tiny_digits) -> dict[str, Path]:
    """``suite``, ``plugin`` (in a git commit) and ``store``, in which both ran."""
    folder = tmp_path_factory.mktemp("submission")
    suite, plugin = folder / "tiny.yaml", folder / "mine" / "shrink.py"
    suite.write_text(yaml.safe_dump(SUITE | tiny_digits))
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(plugin.parent), *command], check=True)
    store = folder / "store"
    registry.use([plugin])  # this process is the worker, too
    for column in ({"defenses": ["anp", "shrink"]}, {"defenses": [], "detectors": ["noise_shift"]}):
        fill(Store(store), prepare(str(suite), plugins=[plugin], **column).plan)
    yield {"suite": suite, "plugin": plugin, "store": store}
    registry._in_use.clear()  # whatever comes next finds its own


@pytest.fixture(scope="session")
def bundles(files, tmp_path_factory) -> dict[str, Path]:
    """The bundle of each column; not to be changed. This checkout may have changes, so they are
    allowed.
    """
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: submit(
            name,
            str(files["suite"]),
            files["store"],
            plugins=[files["plugin"]],
            output=folder / name,
            dirty=True,
        ).folder
        for name in ("shrink", "anp", "noise_shift")
    }


@pytest.fixture
def copied(bundles, tmp_path):
    """``copied(name)``: a bundle to spoil."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(bundles[name], tmp_path / name))

    return copy


def _seal(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    payload = {
        name.removeprefix("data/"): data for name, data in files.items() if name.startswith("data/")
    }
    tags = {"ro-crate-metadata.json": files["ro-crate-metadata.json"]}
    info = bag._info(files[bag.INFO].decode())
    info.pop("Payload-Oxum")
    shutil.rmtree(folder)
    bag.write_bag(folder, payload, tags, info)


@pytest.fixture
def seal():
    """``seal(folder)`` makes the manifests of a spoiled bundle anew, as somebody would who knows
    how.
    """
    return _seal


@pytest.fixture
def rewrite():
    """``rewrite(folder, change)`` puts ``change(record)`` in place of every record (``None``
    removes it), consistently up to the manifest: pictures that no record has any more go too.
    """

    def put(folder: Path, change) -> None:
        (run,) = read_source(folder / "data")
        records = [(where, change(record)) for where, record in run.records]
        kept = [(where, record) for where, record in records if record is not None]
        changed = dataclasses.replace(run, records=kept, counts={"ok": len(kept)})
        for name, data in results_of(changed).items():
            (folder / "data" / name).write_bytes(data)
        named = {Path(one.path).name for _, record in kept for one in record.pictures}
        for picture in (folder / "data" / "pictures").glob("*.png"):
            if picture.name not in named:
                picture.unlink()
        _seal(folder)

    return put
