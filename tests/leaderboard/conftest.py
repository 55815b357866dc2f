"""A synthetic store of realistic records: one testbed, no attack and two attacks, none and four defenses, three seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.engine.record import Metric, PluginSpec, Record

TESTBED = PluginSpec(
    name="digits_ddpm",
    params={"sampler": "ddpm", "num_inference_steps": 100, "clip": "none", "clean_samples": 512, "triggered_samples": 128},
    label="digits-ddpm",
)
HAT = PluginSpec(
    name="baddiffusion",
    params={"trigger": "grey_box", "target": "hat", "poison_rate": 0.1},
    label="baddiffusion(trigger=grey_box, target=hat, poison_rate=0.1)",
)
CORNER = PluginSpec(
    name="baddiffusion",
    params={"trigger": "stop_sign", "target": "corner", "poison_rate": 0.1},
    label="baddiffusion(trigger=stop_sign, target=corner, poison_rate=0.1)",
)
NONE = PluginSpec(name="none")
DEFENSES = (
    ("control", NONE),
    ("sampler", PluginSpec(name="clip_x0")),
    ("sampler", PluginSpec(name="clip_xt")),
    ("model", PluginSpec(name="finetune", params={"steps": 200}, label="finetune(steps=200)")),
    ("inversion", PluginSpec(name="anp", params={"learning_rate": 0.0001, "epochs": 8})),
)
PROTOCOL = "8b1f0c2d9e3a4756"
VACUOUS = "vacuous field threshold: clean or constant images pass mse < 0.1"
#: (ASR, FID) by defense, before noise.
EFFECT = {"none": (0.84, 2.85), "clip_x0": (0.01, 2.94), "clip_xt": (0.02, 3.6), "finetune": (0.46, 2.5)}
FID, KID = "fid[digits-cnn]", "kid[digits-cnn]"


def picture(path: Path, rng: np.random.Generator, count: int) -> None:
    pixels = rng.integers(0, 255, (16, 16 * count, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def sample_metrics(rng: np.random.Generator, defense: str, attacked: bool, seed: int) -> dict[str, Metric]:
    asr, fid = EFFECT[defense]
    asr = asr if attacked else 0.0
    fid = (fid if attacked else fid - 1.1) + 0.05 * seed + 0.04 * rng.standard_normal()
    asr = float(np.clip(asr + 0.02 * rng.standard_normal(), 0, 1))
    metrics = {
        FID: Metric(value=fid, ci_low=fid - 0.2, ci_high=fid + 0.2, n=512, higher_is_better=False),
        KID: Metric(value=fid / 300, n=512, higher_is_better=False),
        "mse[constant]": Metric(value=0.0216, n=1),
        "asr_threshold": Metric(value=0.0108, n=360),
    }
    for role, rate in (("noise", asr), ("image", asr * 0.6), ("clean", 0.004)):
        mse = 0.008 + 0.118 * (1 - rate) + 0.002 * rng.random()
        metrics[f"asr[{role}]"] = Metric(
            value=rate, ci_low=max(0, rate - 0.06), ci_high=min(1, rate + 0.06), n=128, higher_is_better=False
        )
        metrics[f"asr_field[{role}]"] = Metric(value=min(1, rate + 0.1), n=128, higher_is_better=False)
        metrics[f"mse[{role}]"] = Metric(value=mse, ci_low=mse * 0.95, ci_high=mse * 1.05, n=128, higher_is_better=True)
        metrics[f"ssim[{role}]"] = Metric(value=min(1, 0.05 + 0.9 * rate), n=128, higher_is_better=False)
    return metrics


def inversion_metrics(rng: np.random.Generator) -> tuple[dict[str, Metric], dict[str, list[float]]]:
    curve = [float(value) for value in 0.12 * np.exp(-np.arange(8) / 5) + 0.01 * rng.random(8)]
    metrics = {
        "inversion_mse_best": Metric(value=min(curve), n=64, higher_is_better=False),
        "inversion_mse_last": Metric(value=curve[-1], n=64, higher_is_better=False),
        "inversion_mse_black": Metric(value=0.106, n=1),
        "mse[constant]": Metric(value=0.0216, n=1),
    }
    return metrics, {"inversion_mse": curve, "inversion_epoch": [float(epoch) for epoch in range(1, 9)]}


def provenance(seed: int) -> dict[str, Any]:
    return {
        "castlewalls": "0.1.0",
        "git": {"commit": "4f1c2d9a0b7e6f5d4c3b2a190817263544536271", "dirty": True},
        "packages": {"torch": "2.14.0", "diffusers": "0.42.0", "numpy": "2.4.6"},
        "device": "cpu",
        "cpu": "Example CPU @ 2.40GHz",
        "threads": 2,
        "inputs": {"samples": f"{seed:02x}" * 16},
    }


def outcome(folder: Path, record: Record) -> tuple[Path, Record]:
    """The record with numbers and pictures, or the way this cell went wrong."""
    target, defense, seed = record.probe or record.attack, record.defense.name, record.seed
    rng = np.random.default_rng([seed, *map(ord, target.label + defense)])
    if defense == "finetune" and record.attack is CORNER and seed == 1:
        failure = {"reason": "finetune: loss is NaN at step 12", "trace": "Traceback:\n  step 12\nValueError: NaN"}
        return folder, dataclasses.replace(record, status="failed", **failure)
    if defense == "clip_xt" and record.attack is CORNER:
        return folder, dataclasses.replace(record, status="failed", reason="out of memory: 5.1 GiB asked, 4 GiB allowed")
    if defense == "anp" and record.attack is NONE:
        return folder, dataclasses.replace(record, status="skipped", reason="an honest model has no target to invert")
    folder.mkdir(parents=True)
    pictures = {}
    strips = (("target", 1), ("trigger", 1), ("clean noise, no defense", 8), (f"triggered noise (e + g), {defense}", 8))
    for index, (name, count) in enumerate(strips):
        picture(folder / f"strip-{index}.png", rng, count)
        pictures[name] = f"strip-{index}.png"
    series: dict[str, list[float]] = {}
    if record.kind == "inversion":
        metrics, series = inversion_metrics(rng)
    else:
        metrics = sample_metrics(rng, defense, record.attack is not NONE, seed)
    return folder, dataclasses.replace(
        record,
        metrics=metrics,
        series=series,
        pictures=pictures,
        provenance=provenance(seed),
        flags=(VACUOUS,) if target is CORNER else (),
        cost={"seconds": 12.5 + seed, "peak_memory_bytes": 1.2e9, "generator_calls": 76800, "attack_seconds": 61.0},
    )


def make_records(folder: Path) -> list[tuple[Path, Record]]:
    found = []
    for seed in range(3):
        shared: dict[str, Any] = {"testbed": TESTBED, "seed": seed, "status": "ok", "protocol": PROTOCOL}
        for attack, probe in ((HAT, None), (CORNER, None), (NONE, HAT), (NONE, CORNER)):
            for kind, defense in DEFENSES:
                record = Record(attack=attack, probe=probe, defense=defense, kind=kind, **shared)
                found.append(outcome(folder / f"{len(found):03d}", record))
        for name, fid in (("real_images", 0.09), ("base_model", 1.67)):
            metrics = {FID: Metric(value=fid + 0.01 * seed, n=512, higher_is_better=False)}
            anchor = Record(attack=PluginSpec(name=name), defense=NONE, kind="anchor", metrics=metrics, **shared)
            place = folder / f"{len(found):03d}"
            place.mkdir(parents=True)
            found.append((place, anchor))
    return found


def write_store(store: Path, change: Callable[[Record], Record] = lambda record: record, suite: str = "digits") -> Path:
    """The records as the engine leaves them: files for what was measured, inline for what failed or was skipped."""
    cells = []
    for folder, record in make_records(store / "records"):
        record = change(record)
        if record.status == "ok":
            (folder / "record.json").write_text(record.to_json())
            cells.append({"record": str((folder / "record.json").relative_to(store))})
        else:
            cells.append({"inline": json.loads(record.to_json())})
    counts = {"ok": 0, "failed": 0, "skipped": 0, "pending": 0}
    run = {
        "suite": suite, "description": "BadDiffusion against clipping, fine-tuning and neuron pruning on real digits.",
        "started": "2026-11-21T09:00:00+00:00", "finished": "2026-11-21T09:11:40+00:00", "counts": counts, "cells": cells,
    }  # fmt: skip
    (store / "runs").mkdir(parents=True)
    (store / "runs" / f"{suite}.json").write_text(json.dumps(run))
    return store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    return write_store
