"""Peaks of memory beside what is calculated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from bench.diffusion.precision import autocast
from bench.diffusion.training import TrainingSettings
from bench.testbeds import load
from benchmarks.architectures import STABLE_DIFFUSION
from benchmarks.device import NO_CUDA, Device
from benchmarks.gpu.finding import Finding, Sizes, not_measured
from benchmarks.gpu.network import Passes
from benchmarks.outline import ATTENTIONS, FUSED, GIB, sampling, set_attention, training


def memory(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The peak of a forward and backward pass beside what is calculated, and Stable Diffusion."""
    for precision in ("float32", "bfloat16"):
        device.forget_peak()
        passes = Passes(sizes.architecture, device, sizes.images, precision)
        passes.both()
        peak, what = device.peak()
        settings = TrainingSettings(steps=1, batch_size=sizes.images, precision=precision)
        calculated = training(sizes.architecture, settings)
        weights = sum(weight.numel() for weight in passes.networks.unet.parameters()) * 4
        yield Finding(
            section="memory",
            quantity=f"forward and backward of {sizes.images} images, {precision}",
            unit="GiB",
            values=(peak,),
            note=f"measured, {what}; calculated for tensors: weights {weights / GIB:.2f}, kept for "
            f"backward {calculated.kept / GIB:.2f}",
        )
        del passes
    yield from _stable_diffusion(device)


def _stable_diffusion(device: Device) -> Iterator[Finding]:
    """At the declared shapes, with random weights: a training step with and without gradient
    checkpointing, and a call of sampling with each kind of attention.
    """
    testbed = load("imagenette-sd")
    declared = replace(testbed.training_settings("finetune"), steps=1)
    for again in (False, True):
        quantity = f"Stable Diffusion, training, gradient_checkpointing: {str(again).lower()}"
        if not device.cuda:
            yield not_measured("memory", quantity, NO_CUDA)
            continue
        settings = replace(declared, gradient_checkpointing=again)
        estimate = training(STABLE_DIFFUSION, settings)
        step = partial(_sd_step, device, settings)
        yield _peak_of(device, quantity, estimate.peak, step)
    sampler = testbed.sampler.settings()
    for attention in ATTENTIONS:
        quantity = f"Stable Diffusion, sampling, attention {attention}"
        if not device.cuda:
            yield not_measured("memory", quantity, NO_CUDA)
            continue
        estimate = sampling(
            STABLE_DIFFUSION,
            sampler.precision,
            sampler.network_batch,
            attention=attention,
            decoded=False,
        )

        def draw(attention: str = attention) -> None:
            passes = Passes(STABLE_DIFFUSION, device, sampler.network_batch, sampler.precision)
            if attention != FUSED:
                set_attention(passes.networks.unet, attention)
            passes.forward()

        yield _peak_of(device, quantity, estimate.peak, draw)


def _peak_of(device: Device, quantity: str, calculated: int, run: Callable[[], object]) -> Finding:
    device.forget_peak()
    try:
        run()
        device.synchronize()
    except torch.OutOfMemoryError:
        words = f"out of memory, where {calculated / GIB:.1f} GiB were calculated"
        return not_measured("memory", quantity, words)
    return Finding(
        section="memory",
        quantity=quantity,
        unit="GiB",
        values=(device.peak()[0],),
        note=f"measured; calculated: {calculated / GIB:.1f}",
    )


def _sd_step(device: Device, settings: TrainingSettings) -> None:
    """A step of the optimiser, two pieces of a batch: the second meets the first's gradients."""
    pieces = settings.accumulation_steps
    passes = Passes(STABLE_DIFFUSION, device, settings.batch_size // pieces, settings.precision)
    unet = passes.networks.unet.train()
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    average = [weight.detach().clone() for weight in unet.parameters()]
    optimizer = torch.optim.AdamW(unet.parameters())
    for _ in range(2):
        for _ in range(min(2, pieces)):
            with torch.no_grad(), autocast(device.torch, settings.precision):
                passes.networks.encode(passes.images, device.name)
            passes.both()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [weight.detach() for weight in unet.parameters()], 0.1)
