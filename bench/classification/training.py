"""Training a classifier: plain supervised learning, as a user would on data that may be
poisoned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.classification.classifier import Classifier
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import torch_stream
from bench.diffusion.precision import autocast


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """SGD with Nesterov momentum and a one-cycle learning rate up to ``learning_rate``.

    Deviations from the papers' classifiers (momentum 0.9, epochs): torch's one-cycle schedule
    changes the momentum too, opposite to the rate, from .95 to .85 and back; and every batch is
    drawn with replacement from the whole set, so "an epoch" is that many rows, not each row once.

    ``shift``: random shifts of up to this many pixels; ``horizontal_flip``: with probability one
    half. Both alter triggers too. ``precision``: of the network's forward and backward pass; loss
    and optimiser stay float32.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    shift: int = 0
    horizontal_flip: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


def train_classifier(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    settings: ClassifierSettings,
    seed: int,
    *,
    purpose: str = "classifier",
    progress: Callable[[int, int, str], None] | None = None,
) -> list[float]:
    """Trains in place on images (n, c, h, w) uint8 and labels (n,) int64; returns the loss of every
    step. Leaves the classifier in evaluation mode.

    Batches are drawn from the stream of ``seed`` and ``purpose``. Raises ``FloatingPointError`` if
    the loss is not finite.
    """
    draw, device = torch_stream(seed, purpose), classifier.head.weight.device
    optimizer = torch.optim.SGD(
        classifier.parameters(),
        lr=settings.learning_rate,
        momentum=0.9,  # OneCycleLR sets it from its first step on.
        weight_decay=settings.weight_decay,
        nesterov=True,
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    losses = []
    classifier.to(memory_format=torch.channels_last).train()
    for step in range(settings.steps):
        chosen = torch.randint(len(images), (settings.batch_size,), generator=draw)
        batch = images[chosen]
        if settings.shift:
            down, right = (
                int(torch.randint(-settings.shift, settings.shift + 1, (), generator=draw))
                for _ in range(2)
            )
            batch = batch.roll((down, right), (2, 3))
        if settings.horizontal_flip:
            flip = torch.rand(len(batch), 1, 1, 1, generator=draw) < 0.5
            batch = torch.where(flip, batch.flip(-1), batch)
        with autocast(device, settings.precision):
            logits = classifier(to_unit_range(batch).to(device)).float()
        loss = nn.functional.cross_entropy(
            logits, labels[chosen].to(device), label_smoothing=settings.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the classifier's loss became {losses[-1]} at step {step}")
        if progress:
            progress(step + 1, settings.steps, "classifier steps")
    classifier.eval()
    return losses
