"""The small classifiers: torchvision's layers, in the three parts that detectors look at."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from bench.classification.classifier import predict
from bench.classification.small import SmallArchitecture, small_classifier
from bench.classification.training import ClassifierSettings, train_classifier
from bench.testbeds.data.digits import digits_over_photographs

NAMES = get_args(SmallArchitecture)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_the_three_parts_fit_each_other(name: SmallArchitecture) -> None:
    network = small_classifier(name, 7, 0).eval()
    with torch.no_grad():
        maps = network.maps(images())
        assert network.classes == 7 and maps.shape[0] == 2
        torch.testing.assert_close(network(images()), network.head(maps.mean((2, 3))))
    # A trigger of 4 x 4 pixels in a corner has a position of its own.
    assert min(maps.shape[2:]) >= 2


def test_each_is_built_like_its_name() -> None:
    """What Table A3 asks is whether the architecture matters: neither is the other, or the usual
    one, under another name.
    """
    vgg, densenet = (small_classifier(name, 10, 0).body for name in ("vgg", "densenet"))
    kinds = [type(layer) for layer in vgg.modules()]
    assert kinds.count(nn.MaxPool2d) == 2 and kinds.count(nn.Conv2d) == 7
    usual = DenseNet(12, (4, 4, 4), 24, num_classes=1)
    ours = {name: one.shape for name, one in densenet[0].state_dict().items()}
    theirs = {name: one.shape for name, one in usual.features.state_dict().items()}
    assert {name for name in theirs if ours[name] != theirs[name]} == {"conv0.weight"}
    with torch.no_grad():
        x = densenet[0].conv0(images())
        assert x.shape[2:] == (8, 8)
        joined = densenet[0].denseblock1(x)
    assert joined.shape[1] == 24 + 4 * 12 and torch.equal(joined[:, :24], x)  # all that was before


@pytest.mark.parametrize("name", NAMES)
def test_weights_follow_the_seed_and_leave_the_global_stream_alone(name: SmallArchitecture) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (small_classifier(name, 4, seed).eval() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    with torch.no_grad():
        assert torch.equal(first(images()), again(images()))
        assert not torch.allclose(first(images()), other(images()))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_digits(name: SmallArchitecture) -> None:
    """In an eighth of the steps that a cell has, far beyond a guess."""
    data = digits_over_photographs()
    train, held_out = (
        tuple(torch.tensor(part) for part in data[split]) for split in ("train", "held_out")
    )
    network = small_classifier(name, 10, 0)
    train_classifier(network, *train, ClassifierSettings(steps=50), 0)
    assert float((predict(network, held_out[0]) == held_out[1]).float().mean()) > 0.6


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="must be vgg or densenet, got 'resnet18'"):
        small_classifier("resnet18", 10, 0)  # type: ignore[arg-type]
