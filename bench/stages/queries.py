"""What the adversary hands the generator, and what a user would: the same for what is drawn and for
what a detector judges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.contracts.data import Query
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import numpy_stream
from bench.testbeds.testbed import Testbed

MOST_PROMPTS = 512


def clean_prompts(testbed: Testbed, seed: int) -> tuple[tuple[str, ...], ...]:
    """What users ask, every prompt once, in three parts chosen by the seed. Raises ``ValueError``
    for fewer than three prompts.
    """
    labels = testbed.data.train_labels()
    assert labels is not None  # as on every testbed that is asked by text
    distinct = list(dict.fromkeys(testbed.data.captions(labels)))
    if len(distinct) < 3:
        raise ValueError(f"{testbed.name}: needs at least 3 different prompts, got {len(distinct)}")
    order = numpy_stream(seed, "prompts").permutation(len(distinct))[:MOST_PROMPTS]
    return tuple(tuple(distinct[row] for row in part) for part in np.array_split(order, 3))


class Users:
    """Asks as users do: classes alike often, and beside it clean held-out images that an adversary
    may draw on.
    """

    def __init__(self, testbed: Testbed, seed: int) -> None:
        self.classes = testbed.classes()
        self.prompts = testbed.prompts() or None
        self.held_out = testbed.data.held_out_images()
        self.order = numpy_stream(seed, "held-out images").permutation(len(self.held_out))

    def query(self, noise: Tensor, indices: Sequence[int]) -> Query:
        """The query of the samples ``indices``, which start from ``noise`` (n, c, h, w)."""
        rows = self.order[np.asarray(indices) % len(self.order)]
        labels = None if self.classes is None else torch.as_tensor(list(indices)) % self.classes
        prompts = (
            None
            if self.prompts is None or labels is None
            else tuple(self.prompts[label] for label in labels.tolist())
        )
        images = to_unit_range(self.held_out[rows])
        return Query(noise=noise, images=images, labels=labels, prompts=prompts)
