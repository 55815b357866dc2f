"""How a Cognitive Distillation script spends its time: batch by batch, a mask is optimised by a
loop of its own, the network called anew at every step.

Huang, Ma, Erfani, Bailey 2023 (arXiv 2301.10908): x_cp = x m + (1 - m) c, Adam on the mask
alone, the network's weights frozen, as in the released script. With the two of our detector's
deviations that change the numbers (losses summed, colours shared by all images), so that these can
be compared; neither changes the time. Left out: the reading of a checkpoint and saving of the
masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masks(
    network: nn.Module,
    images: Tensor,
    colours: Tensor,
    *,
    gamma: float,
    beta: float,
    learning_rate: float,
    batch_size: int = 128,
) -> Tensor:
    """The masks (n, 1, h, w) on the CPU. images: (n, c, h, w) in [0, 1]; colours: (steps, c, 1,
    1).
    """
    device = next(network.parameters()).device
    colours = colours.to(device)
    for weight in network.parameters():
        weight.requires_grad = False
    network.eval()
    return torch.cat(
        [
            _masks_of_batch(network, batch.to(device), colours, gamma, beta, learning_rate).cpu()
            for batch in images.split(batch_size)
        ]
    )


def _masks_of_batch(
    network: nn.Module,
    images: Tensor,
    colours: Tensor,
    gamma: float,
    beta: float,
    learning_rate: float,
) -> Tensor:
    count, _, height, width = images.shape
    parameter = nn.Parameter(torch.ones(count, 1, height, width, device=images.device))
    optimizer = torch.optim.Adam([parameter], lr=learning_rate, betas=(0.1, 0.1))
    logits = network(images * 2 - 1).detach()
    for colour in colours:
        optimizer.zero_grad()
        mask = (torch.tanh(parameter) + 1) / 2
        pattern = images * mask + (1 - mask) * colour
        difference = (network(pattern * 2 - 1) - logits).abs().mean(dim=1)
        size = mask.flatten(1).norm(p=1, dim=1)
        rough = (mask[:, :, :, 1:] - mask[:, :, :, :-1]).pow(2).sum(dim=(1, 2, 3)) + (
            mask[:, :, 1:] - mask[:, :, :-1]
        ).pow(2).sum(dim=(1, 2, 3))
        loss = (difference + gamma * size + beta * rough / (height * width)).sum()
        loss.backward()
        optimizer.step()
    return (torch.tanh(parameter.detach()) + 1) / 2
