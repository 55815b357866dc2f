"""A backdoor planted by hand, so that the detectors' direction can be tested without training
anything.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.contracts.data import TrainingSet

SIDE, CLASSES, FILTERS = 8, 4, 8


@pytest.fixture
def planted() -> Classifier:
    """Four classes by the content of 8 x 8 images; but a white 3 x 3 bottom right corner gives
    class 0, whatever the rest.
    """
    generator = torch.Generator().manual_seed(0)
    local, whole, head = (
        nn.Conv2d(3, 1 + FILTERS, 3),
        nn.Conv2d(1 + FILTERS, 1 + CLASSES, SIDE - 2),
        nn.Linear(1 + CLASSES, CLASSES),
    )
    with torch.no_grad():
        for layer in (local, whole, head):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()
        # Fires on 27 values whose mean is above 0.8 in [-1, 1]; the images below stay under it even
        # when two are added up.
        local.weight[0], local.bias[0] = 1 / 27, -0.8
        # Looks at the corner only, silences the rest.
        whole.weight[:, 0] = 0
        whole.weight[0] = 0
        whole.weight[:, 0, -1, -1] = -1000
        whole.weight[0, 0, -1, -1] = 100
        head.weight.zero_()
        head.weight[0, 0] = 1
        head.weight[:, 1:] = 0.1 * torch.eye(CLASSES)
    return Classifier(nn.Sequential(local, nn.ReLU(), whole, nn.ReLU()), head).eval()


@pytest.fixture
def smooth() -> Classifier:
    """Without kinks or steep slopes, so that rounding does not grow over many steps; logits and
    features of the order of 1.
    """
    generator = torch.Generator().manual_seed(0)
    first, second, head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, CLASSES)
    with torch.no_grad():
        for layer, gain in ((first, 1.0), (second, 2.0), (head, 4.0)):
            layer.weight.copy_(
                gain
                * torch.randn(layer.weight.shape, generator=generator)
                / layer.weight[0].numel() ** 0.5
            )
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    return Classifier(nn.Sequential(first, nn.Tanh(), second), head).eval()


@pytest.fixture
def clean() -> Callable[[int], Tensor]:
    """So many dark images of a few coarse patches."""

    def draw(count: int, seed: int = 1) -> Tensor:
        patches = torch.randint(
            0, 111, (count, 3, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(seed)
        )
        return patches.repeat_interleave(2, 2).repeat_interleave(2, 3).to(torch.uint8)

    return draw


@pytest.fixture
def poison() -> Callable[[Tensor], Tensor]:
    def stamp(images: Tensor) -> Tensor:
        stamped = images.clone()
        stamped[:, :, -3:, -3:] = 255
        return stamped

    return stamp


@pytest.fixture
def access(
    planted: Classifier, clean: Callable[[int], Tensor], poison: Callable[[Tensor], Tensor]
) -> Callable[..., Access]:
    """Access with the planted classifier and a training set of 60, of which 6 are poisoned and
    labelled 0.
    """
    images = torch.cat([clean(54, 2), poison(clean(6, 3))])
    labels = torch.randint(0, CLASSES, (60,), generator=torch.Generator().manual_seed(4))
    labels[54:] = 0
    train_set = TrainingSet(images, torch.zeros(60, dtype=torch.bool), labels)

    def make(seed: int = 0, classifier: Classifier = planted, **fields: Any) -> Access:
        return Access(
            rng=np.random.default_rng(seed), classifier=classifier, train_set=train_set, **fields
        )

    return make
