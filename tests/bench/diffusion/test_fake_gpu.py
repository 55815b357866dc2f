"""What runs on a GPU, driven by tensors with a CUDA device and no numbers: a part left behind on
the CPU is an error there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import testbeds
from bench.diffusion import training
from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings, denoising_loss, train

#: One of every kind of generator: unconditional, asked for classes, asked by prompts.
KINDS = ("digits-ddpm", "digits-cfg", "digits-sd")
SETTINGS = TrainingSettings(steps=2, batch_size=8, precision="float32", ema_decay=0.9)


def parts(generator: Generator) -> dict[str, torch.nn.Module]:
    """Every network of a generator, by its name there."""
    return {
        name: value for name, value in vars(generator).items() if isinstance(value, torch.nn.Module)
    }


class OnTheGPU(Accelerator):
    """One that takes a GPU for granted. The backward pass needs its driver: here every weight gets
    a gradient like itself.
    """

    @property
    def device(self) -> torch.device:
        return torch.device("cuda:0")

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        assert loss.device == self.device and loss.requires_grad
        for optimizer in self._optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.ones_like(parameter)


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in here happens on ``cuda:0``, without a GPU."""

    def accelerator(settings: TrainingSettings, device: str) -> Accelerator:
        assert device == "cuda"
        # What has no numbers cannot be moved twice, and train has moved it.
        return OnTheGPU(cpu=True, device_placement=False)

    monkeypatch.setattr(training, "_accelerator", accelerator)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1.0)  # nothing there to read
    overwrote = torch.__future__.get_overwrite_module_params_on_conversion()
    # a parameter's numbers cannot become none
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrote)


def train_there(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: TrainingSettings = SETTINGS,
    **changes: Any,
) -> Generator:
    testbed = testbeds.build(name, {})
    generator = testbed.base_generator()
    rows = {"images": testbed.data.train_images()[:64], "labels": torch.arange(64) % 10}
    assert len(generator.schedule) == 1000  # read here: there are numbers in it
    seen: list[torch.device] = []

    def loss(predict, batch, noise, timesteps, schedule):
        seen.extend(value.device for value in (batch["images"], noise, timesteps))
        return denoising_loss(
            predict, batch["images"], noise, timesteps, VariancePreserving(schedule)
        )

    with fake_gpu(monkeypatch):
        train(generator, rows, loss, replace(settings, **changes), 0, device="cuda")
    assert {device.type for device in seen} == {"cuda"}
    return generator


@pytest.mark.parametrize("name", KINDS)
def test_every_part_of_a_generator_is_trained_on_the_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoencoder or a text encoder left on the CPU ends a training at its first step, after
    hours of waiting for a GPU.
    """
    generator = train_there(name, monkeypatch, label_dropout=0.1 if name != "digits-ddpm" else 0.0)
    devices = {
        f"{part}.{key}": value.device.type
        for part, network in parts(generator).items()
        for key, value in [*network.named_parameters(), *network.named_buffers()]
    }
    assert devices
    assert [key for key, device in devices.items() if device != "cuda"] == []


def test_stable_diffusion_attends_by_the_fused_kernel_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain attention over 4096 places takes 2 GB a layer and image at 512 x 512; on a CPU it is
    the faster one.
    """
    generator = testbeds.build("digits-sd", {}).base_generator()
    assert isinstance(generator, TextToImage)
    assert {type(one).__name__ for one in generator.unet.attn_processors.values()} == {
        "AttnProcessor"
    }
    trained = train_there("digits-sd", monkeypatch)
    assert {type(one).__name__ for one in trained.unet.attn_processors.values()} == {
        "AttnProcessor2_0"
    }


@pytest.mark.parametrize("name", KINDS)
def test_pieces_and_recomputed_activations_run_on_the_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lowers a testbed's memory takes both at once."""
    train_there(name, monkeypatch, accumulation_steps=2, gradient_checkpointing=True)


def test_a_part_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretended GPU refuses what a real one does; otherwise the tests above would show
    nothing.
    """

    def left_behind(self: TextToImage, device: Any) -> TextToImage:
        self.unet.to(device)
        return self

    monkeypatch.setattr(TextToImage, "to", left_behind)
    with pytest.raises(RuntimeError, match="cpu"):
        train_there("digits-sd", monkeypatch)
