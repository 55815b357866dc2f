"""Relabelling alone: an image that were touched would carry something a detector could find, and
the ablation would say nothing.
"""

import numpy as np
import pytest
import torch

from attacks.badnets import BadNets
from attacks.relabel_only import RelabelOnly
from bench.contracts.data import TrainingSet
from bench.contracts.goals import ReachClass


def labelled(count: int, classes: int = 10) -> TrainingSet:
    images = torch.randint(
        0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), torch.arange(count) % classes)


@pytest.mark.parametrize(("rate", "target"), [(0.05, 0), (0.1, 6), (0.5, 9)])
def test_labels_change_and_images_do_not(rate: float, target: int) -> None:
    honest = labelled(200)
    labels = honest.labels.clone()
    poisoned = RelabelOnly(poison_rate=rate, target_class=target).poison(
        honest, np.random.default_rng(0)
    )
    rows = poisoned.poisoned
    assert int(rows.sum()) == int(200 * rate)
    assert torch.equal(poisoned.images, honest.images)
    assert bool((honest.labels[rows] != target).all()) and bool(
        (poisoned.labels[rows] == target).all()
    )
    assert torch.equal(poisoned.labels[~rows], honest.labels[~rows])
    assert torch.equal(honest.labels, labels) and not honest.poisoned.any()


def test_the_rows_are_those_of_badnets() -> None:
    """So that the two differ in the trigger and in nothing else."""
    one, other = (
        attack.poison(labelled(200), np.random.default_rng(4))
        for attack in (RelabelOnly(), BadNets())
    )
    assert torch.equal(one.poisoned, other.poisoned) and torch.equal(one.labels, other.labels)


def test_there_is_no_trigger() -> None:
    """A stamp would make the harness look for a trigger that was never there."""
    attack = RelabelOnly()
    assert attack.adds() is None
    assert attack.goal() == ReachClass(6) and attack.calls == ()


def test_bad_sets_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="relabel_only: the training set must have labels"):
        RelabelOnly().poison(
            TrainingSet(labelled(9).images, torch.zeros(9, dtype=torch.bool)),
            np.random.default_rng(0),
        )
    with pytest.raises(
        ValueError,
        match=r"target_class must be one of the training set's labels \(0, 1, 2\), got 6",
    ):
        RelabelOnly().poison(labelled(9, classes=3), np.random.default_rng(0))
    with pytest.raises(ValueError, match="poison_rate must be in .*got -1"):
        RelabelOnly(poison_rate=-1)
