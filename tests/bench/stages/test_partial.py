"""Stages that resume inside: what was drawn before a kill is used, nothing else is, and nobody can
tell.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.artefacts.images import load_images
from bench.artefacts.probes import CLEAN_PROBE
from bench.engine import worker
from bench.engine.context import StageContext
from bench.engine.fingerprint import planned_code
from bench.engine.store import PARTIAL_DAYS, Store, commit
from bench.stages import partial
from bench.stages import table as stages
from bench.stages.partial import in_shards

KEY = "ab" * 32


class Killed(BaseException):
    """What no stage catches."""


class Drawing:
    """Draws images that say which sample they are, and may be cut short."""

    def __init__(self, folder: Path, dies_at: int | None = None) -> None:
        self.context = StageContext(key="k", partial=folder)
        self.generator: Any = SimpleNamespace(calls=0)
        self.dies_at, self.drawn = dies_at, []

    def __call__(self, indices: range, progress: Any) -> torch.Tensor:
        if self.dies_at is not None and self.dies_at in indices:
            raise Killed
        self.drawn.append(indices)
        self.generator.calls += 10 * len(indices)
        progress(1, 1, "steps")
        return (
            torch.tensor(list(indices))
            .to(torch.uint8)[:, None, None, None]
            .expand(-1, 3, 2, 2)
            .contiguous()
        )

    def all(self, count: int = 21, batch: int = 4) -> torch.Tensor:
        return in_shards(self.context, self.generator, count, batch, self)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "SHARD_IMAGES", 6)


def test_what_was_drawn_is_kept_and_the_rest_is_drawn(tmp_path: Path) -> None:
    """Nine hours of sampling end at a time limit: the next run draws what is missing, and the
    record counts all of it.
    """
    whole = Drawing(tmp_path / "none")
    with pytest.raises(Killed):
        Drawing(tmp_path / "here", dies_at=17).all()
    again = Drawing(tmp_path / "here")
    assert torch.equal(again.all(), whole.all())
    assert again.drawn == [range(16, 21)]
    # whole batches, at least as many images as declared
    assert whole.drawn == [range(0, 8), range(8, 16), range(16, 21)]
    assert again.generator.calls == whole.generator.calls == 210


@pytest.mark.parametrize("damage", ["short", "empty", "other", "foreign"])
def test_a_damaged_shard_is_drawn_again(tmp_path: Path, damage: str) -> None:
    whole = Drawing(tmp_path).all()
    path = tmp_path / "images-00000008.npz"
    data = path.read_bytes()
    if damage == "short":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        np.savez(path, images=np.zeros((3, 3, 2, 2), np.uint8), cost=np.zeros(2))
    else:
        np.savez(path, something=np.zeros(2))
    again = Drawing(tmp_path)
    assert torch.equal(again.all(), whole)
    assert again.drawn == [range(8, 16), range(16, 21)]


def test_a_small_set_is_drawn_at_once(tmp_path: Path) -> None:
    """Shards are for what takes hours; and where there is no place for them there are none."""
    drawing = Drawing(tmp_path)
    drawing.all(8)
    assert (drawing.drawn, list(tmp_path.iterdir())) == ([range(0, 8)], [])
    drawing.context.partial = None
    drawing.all(21)
    assert drawing.drawn[1:] == [range(0, 21)]


def test_the_sample_stage_resumes_to_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real stage on the real testbed, as the adversary invokes it: killed in its second shard
    and run again.
    """
    monkeypatch.setattr(partial, "SHARD_IMAGES", 16)
    settings = {
        "num_inference_steps": 2,
        "network_batch": 16,
        "triggered_samples": 40,
        "precision": "float32",
    }
    parts = ["data", "generator", "sampler", "counts"]
    params = {
        "testbed": {"name": "digits-ddpm", "params": settings, "parts": parts},
        "draws": CLEAN_PROBE.params(),
        "seed": 3,
        "defenses": [],
    }
    monkeypatch.setattr("bench.diffusion.sampling.images_of_a_batch", lambda *_: 16)

    def run(
        name: str, folder: Path | None, dies_at: int | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        (tmp_path / name).mkdir()

        def progress(done: int, total: int, what: str) -> None:
            if dies_at is not None and done >= dies_at:
                raise Killed

        context = StageContext(key="k", partial=folder, progress=progress)
        cost = stages.sample.run(params, {}, tmp_path / name, context)
        return load_images(tmp_path / name), cost

    whole = run("whole", None)
    with pytest.raises(Killed):
        run("cut", tmp_path / "partial", dies_at=20)
    assert [path.name for path in (tmp_path / "partial").iterdir()] == ["images-00000000.npz"]
    again = run("again", tmp_path / "partial")
    assert torch.equal(again[0], whole[0])
    assert again[1]["generator_calls"] == whole[1]["generator_calls"]


def test_the_store_keeps_partial_work_until_it_is_finished_or_forgotten(tmp_path: Path) -> None:
    """What another run is using stays, however old; what nobody comes back to must not fill the
    disk for ever.
    """
    store = Store(tmp_path)
    names = {"fresh": "a0", "old": "b0", "finished": "c0", "held": "d0"}
    keys = {name: start * 32 for name, start in names.items()}
    for name, key in keys.items():
        store.partial(key).mkdir(parents=True)
        (store.partial(key) / "images.npz").write_bytes(b"x")
        if name in ("old", "held"):
            past = time.time() - (PARTIAL_DAYS + 1) * 86_400
            for path in (store.partial(key) / "images.npz", store.partial(key)):
                os.utime(path, (past, past))
    made = store.new_folder(keys["finished"])
    made.mkdir()
    commit(made, store.folder(keys["finished"]), {"stage": "train", "cost": {}})
    lock = store.try_lock(keys["held"])
    store.clean()
    left = {path.name for path in (tmp_path / "partial").iterdir()}
    assert left == {keys["fresh"], keys["held"]}
    lock.release()


def test_a_stage_that_died_finds_its_work_and_leaves_none_behind(tmp_path: Path) -> None:
    """The folder outlives the failed stage's own, reaches the next try, adds its time to the cost,
    and goes with the last.
    """
    store = Store(tmp_path)
    seen: list[list[str]] = []

    def run(params: Any, inputs: Any, out: Path, context: StageContext) -> dict[str, float]:
        context.partial.mkdir(parents=True, exist_ok=True)
        seen.append(sorted(path.name for path in context.partial.iterdir()))
        (context.partial / "half").write_bytes(b"x")
        if len(seen) == 1:
            raise RuntimeError("out of memory")
        context.earlier_seconds = 1000.0
        return {}

    for _ in range(2):
        task = {
            "stage": "long",
            "alike": [],
            "key": KEY,
            "params": {},
            "inputs": {},
            "input_keys": {},
            "folder": str(store.new_folder(KEY)),
            "final": str(store.folder(KEY)),
            "provenance": {},
            "context": {"key": KEY, "partial": str(store.partial(KEY))},
        }
        answer = worker.run_stage(
            {"long": SimpleNamespace(run=run, distributed=False)}, task, lambda message: None
        )
    assert answer["ok"]
    assert answer["cost"]["seconds"] > 1000
    assert seen == [[], ["half"]]
    assert not store.partial(KEY).exists()


def test_a_gpu_stage_says_how_it_calculates(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 that is TF32 unsaid changes FID in the third digit; every manifest and record says
    what was on.
    """
    switches = {"matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
    before = [
        (module, name, getattr(module, name))
        for module in switches.values()
        for name in ("allow_tf32",)
    ]
    before += [
        (torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        for name in ("deterministic", "benchmark")
    ]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        torch.backends.cudnn.benchmark
    ) = True
    try:
        context = {"device": "cuda", "threads": 1, "plugin_files": [], "provenance": {"stage": "k"}}
        task: dict[str, Any] = {
            "stages": "bench.stages.table",
            "code": planned_code(),
            "provenance": {"git": None},
            "context": context,
        }
        worker._prepare(task)
        for provenance in (task["provenance"], task["context"]["provenance"]):
            numerics = provenance["gpu_numerics"]
            assert (
                numerics["matmul_tf32"],
                numerics["cudnn_tf32"],
                numerics["cudnn_benchmark"],
            ) == (
                False,
                False,
                False,
            )
            assert numerics["cudnn_deterministic"] is True
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        on_cpu: dict[str, Any] = {
            **task,
            "provenance": {},
            "context": {**context, "device": "cpu", "provenance": {}},
        }
        worker._prepare(on_cpu)
        assert on_cpu["provenance"] == {}
    finally:
        for module, name, value in before:
            setattr(module, name, value)
