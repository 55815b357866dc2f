"""Trainings that are cut short and go on: to the same bits, and not from the start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from bench.diffusion import training
from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.resuming import FILE, Checkpoints
from bench.diffusion.training import TrainingSettings, denoising_loss, train

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
#: All that a step can depend on: an average, warm-up, flips, dropped labels, dropout, pieces, rows
#: left over of an epoch.
SETTINGS = TrainingSettings(
    steps=9,
    batch_size=6,
    warmup_steps=4,
    schedule="cosine",
    optimizer="adamw",
    weight_decay=0.01,
    ema_decay=0.9,
    precision="float32",
    accumulation_steps=2,
    horizontal_flip=True,
    label_dropout=0.3,
)


def generator() -> Generator:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        num_class_embeds=11,
        dropout=0.2,
    )
    return Generator(unet.eval(), dict(CONFIG))


def rows() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(1)
    return {
        "images": torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=stream),
        "labels": torch.arange(20) % 10,
    }


def honest(
    predict: Any, batch: Any, noise: torch.Tensor, timesteps: torch.Tensor, schedule: Any
) -> torch.Tensor:
    return denoising_loss(predict, batch["images"], noise, timesteps, VariancePreserving(schedule))


def bits(model: Generator) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.unet.parameters()])


class Killed(BaseException):
    """What no stage catches."""


def cut(
    folder: Path,
    after: int,
    settings: TrainingSettings = SETTINGS,
    every: int = 2,
    beside: Any = None,
) -> None:
    def progress(done: int, total: int, what: str) -> None:
        if done == after:
            raise Killed

    with pytest.raises(Killed):
        train(
            generator(),
            rows(),
            honest,
            settings,
            0,
            progress=progress,
            checkpoints=Checkpoints(folder=folder, every=every),
            beside=beside,
        )


def go_on(
    folder: Path, settings: TrainingSettings = SETTINGS, every: int = 2
) -> tuple[Generator, list[float], list[int]]:
    model, seen = generator(), []
    torch.manual_seed(123)  # another process has another state
    checkpoints = Checkpoints(folder=folder, every=every)
    losses = train(
        model,
        rows(),
        honest,
        settings,
        0,
        progress=lambda done, total, what: seen.append(done),
        checkpoints=checkpoints,
    )
    return model, losses, seen


@pytest.fixture(scope="module")
def unbroken() -> tuple[torch.Tensor, list[float], int]:
    model = generator()
    losses = train(model, rows(), honest, SETTINGS, 0)
    return bits(model), losses, model.calls


@pytest.mark.parametrize(("after", "first"), [(1, 1), (2, 3), (5, 5), (8, 9)])
def test_a_training_that_was_cut_short_ends_in_the_same_bits(
    tmp_path, unbroken, after: int, first: int
) -> None:
    """Half a day on a GPU must not be lost to a time limit, nor bought with another generator."""
    cut(tmp_path, after)
    model, losses, seen = go_on(tmp_path)
    assert seen == list(range(first, 10))
    assert torch.equal(bits(model), unbroken[0])
    assert (losses, model.calls) == unbroken[1:]


class Sum:
    """Learns the mean of all noise so far, and leaves a gradient in the weights."""

    def __init__(self) -> None:
        self.tensors = {"mean": torch.zeros(3, 8, 8), "seen": torch.zeros(())}

    def learn(self, predict: Any, batch: Any, noise: torch.Tensor, *rest: Any) -> None:
        predict(noise, rest[0]).square().sum().backward()
        seen = self.tensors["seen"] + len(noise)
        mean = self.tensors["mean"] + (noise - self.tensors["mean"]).sum(0) / seen
        self.tensors = {"mean": mean, "seen": seen}


def test_what_is_learnt_beside_the_network_goes_on_too(tmp_path: Path, unbroken: Any) -> None:
    """To the same bits; and the network's own training does not notice, but for its dropout."""
    settings = replace(SETTINGS, accumulation_steps=1)
    whole, resumed, models = Sum(), Sum(), [generator() for _ in range(2)]
    losses = train(models[0], rows(), honest, settings, 0, beside=whole)
    cut(tmp_path, 5, settings, beside=Sum())
    checkpoints = Checkpoints(folder=tmp_path, every=2)
    torch.manual_seed(123)
    again = train(models[1], rows(), honest, settings, 0, checkpoints=checkpoints, beside=resumed)
    assert again == losses and torch.equal(bits(models[0]), bits(models[1]))
    assert all(torch.equal(one, resumed.tensors[name]) for name, one in whole.tensors.items())
    assert float(whole.tensors["seen"]) == 9 * 6


