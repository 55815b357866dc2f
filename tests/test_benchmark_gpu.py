"""The benchmark of a GPU's path where there is none: what is measured is measured, and what is not
says so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu
from benchmarks.device import NO_CUDA, Device
from benchmarks.gpu import bits
from benchmarks.gpu.finding import Finding, Sizes, not_measured
from benchmarks.gpu.packing import together
from benchmarks.gpu.published import cases, generator_of


@pytest.fixture
def cpu() -> Device:
    return Device("cpu")


@pytest.fixture
def sizes(cpu: Device) -> Sizes:
    return replace(Sizes.of(cpu), repetitions=1, steps=2, batch=2, batches=(1, 2), images=1)


class Folder:
    """A store's manifests."""

    def __init__(self, **files: dict[str, str]) -> None:
        self.files = files

    def manifests(self) -> list[dict[str, object]]:
        return [
            {"key": key, "stage": key.rstrip("0123456789"), "files": files}
            for key, files in self.files.items()
        ]


def test_two_runs_are_compared_file_by_file() -> None:
    """A file that is missing differs too; times, in records and logs, are no difference."""
    first = Folder(
        sample1={"images.npz": "a", "log.txt": "b"},
        train1={"w.safetensors": "c"},
        record1={"x.npz": "d"},
    )
    assert bits.differences(first, first) == ([], 2)
    other = Folder(sample1={"images.npz": "z", "log.txt": "y"}, record1={"x.npz": "e"})
    changed = ["sample/images.npz", "train/w.safetensors"]
    assert bits.differences(first, other) == (changed, 2)


def test_loops_are_compared_in_every_precision(cpu: Device, sizes: Sizes) -> None:
    """float16 has no CPU path that trains: it has no number there, and a reason."""
    rows = {one.quantity: one for one in gpu.loops(cpu, sizes)}
    for what in ("training", "sampling"):
        for precision in ("float32", "bfloat16"):
            ours, plain, ratio = (
                rows[f"{what} step, {precision}, {name}"].values[0]
                for name in ("ours", "plain", "plain / ours")
            )
            assert ratio == pytest.approx(ours / plain)  # rates, so the other way around
        assert rows[f"{what} step, float16"].note == f"not measured: {NO_CUDA}"
        assert rows[f"{what} step, float16"].values == ()


def test_what_only_a_gpu_has_is_not_pretended(cpu: Device, sizes: Sizes) -> None:
    findings = [*gpu.network(cpu, sizes), *gpu.memory(cpu, sizes), *gpu.share(cpu, sizes)]
    missing = [one.quantity for one in findings if not one.values]
    assert len(missing) == 2 + 5
    assert all(one.note == f"not measured: {NO_CUDA}" for one in findings if not one.values)
    measured = [one for one in findings if one.values]
    assert min(value for one in measured for value in one.values) > 0
    with pytest.raises(RuntimeError, match=NO_CUDA):
        cpu.captured(lambda: torch.zeros(1))
    assert "no CUDA device" in cpu.describe()


def test_what_a_testbed_may_compile_is_timed_compiled_too(sizes: Sizes) -> None:
    """Beside itself without, in words that say so, and by the generator that stages get."""
    declared = cases(Device("cuda"), sizes)
    compiled = [one for one in declared if one.compiled]
    assert {one.name for one in compiled} == {"cifar10-ddpm", "celebahq-ddpm", "cifar10-cfg"}
    assert all(replace(one, compiled=False) in declared for one in compiled)
    assert all(one.words == f"{one.name}, compiled" for one in compiled)
    (case,) = cases(Device("cpu"), sizes)
    assert not generator_of(case, Device("cpu")).compiled
    assert generator_of(replace(case, compiled=True), Device("cpu")).compiled


def test_published_networks_have_a_rate_and_operations_a_second(cpu: Device, sizes: Sizes) -> None:
    """Operations a second are images a second times what is counted for one: the same unit that
    ``cost`` divides by.
    """
    measured = [*gpu.published(cpu, sizes)]
    assert [one.unit for one in measured] == ["images/s", "TFLOP/s"] * 2
    for rate, speed in zip(measured[::2], measured[1::2], strict=True):
        gigaflops = float(speed.quantity.split("of ")[-1].split()[0].replace(",", ""))
        ratio = speed.values[0] / rate.values[0]
        assert ratio == pytest.approx(gigaflops / 1000, abs=0.06 / 1000)


def test_processes_sample_at_once(sizes: Sizes) -> None:
    rate, peak = together(1, sizes)
    assert rate > 0
    assert peak > 0


def test_the_command_prints_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = [
        Finding(section="memory", quantity="a", unit="GiB", values=(3.0, 1.0, 2.0)),
        not_measured("memory", "b", NO_CUDA),
    ]
    monkeypatch.setattr(gpu, "SECTIONS", {"memory": lambda device, sizes: rows})
    monkeypatch.setattr(gpu, "exact_float32", lambda: None)  # other tests keep torch's switches
    done = CliRunner().invoke(gpu.main, ["memory"])
    assert done.exit_code == 0, done.output
    assert "| a | 2 | 1 to 3 | GiB |  |" in done.stdout
    assert "| b |  |  |  | not measured: no CUDA device |" in done.stdout
    assert done.stdout.startswith("Measured on: CPU: there is no CUDA device")
    document = json.loads(CliRunner().invoke(gpu.main, ["memory", "--json"]).stdout)
    assert document["findings"][0]["values"] == [3.0, 1.0, 2.0]
