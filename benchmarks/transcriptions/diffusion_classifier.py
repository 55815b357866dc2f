"""How a script classifies by a diffusion model: every timestep under every class, with fresh noise
for every picture, and nothing pruned.

Pan et al. 2024 (arXiv 2311.02373, section 5, table 5), after Li et al. 2023 (arXiv
2303.16203): batches of pictures; for each draw, noise of their own for the pictures, shared by the
classes (as both have it), a network call for each class, and the mean of the smallest errors. The
timesteps are ours, evenly spaced, where Pan et al. draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from benchmarks.transcriptions.folded import Folded

#: The noise (n, c, h, w) of a batch of so many pictures, for the draw of that number.
Noise = Callable[[int, int], Tensor]


@torch.no_grad()
def errors(
    network: Folded,
    scheduler: DDPMScheduler,
    pictures: Tensor,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    classes: int,
    p_filter: float,
    batch_size: int = 128,
) -> Tensor:
    """The mean filtered error (n, classes), lowest for the answer. pictures: (n, c, h, w) in [-1,
    1]. On the CPU, as the answer is; the network may be elsewhere.
    """
    network.eval()
    device = next(network.parameters()).device
    kept = int((1 - p_filter) * pictures[0].numel() + 1e-9)
    answers = []
    for pieces in pictures.split(batch_size):
        batch = pieces.to(device)
        total = torch.zeros(len(batch), classes, device=device)
        for number, timestep in enumerate(timesteps):
            drawn = noise(number, len(batch)).to(device)
            moments = torch.full((len(batch),), timestep, device=device)
            noisy = scheduler.add_noise(batch, drawn, moments)
            for label in range(classes):
                labels = torch.full((len(batch),), label, device=device)
                predicted = network(noisy, moments, class_labels=labels).sample
                squares = (predicted - drawn).pow(2).flatten(1)
                total[:, label] += squares.topk(kept, largest=False).values.mean(dim=1)
        answers.append((total / len(timesteps)).cpu())
    return torch.cat(answers)
