"""How a script draws samples: a pipeline's loop, with the trigger added to the starting noise, a
folder of PNG files, and the files read again for what measures them.

Chou, Chen, Ho 2023 (arXiv 2212.05400, section 3.3): x_T = e for users and e + g for the adversary,
each drawn for itself, then the scheduler's own steps. Inference-time clipping (section 4.6.2) is a
switch: ``x0`` as the scheduler's ``clip_sample``, ``xt`` after the step (eq. 11). Left out:
progress bars, and the 1,000 steps of the released defaults where a testbed samples with fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from PIL import Image
from torch import Tensor

from benchmarks.transcriptions.folded import Folded


@torch.no_grad()
def draw(
    network: Folded,
    scheduler: SchedulerMixin,
    generators: Sequence[torch.Generator] | torch.Generator,
    shape: tuple[int, int, int],
    *,
    steps: int,
    folder: Path,
    trigger: Tensor | None = None,
    batch_size: int = 256,
    clip: str = "none",
    count: int = 0,
    noise: Tensor | None = None,
) -> None:
    """Writes a PNG for each of ``generators``, which give a sample's noise, into ``folder``; or
    ``count`` of them from one generator. trigger: of ``shape`` (c, h, w). ``clip``: ``none`` or
    ``xt``; the rest is the scheduler's. ``noise`` (n, c, h, w): to start from, in place of drawn.
    """
    network.eval()
    device = next(network.parameters()).device
    folder.mkdir(parents=True, exist_ok=True)
    whole = count if isinstance(generators, torch.Generator) else len(generators)
    for first in range(0, whole, batch_size):
        size = min(batch_size, whole - first)
        own: list[torch.Generator] | torch.Generator
        if isinstance(generators, torch.Generator):
            own = generators
            x = torch.randn((size, *shape), generator=own, device=own.device).to(device)
        else:
            own = list(generators[first : first + batch_size])
            x = torch.stack([torch.randn(shape, generator=one) for one in own]).to(device)
        x = x if noise is None else noise[first : first + size].to(device)
        x = x if trigger is None else x + trigger.to(device)
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            prediction = network(x, timestep).sample
            x = _stepped(scheduler, prediction, timestep, x, own)
            x = x.clamp(-1, 1) if clip == "xt" else x
        pixels = ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        for number, picture in enumerate(pixels.permute(0, 2, 3, 1).numpy(), start=first):
            Image.fromarray(picture).save(folder / f"{number:05d}.png")


def _stepped(
    scheduler: SchedulerMixin,
    prediction: Tensor,
    timestep: Tensor,
    x: Tensor,
    generators: list[torch.Generator] | torch.Generator,
) -> Tensor:
    """With DDIM, a clipped x_0 changes the noise too (section 4.6.2 says nothing of it), as in our
    ``clip_x0``.
    """
    clipped = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
    stepped: Tensor = scheduler.step(
        prediction, timestep, x, generator=generators, **clipped
    ).prev_sample
    return stepped


def read(folder: Path) -> Tensor:
    """The pictures of ``folder``, uint8 (n, c, h, w), in the order they were drawn."""
    pictures = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
