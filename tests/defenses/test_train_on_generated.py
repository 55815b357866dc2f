"""Training on generated data: the rows must be the generator's, labelled with what it was asked
for.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.contracts.data import TrainingSet
from defenses.train_on_generated import TrainOnGenerated


def generated(labels: bool = True) -> TrainingSet:
    images = torch.randint(
        0, 256, (12, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TrainingSet(
        images, torch.zeros(12, dtype=torch.bool), torch.arange(12) % 5 if labels else None
    )


def test_the_generated_rows_are_used_as_they_are() -> None:
    """Any other label than the condition would be a second defense hidden in this one."""
    before = generated()
    for seed in (0, 1):
        chosen = TrainOnGenerated().clean(generated(), np.random.default_rng(seed))
        assert torch.equal(chosen.images, before.images)
        assert chosen.labels is not None and torch.equal(chosen.labels, torch.arange(12) % 5)
        assert not chosen.poisoned.any()


def test_images_nobody_asked_a_class_for_are_refused() -> None:
    with pytest.raises(ValueError, match="must be labelled"):
        TrainOnGenerated().clean(generated(labels=False), np.random.default_rng(0))
