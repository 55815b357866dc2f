"""Long stages that resume inside: samples in shards, trainings by checkpoints, in a folder that
outlives an unfinished stage.

The folder belongs to whoever holds the lock on the stage's key, as the unfinished stage does, and
goes when the stage is finished. What stands in it appears whole. It is used only by a stage of the
same key, so the same code, parameters, inputs and kind of device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.resuming import Checkpoints
from bench.engine.context import Progress, StageContext

#: A set of more images is drawn in shards of about so many.
SHARD_IMAGES = 512
#: Steps of a training between two checkpoints: minutes, on a GPU.
CHECKPOINT_STEPS = 1000


def checkpoints(context: StageContext) -> Checkpoints | None:
    """Where a training stage writes its checkpoints; ``None`` where it cannot resume."""
    return (
        None
        if context.partial is None
        else Checkpoints(folder=context.partial, every=CHECKPOINT_STEPS)
    )


def in_shards(
    context: StageContext,
    generator: Generator,
    count: int,
    batch: int,
    draw: Callable[[range, Progress], Tensor],
) -> Tensor:
    """``count`` uint8 images, as ``draw(indices, progress)`` makes them of sample indices: shard by
    shard, of whole batches of ``batch`` images, those left out that are there already. A shard's
    images depend on their indices alone, so nobody can tell.

    The last shard is always drawn: whoever finishes the stage has had a look at its plugins at
    work.
    """
    size = -(-SHARD_IMAGES // batch) * batch
    if context.partial is None or count <= size:
        return draw(range(count), context.progress)
    shards = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return torch.cat(
        [_shard(context, context.partial, generator, indices, count, draw) for indices in shards]
    )


def _shard(
    context: StageContext,
    folder: Path,
    generator: Generator,
    indices: range,
    count: int,
    draw: Callable[[range, Progress], Tensor],
) -> Tensor:
    path = folder / f"images-{indices.start:08}.npz"
    try:
        with np.load(path) as arrays:
            images, cost = torch.from_numpy(arrays["images"]), arrays["cost"]
        if len(images) == len(indices):
            generator.calls += int(cost[0])
            context.earlier_seconds += float(cost[1])
            return images
    except (OSError, ValueError, KeyError, EOFError, IndexError, RuntimeError, BadZipFile):
        pass  # not there, or not whole: made again
    before, started = generator.calls, time.monotonic()

    def progress(done: int, total: int, what: str) -> None:
        context.progress(indices.start + len(indices) * done // total, count, "images")

    images = draw(indices, progress)
    if indices.stop == count:
        return images
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{path.name}.unfinished"
    with unfinished.open("wb") as file:
        np.savez(
            file,
            images=images.numpy(),
            cost=np.array([generator.calls - before, time.monotonic() - started]),
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return images