def test_a_gradient_left_by_what_is_learnt_beside_trains_nothing() -> None:
    """Without dropout, the network ends in the bits of a training on its own."""
    settings, models = replace(SETTINGS, steps=3), [generator() for _ in range(2)]
    for model, beside in zip(models, (None, Sum()), strict=True):
        for module in model.unet.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train(model, rows(), honest, settings, 0, beside=beside)
    assert torch.equal(bits(models[0]), bits(models[1]))


def test_cut_short_again_and_again(tmp_path, unbroken) -> None:
    for after in (3, 4, 5, 7):
        cut(tmp_path, after, every=1)
    model, losses, seen = go_on(tmp_path, every=1)
    assert seen == [8, 9]
    assert torch.equal(bits(model), unbroken[0])
    assert losses == unbroken[1]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_every_optimiser_and_plain_weights_go_on(tmp_path, optimizer: Any) -> None:
    """Without an average, in bfloat16, as digits are trained."""
    settings = replace(
        SETTINGS, optimizer=optimizer, ema_decay=None, precision="bfloat16", accumulation_steps=1
    )
    whole = generator()
    losses = train(whole, rows(), honest, settings, 0)
    cut(tmp_path, 6, settings)
    model, again, seen = go_on(tmp_path, settings)
    assert seen[0] == 7
    assert again == losses
    assert torch.equal(bits(model), bits(whole))


def test_loss_scaling_goes_on_where_it_was(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that starts anew would skip steps that the unbroken run took."""
    from accelerate import Accelerator

    class Scaling(Accelerator):
        def __init__(self) -> None:
            super().__init__(cpu=True)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)

    monkeypatch.setattr(training, "_accelerator", lambda settings, device: Scaling())
    whole = generator()
    train(whole, rows(), honest, SETTINGS, 0)
    cut(tmp_path, 5)
    scales = []
    original_load = Checkpoints.load
    monkeypatch.setattr(
        Checkpoints,
        "load",
        lambda *given: scales.append((loaded := original_load(*given))[1]["scaler"]) or loaded,
    )
    model, _, _ = go_on(tmp_path)
    assert scales[0]["scale"] == 2.0**9
    assert torch.equal(bits(model), bits(whole))


@pytest.mark.parametrize("change", [{"learning_rate": 1e-4}, {"steps": 10}])
def test_another_trainings_checkpoint_is_left_alone(tmp_path, change: dict[str, Any]) -> None:
    """Same folder, other settings: going on would mix two trainings."""
    cut(tmp_path, 5)
    _, _, seen = go_on(tmp_path, replace(SETTINGS, **change))
    assert seen[0] == 1


@pytest.mark.parametrize("damage", [b"", b"not tensors", None])
def test_a_damaged_checkpoint_costs_time_only(tmp_path, unbroken, damage: bytes | None) -> None:
    cut(tmp_path, 5)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    model, _, seen = go_on(tmp_path)
    assert seen[0] == 1
    assert torch.equal(bits(model), unbroken[0])


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path, unbroken) -> None:
    """SIGKILL, as from a scheduler or the out-of-memory killer, and another process goes on."""
    program = (
        f"import sys, os, signal; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_resuming as here, pathlib\n"
        "here.train(here.generator(), here.rows(), here.honest, here.SETTINGS, 0,\n"
        "    progress=lambda done, total, what: os.kill(os.getpid(), signal.SIGKILL) if done == "
        "7 else None,\n"
        f"    checkpoints=here.Checkpoints(folder=pathlib.Path({str(tmp_path)!r}), every=2))\n"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    model, losses, seen = go_on(tmp_path)
    assert seen[0] == 7
    assert torch.equal(bits(model), unbroken[0])
    assert losses == unbroken[1]
