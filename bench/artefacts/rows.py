"""Which rows are asked for and judged: the same for the stages that draw or judge them and for what
measures the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.artefacts.aims import Aim
from bench.diffusion.noise import numpy_stream
from bench.testbeds.parts.part import ClassCounts
from bench.testbeds.testbed import Testbed


def evenly(testbed: Testbed, count: int) -> Tensor:
    """``count`` labels (n,), every class as often as the others and in turn."""
    return torch.arange(count) % len(testbed.data.class_names)


def counts_of(testbed: Testbed) -> ClassCounts:
    """How many images are drawn and judged where there are classes."""
    counts = testbed.counts
    assert isinstance(counts, ClassCounts)  # as on every testbed with classes
    return counts


def judged_rows(testbed: Testbed, count: int, seed: int) -> Tensor:
    """The rows (k,) int64 of a set of ``count`` that every detector scores:
    ``judged_images`` of the testbed's counts, chosen by the seed.
    """
    wanted = min(count, counts_of(testbed).judged_images or count)
    return torch.from_numpy(
        np.sort(numpy_stream(seed, "judged rows", count).permutation(count)[:wanted])
    )


def clean_rows(testbed: Testbed, seed: int) -> Tensor:
    """The held-out rows (k,) int64 on which a detector's threshold is fixed: as many as it judges
    of a set, and at most half; chosen by the seed, no two of one group (crops of one digit).
    """
    order, wanted = _judgeable(testbed, seed), counts_of(testbed).judged_images
    return torch.from_numpy(np.sort(order if wanted is None else order[:wanted]))


def spare_rows(testbed: Testbed, seed: int) -> Tensor:
    """The held-out rows (k,) int64 on which no detector's threshold can rest."""
    spare = torch.ones(len(testbed.data.held_out_images()), dtype=torch.bool)
    spare[torch.from_numpy(_judgeable(testbed, seed))] = False
    return spare.nonzero()[:, 0]


def _judgeable(testbed: Testbed, seed: int) -> npt.NDArray[np.int64]:
    groups = testbed.data.held_out_groups()
    count = len(testbed.data.held_out_images())
    order = numpy_stream(seed, "clean rows").permutation(count)
    if groups is not None:
        order = order[np.sort(np.unique(groups.numpy()[order], return_index=True)[1])]
    return order[: max(1, count // 2)]


def evaluation_rows(
    testbed: Testbed, aim: Aim, seed: int, limit: int | None = None
) -> dict[str, Tensor]:
    """Rows (k,) int64 of the held-out images: ``clean``, any; ``triggered``, of other classes than
    the adversary's, if it can stamp.
    """
    labels = testbed.data.held_out_labels()
    assert labels is not None  # as on every testbed with classes
    order = torch.from_numpy(numpy_stream(seed, "test images").permutation(len(labels)))
    rows = {"clean": order[:limit]}
    if aim.stamped is None:
        return rows
    others = order if aim.label is None else order[labels[order] != aim.label]
    return rows | {"triggered": others[:limit]}


def evaluation_sets(
    testbed: Testbed, aim: Aim, seed: int, limit: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """The images of :func:`evaluation_rows` with their true labels; the triggered ones stamped."""
    labels = testbed.data.held_out_labels()
    assert labels is not None  # as on every testbed with classes
    images = {"clean": testbed.data.held_out_images(), "triggered": aim.stamped}
    rows = evaluation_rows(testbed, aim, seed, limit)
    return {
        name: (pictures[rows[name]], labels[rows[name]])
        for name, pictures in images.items()
        if name in rows and pictures is not None
    }
