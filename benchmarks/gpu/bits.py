"""Same bits on the same device."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from bench.diffusion import replay
from bench.engine.store import Store
from bench.errors import UserError
from benchmarks.device import NO_CUDA, Device
from benchmarks.gpu.finding import Finding, Sizes, not_measured
from benchmarks.resume import TINY
from benchmarks.subject import Subject


def same_bits(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """A tiny suite run twice, in two stores; one set of samples in batches of other sizes."""
    section = "same bits on the same device"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.yaml"
        file.write_text(yaml.safe_dump(TINY))
        stores = [Store(Path(folder) / name) for name in ("first", "second")]
        for store in stores:
            _run(device, file, store.root)
        different, compared = differences(*stores)
    yield Finding(
        section=section,
        quantity=f"a suite run twice: files that differ, of {compared}",
        values=(float(len(different)),),
        note=", ".join(different[:3]),
    )
    subject, settings = Subject.make(), sizes.settings()
    generator = subject.testbed.base_generator().to(device.name)

    def drawn(batch: int, **changes: Any) -> Tensor:
        some = replace(settings, batch_size=batch)
        return subject.sample(generator, some, 16 // batch, lambda *_: None, **changes)

    usual = drawn(16, network_batch=8)
    yield Finding(
        section=section,
        quantity="samples drawn 16 or 8 at a time: the largest difference",
        values=(float((usual - drawn(8, network_batch=8)).abs().max()),),
        note="promised: 0",
    )
    yield Finding(
        section=section,
        quantity="network_batch 8 or 16: the largest difference",
        values=(float((usual - drawn(16, network_batch=16)).abs().max()),),
        note="part of the protocol: not promised to be 0",
    )

    yield from _replayed(device, sizes, subject)


def _replayed(device: Device, sizes: Sizes, subject: Subject) -> Iterator[Finding]:
    """Samples and a training's losses, kernel by kernel and as CUDA graphs."""
    section = "same bits on the same device"
    words = "CUDA graphs or kernel by kernel: the largest difference of"
    if not device.cuda:
        for what in ("samples", "losses"):
            yield not_measured(section, f"{words} {what}", NO_CUDA)
        return
    settings = replace(sizes.settings(), batch_size=64)

    def samples() -> Tensor:
        generator = subject.testbed.base_generator().to(device.name)
        return subject.sample(generator, settings, 1, lambda *_: None)

    def losses() -> Tensor:
        generator = subject.testbed.base_generator()
        values = subject.train(generator, settings, 20, lambda *_: None, device=device.name)
        return torch.tensor(values, dtype=torch.float64)

    for what, make in (("samples", samples), ("losses of 20 steps", losses)):
        graphs = make()
        with patch.object(replay, "LARGEST", 0):
            plain = make()
        yield Finding(
            section=section,
            quantity=f"{words} {what}",
            values=(float((graphs - plain).abs().max()),),
            note="promised: 0",
        )


def _run(device: Device, suite: Path, store: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", str(suite), "--device", device.name]
    command += ["--store", str(store), "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")


def differences(first: Store, second: Store) -> tuple[list[str], int]:
    """The files of all stages but records and model cards, which have times in them, that are not
    equal to the last byte in two stores, and how many were compared.
    """
    theirs = {manifest["key"]: manifest for manifest in second.manifests()}
    different, compared = [], 0
    for manifest in first.manifests():
        if manifest["stage"] in ("record", "measure"):
            continue
        for name, digest in manifest["files"].items():
            if name.endswith((".json", ".md", ".log", "log.txt")):
                continue
            compared += 1
            other = theirs.get(manifest["key"], {"files": {}})["files"].get(name)
            if other != digest:
                different.append(f"{manifest['stage']}/{name}")
    return different, compared
