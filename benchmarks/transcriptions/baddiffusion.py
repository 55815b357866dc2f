"""How a BadDiffusion script trains: a data set of pictures that are prepared one by one, a data
loader, and diffusers' network under Adam.

Chou, Chen, Ho 2023 (arXiv 2212.05400, eq. 10): every batch draws noise and timesteps and takes
one gradient step. As released, each picture is turned into a tensor, stamped with the
trigger and given its target when it is fetched; the learning rate falls along a cosine and the
gradient is clipped at 1. Left out: horizontal flips, half precision (no faster on a CPU), progress
bars, logs and checkpoints, which would all cost more. The loader has no processes of its own, since
a worker of a run has one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks import plain
from benchmarks.transcriptions.folded import Folded

Row = tuple[Tensor, Tensor]


class Pictures(Dataset[Row]):
    """Pictures as float32 in [-1, 1] with whether they are poisoned. images: uint8 (n, c, h, w)."""

    def __init__(self, images: Tensor, poisoned: Tensor) -> None:
        self.images, self.poisoned = images, poisoned

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Row:
        return self.images[row].float() / 127.5 - 1, self.poisoned[row]


class Shuffled(Sampler[list[int]]):
    """Batches of ``size`` rows without replacement, one order after another, from ``draw``."""

    def __init__(self, rows: int, size: int, draw: torch.Generator) -> None:
        self.rows, self.size, self.draw = rows, size, draw

    def __iter__(self) -> Iterator[list[int]]:
        order: list[int] = []
        while True:
            while len(order) < self.size:
                order += torch.randperm(self.rows, generator=self.draw).tolist()
            yield order[: self.size]
            order = order[self.size :]


def train(
    network: Folded,
    scheduler: DDPMScheduler,
    images: Tensor,
    poisoned: Tensor,
    trigger: Tensor,
    target: Tensor,
    draw: torch.Generator,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    after_step: Callable[[int], None] = lambda done: None,
    noise_draw: torch.Generator | None = None,
) -> list[float]:
    """Trains ``network`` in place, on its device; returns the loss of every step. All randomness is
    from ``draw``: the rows, then a batch's noise (or from ``noise_draw``, on that one's device),
    then its timesteps.
    """
    network.train()
    device, drawing = next(network.parameters()).device, noise_draw or draw
    alphas_cumprod, alphas, trigger, target = (
        value.to(device) for value in (scheduler.alphas_cumprod, scheduler.alphas, trigger, target)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    loader = DataLoader(
        Pictures(images, poisoned), batch_sampler=Shuffled(len(images), batch_size, draw)
    )
    losses: list[float] = []
    for batch, marked in loader:
        batch, marked = batch.to(device), marked.to(device)
        noise = torch.randn(batch.shape, generator=drawing, device=drawing.device)
        timesteps = torch.randint(
            scheduler.config.num_train_timesteps, (len(batch),), generator=draw
        ).to(device)
        loss = plain.baddiffusion_loss(
            network,
            batch,
            marked,
            noise,
            timesteps,
            alphas_cumprod,
            alphas,
            trigger,
            target,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        cosine.step()
        losses.append(loss.item())
        after_step(len(losses))
        if len(losses) == steps:
            break
    return losses
