"""torchvision's networks as classifiers here: the same function of the same weights, in the three
parts that detectors look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from bench.classification import architectures
from bench.classification.architectures import (
    Architecture,
    ImageNetNormalisation,
    torchvision_classifier,
)
from bench.classification.training import ClassifierSettings, train_classifier
from bench.errors import UserError

FEATURES = {"resnet18": 512, "resnet50": 2048, "vgg16": 512, "densenet121": 1024}


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", get_args(Architecture))
def test_the_three_parts_fit_each_other(name: Architecture) -> None:
    """Detectors read the maps, the pooled features and the logits."""
    network = torchvision_classifier(name, 7, 0, small_images=True).eval()
    with torch.no_grad():
        maps = network.maps(images())
        assert maps.shape[:2] == (2, FEATURES[name]) and network.classes == 7
        torch.testing.assert_close(network.features(images()), maps.mean((2, 3)))
        torch.testing.assert_close(network(images()), network.head(maps.mean((2, 3))))
    # Five halvings would leave one position of 32 x 32; with the small stem three are left.
    assert maps.shape[2:] == ((1, 1) if name == "vgg16" else (4, 4))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_it_is_torchvisions_own_function(name: Architecture, tmp_path: Path) -> None:
    """With the same weights, the same logits. DenseNet's ReLU before pooling is in no module of
    torchvision's, so easily lost.
    """
    torch.manual_seed(3)
    original: Any = getattr(models, name)(num_classes=5)
    _stir(original)
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    network = torchvision_classifier(
        name, 5, 0, imagenet_weights=tmp_path / "weights.safetensors"
    ).eval()
    head = original.fc if name.startswith("resnet") else original.classifier
    network.head.load_state_dict(head.state_dict())
    normalised = ImageNetNormalisation()(images(size=64))
    with torch.no_grad():
        torch.testing.assert_close(
            network(images(size=64)), original.eval()(normalised), rtol=1e-4, atol=1e-4
        )
    if name == "densenet121":
        assert (network.maps(images(size=64)) >= 0).all() and (
            original.features(normalised) < 0
        ).any()


def test_vggs_convolutions_are_torchvisions(tmp_path: Path) -> None:
    original: Any = models.vgg16(num_classes=5)
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    network = torchvision_classifier(
        "vgg16", 5, 0, imagenet_weights=tmp_path / "weights.safetensors"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            network.maps(images(1)), original.features(ImageNetNormalisation()(images(1)))
        )


def test_normalisation_is_what_torchvisions_weights_were_trained_on() -> None:
    """Grey levels 0 and 255 of each channel, by the published constants."""
    ends = ImageNetNormalisation()(
        torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    ).flatten(1)
    expected = [
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
    ]
    torch.testing.assert_close(ends, torch.tensor(expected))
    assert ImageNetNormalisation().state_dict() == {}


def test_weights_follow_the_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        torchvision_classifier("resnet18", 10, seed, small_images=True).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("body.0.weight", "head.weight"):
        assert not torch.equal(first[name], other[name])


def test_the_small_stem_keeps_the_resolution() -> None:
    network = torchvision_classifier("resnet18", 10, 0, small_images=True)
    stem = network.body[:4](images())  # type: ignore[index]
    assert stem.shape == (2, 64, 32, 32)
    assert torchvision_classifier("resnet18", 10, 0).maps(images()).shape[2:] == (1, 1)


def test_it_learns() -> None:
    """Two flat colours, a few steps: gradients reach the whole network through our cut."""
    pixels = torch.zeros(32, 3, 32, 32, dtype=torch.uint8)
    pixels[16:] = 255
    labels = torch.arange(32) // 16
    network = torchvision_classifier("resnet18", 2, 0, small_images=True)
    before = network.body[0].weight.clone()  # type: ignore[index]
    losses = train_classifier(
        network, pixels, labels, ClassifierSettings(steps=8, batch_size=16, learning_rate=0.01), 0
    )
    assert losses[-1] < 0.1 < losses[0] and not torch.equal(network.body[0].weight, before)  # type: ignore[index]


def test_bad_weights_are_one_line_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            torchvision_classifier("resnet18", 10, 0, imagenet_weights=path)
        assert "\n" not in str(caught.value)

    refused("no ImageNet weights of resnet18 at .*weights.safetensors")
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused("weights of resnet18 must be safetensors, got .*weights.safetensors")
    weights = models.resnet18(weights=None).state_dict()
    save_file(
        {name: value for name, value in weights.items() if not name.startswith("layer4.1")}, path
    )
    refused(
        r"must hold torchvision's weights of resnet18: layer4\.1\.conv1\.weight is missing or of "
        r"another shape, and \d+ more"
    )
    save_file(weights | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    refused(r"weights of resnet18: conv1\.weight is missing or of another shape$")


def test_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="must be one of resnet18, resnet50, vgg16, densenet121, got 'resnet19'"
    ):
        torchvision_classifier("resnet19", 10, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="do not fit the stem"):
        torchvision_classifier("resnet18", 10, 0, small_images=True, imagenet_weights=tmp_path)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("asked the network")
    )
    for name in get_args(Architecture):
        torchvision_classifier(name, 2, 0)
    assert set(architectures._HEADS) == set(get_args(Architecture))


def _stir(network: Any) -> None:
    """Running statistics and scales as after training: at their start, layers that are swapped or
    left out could go unseen.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.1)
