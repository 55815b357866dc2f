"""Training a generator: one loop for honest and compromised models alike, on a CPU, a GPU, or many through accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.lora import add_adapters, fuse_adapters
from bench.diffusion.noise import torch_stream
from bench.diffusion.schedule import Schedule

Rows = Mapping[str, Tensor]
PredictNoise = Callable[[Tensor, Tensor], Tensor]
#: (predict_noise, rows, noise, timesteps, schedule) -> scalar
Loss = Callable[[PredictNoise, Rows, Tensor, Tensor, Schedule], Tensor]
Progress = Callable[[int, int, str], None]

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """``steps`` optimiser steps of ``batch_size`` rows in all (over all devices and accumulation steps).

    ``schedule``: of the learning rate, after ``warmup_steps`` of linear warm-up. ``ema_decay``: ``None`` for the raw weights.
    ``precision``: of the network's forward and backward; schedules, loss and optimiser stay float32.
    ``label_dropout``: how often a class-conditional generator is shown the null label instead of a row's own (classifier-free
    guidance, Ho and Salimans 2022, arXiv 2207.12598). ``lora_rank``: of the adapters that are trained in the place of the network
    (:mod:`bench.diffusion.lora`); ``None``: the network itself is.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    accumulation_steps: int = 1
    horizontal_flip: bool = False
    label_dropout: float = 0.0
    lora_rank: int | None = None


def denoising_loss(predict_noise: PredictNoise, images: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """DDPM's simple loss: mean over rows and pixels of (e - e_theta(A x_0 + s e, t))^2 (Ho et al. 2020, eq. 14).

    images: (n, c, h, w) in [-1, 1]; noise: alike, standard normal; timesteps: (n,) int64 in 0..T-1.
    """
    noisy = schedule.at(schedule.signal, timesteps, images) * images + schedule.at(schedule.noise, timesteps, images) * noise
    return (predict_noise(noisy, timesteps) - noise).square().mean()


def learning_rate_factor(settings: TrainingSettings, step: int) -> float:
    """What multiplies the learning rate at ``step``: linear warm-up, then the schedule, in [0, 1]."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "one_cycle" and share < 0.1:
        return 0.04 + 0.96 * share / 0.1
    share = (share - 0.1) / 0.9 if settings.schedule == "one_cycle" else share
    return 0.5 * (1 + math.cos(math.pi * share))


def train(
    generator: Generator,
    rows: Rows,
    loss: Loss,
    settings: TrainingSettings,
    seed: int,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[float]:
    """Trains ``generator`` in place; returns the loss of every step.

    ``rows``: tensors of equal length, ``images`` uint8 (n, c, h, w) among them, which ``loss`` sees in [-1, 1]. Rows are drawn without
    replacement within an epoch. A class-conditional generator is told the batch's ``labels``, behind ``loss``'s back.
    Batches, timesteps and noise come from the seed's own streams. Raises ``FloatingPointError`` if the loss stops being finite.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(mixed_precision=_PRECISION[settings.precision], cpu=device == "cpu")
    schedule, network = generator.schedule, generator.unet
    if settings.lora_rank is not None:
        add_adapters(network, settings.lora_rank, seed)
    network.to(accelerator.device, memory_format=torch.channels_last).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    make = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizer = make(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    wrapped, optimizer = accelerator.prepare(network, optimizer)
    average = [parameter.detach().clone() for parameter in trained] if settings.ema_decay else None

    labels: Tensor | None = None  # of the batch at hand

    def predict_noise(x: Tensor, timesteps: Tensor) -> Tensor:
        generator.calls += len(x)
        x = x.contiguous(memory_format=torch.channels_last)
        prediction: Tensor = wrapped(x, timesteps, **generator.condition(labels)).sample
        return prediction.float()

    # Each process draws its own share of a batch; one process draws all of it.
    share = settings.batch_size // (settings.accumulation_steps * accelerator.num_processes)
    draw = torch_stream(seed, "training", accelerator.process_index)
    order, losses = torch.empty(0, dtype=torch.int64), []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(settings, step)
        total = 0.0
        for _ in range(settings.accumulation_steps):
            while len(order) < share:
                order = torch.cat([order, torch.randperm(len(rows["images"]), generator=draw)])
            chosen, order = order[:share], order[share:]
            batch = {name: values[chosen].to(accelerator.device) for name, values in rows.items()}
            batch["images"] = to_unit_range(batch["images"])
            if settings.horizontal_flip:
                flip = torch.rand(share, 1, 1, 1, generator=draw).to(accelerator.device) < 0.5
                batch["images"] = torch.where(flip, batch["images"].flip(-1), batch["images"])
            with accelerator.autocast():
                batch["images"] = generator.encode(batch["images"], draw)
            if generator.classes is not None:
                labels = batch["labels"]
                if settings.label_dropout:
                    dropped = (torch.rand(share, generator=draw) < settings.label_dropout).to(accelerator.device)
                    labels = torch.where(dropped, generator.classes, labels)
            noise = torch.randn(batch["images"].shape, generator=draw).to(accelerator.device)
            timesteps = torch.randint(len(schedule), (share,), generator=draw).to(accelerator.device)
            value = loss(predict_noise, batch, noise, timesteps, schedule) / settings.accumulation_steps
            accelerator.backward(value)
            total += value.item()
        if not math.isfinite(total):
            raise FloatingPointError(f"the training loss became {total} at step {step}")
        accelerator.clip_grad_norm_(wrapped.parameters(), settings.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        if average is not None and settings.ema_decay:
            # Short runs must forget their start: the decay grows to its value over the first steps.
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(average, [parameter.detach() for parameter in trained], 1 - decay)
        if progress:
            progress(step + 1, settings.steps, "training steps")
    if average is not None:
        with torch.no_grad():
            for parameter, value in zip(trained, average, strict=True):
                parameter.copy_(value)
    generator.unet = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False).eval()
    if settings.lora_rank is not None:
        fuse_adapters(generator.unet)
    accelerator.free_memory()
    return losses
