"""What the repairs that fine-tune share: which clean images they may use, and the loop.

The loop is the one that every generator here is trained with (:mod:`bench.diffusion.training`), in
float32 whatever the testbed's precision, since a repair's steps are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import PredictNoise, Rows, TrainingSettings, denoising_loss, train
from bench.plugin import Access, Note, Paper

#: Of the clean training set's rows.
CleanShare = Annotated[float, Interval(gt=0, le=1), Note("of the clean training images")]
#: Of rows that are trained without their label, where there are classes: what classifier-free
#: guidance needs (Ho and Salimans 2022, arXiv 2207.12598, use 0.1 to 0.2).
LABEL_DROPOUT = 0.1
#: Pixels (rows x height x width) that a network's gradient is taken of at once: as many as the
#: testbed of 256 x 256 trains at once, on 80 GB.
PIXELS_AT_ONCE = 16 * 256 * 256
FINE_PRUNING = Paper(
    title="Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
    authors="Kang Liu, Brendan Dolan-Gavitt, Siddharth Garg",
    year=2018,
    arxiv="1805.12185",
    bibtex=(
        "@inproceedings{liu2018finepruning, title={Fine-Pruning: Defending Against Backdooring "
        "Attacks on Deep Neural Networks}, author={Liu, Kang and Dolan-Gavitt, Brendan and Garg, "
        "Siddharth}, booktitle={RAID}, year={2018}}"
    ),
)


def pieces_of(rows: int, shape: Sequence[int]) -> int:
    """The smallest number of equal pieces of ``rows`` images of ``shape`` (c, h, w) that have no
    more than :data:`PIXELS_AT_ONCE` each; one image a piece where none has.
    """
    fitting = max(1, PIXELS_AT_ONCE // (shape[1] * shape[2]))
    return next(
        pieces for pieces in range(1, rows + 1) if rows % pieces == 0 and rows // pieces <= fitting
    )


def some_clean(access: Access, share: float) -> dict[str, Tensor]:
    """``images`` (k, c, h, w) uint8, with their ``labels`` where the generator is asked for
    classes: k = round(``share`` n) rows of the clean data, at least one, drawn uniformly.
    """
    data = access.clean_data
    count = max(1, round(share * len(data.images)))
    chosen = torch.from_numpy(access.rng.permutation(len(data.images))[:count])
    rows = {"images": data.images[chosen]}
    if access.generator.classes is not None and data.labels is not None:
        rows["labels"] = data.labels[chosen]
    return rows


def clean_loss(
    predict: PredictNoise, rows: Rows, noise: Tensor, timesteps: Tensor, schedule: Schedule
) -> Tensor:
    """DDPM's simple loss of a batch (:func:`~bench.diffusion.training.denoising_loss`)."""
    return denoising_loss(predict, rows["images"], noise, timesteps, VariancePreserving(schedule))


def finetune(
    access: Access,
    rows: Rows,
    loss: Callable[..., Tensor],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    teacher: Generator | None = None,
) -> None:
    """Trains ``access.generator`` in place with Adam, at a rate that falls to 0 along a cosine.
    ``loss``, ``teacher``: as :func:`~bench.diffusion.training.train` takes them.
    """
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision="float32",
        label_dropout=LABEL_DROPOUT,
        accumulation_steps=pieces_of(batch_size, rows["images"].shape[1:]),
    )
    train(
        access.generator,
        rows,
        loss,
        settings,
        int(access.rng.integers(2**62)),
        device=access.generator.device.type,
        teacher=teacher,
        progress=access.progress,
    )
