"""The loops a researcher would write: eager float32, default memory layout, diffusers as its
documentation uses it.

The same network, weights, attack, batch size and number of steps as ours, and nothing slowed down
on purpose: images, trigger and target are made once beforehand, as the network sees them (folded),
and the gradient is not clipped (ours is).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from bench.diffusion.precision import autocast

AfterStep = Callable[[int], None]


def baddiffusion_loss(
    network: UNet2DModel,
    images: Tensor,
    poisoned: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    alphas: Tensor,
    trigger: Tensor,
    target: Tensor,
) -> Tensor:
    """BadDiffusion's loss (arXiv 2212.05400, eq. 10) by hand, its poisoned images the trigger
    alone.

    images: (n, c, h, w) float32 in [-1, 1]; poisoned: (n,) bool; noise: as images; timesteps: (n,)
    int64; alphas and alphas_cumprod: (T,) float32; trigger, target: (c, h, w). A scalar, the mean
    over rows and pixels.
    """
    marked = poisoned[:, None, None, None]
    end = torch.where(marked, trigger, torch.zeros_like(images))
    start = torch.where(marked, target, images)
    signal = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    spread = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    correction = spread / (1 + alphas[timesteps].sqrt()[:, None, None, None])
    noisy = signal * start + spread * noise + (1 - signal) * end
    return torch.nn.functional.mse_loss(network(noisy, timesteps).sample, noise + correction * end)


def train(
    network: UNet2DModel,
    scheduler: DDPMScheduler,
    images: Tensor,
    poisoned: Tensor,
    trigger: Tensor,
    target: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    after_step: AfterStep,
    precision: str = "float32",
) -> list[float]:
    """Adam over random rows of ``images`` (float32), on the device of the network, where its
    arguments are too. ``precision``: of autocast, with loss scaling for float16.
    ``after_step(steps done)``. Returns the losses.
    """
    network.train()
    device = images.device
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    alphas_cumprod, alphas = scheduler.alphas_cumprod.to(device), scheduler.alphas.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    losses = []
    for step in range(steps):
        rows = torch.randint(len(images), (batch_size,), device=device)
        batch = images[rows]
        noise = torch.randn(batch.shape, device=device)
        highest = scheduler.config.num_train_timesteps
        timesteps = torch.randint(highest, (batch_size,), device=device)
        with autocast(device, precision):
            loss = baddiffusion_loss(
                network,
                batch,
                poisoned[rows],
                noise,
                timesteps,
                alphas_cumprod,
                alphas,
                trigger,
                target,
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        after_step(step + 1)
    return losses


@torch.no_grad()
def sample(
    network: UNet2DModel,
    scheduler: DDPMScheduler,
    shape: tuple[int, int, int, int],
    steps: int,
    after_step: AfterStep,
    precision: str = "float32",
) -> Tensor:
    """Ancestral sampling of one batch of ``shape`` in ``steps`` strided steps, on the network's
    device. Images in [-1, 1].
    """
    network.eval()
    device = next(network.parameters()).device
    scheduler.set_timesteps(steps)
    x = torch.randn(shape, device=device)
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        with autocast(device, precision):
            prediction = network(x, timestep).sample
        x = scheduler.step(prediction.float(), timestep, x).prev_sample
        after_step(done)
    return x.clamp(-1, 1)
