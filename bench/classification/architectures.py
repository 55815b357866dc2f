"""Classifiers of the papers' size: four of torchvision's architectures, cut into the body, pooling
and head of :class:`Classifier`.

torchvision's definitions are used, never its downloads. Two changes, documented where they are
made: at 32 x 32 the stem is the small one that is usual for CIFAR, and VGG-16 loses its three fully
connected layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.classification.classifier import Classifier
from bench.errors import UserError

Architecture = Literal["resnet18", "resnet50", "vgg16", "densenet121"]

#: The prefix of each architecture's head. Weights with this prefix are never loaded, since the
#: classes differ.
_HEADS: dict[Architecture, str] = {
    "resnet18": "fc.",
    "resnet50": "fc.",
    "vgg16": "classifier.",
    "densenet121": "classifier.",
}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNetNormalisation(nn.Module):
    """Maps images in [-1, 1] to what torchvision's published weights were trained on: zero mean and
    unit variance per channel.
    """

    def __init__(self) -> None:
        super().__init__()
        # Constants, not weights: they are not saved.
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return ((images + 1) / 2 - mean) / std


def torchvision_classifier(
    name: Architecture,
    classes: int,
    seed: int,
    *,
    small_images: bool = False,
    imagenet_weights: str | Path | None = None,
) -> Classifier:
    """``name`` with a new head of ``classes`` outputs, its weights drawn by ``seed``; for RGB
    images in [-1, 1].

    - ``resnet18``, ``resnet50``: torchvision's own, from the first layer to the logits.
    - ``densenet121``: likewise; the ReLU that torchvision applies before pooling is the last layer
      of the body.
    - ``vgg16``: the convolutions are torchvision's. Its head is not: there, 7 x 7 pooled maps go
      through two hidden layers of 4,096 with dropout; here the maps' mean goes through one linear
      layer, so that every classifier has the three parts that detectors need.

    ``small_images``: the usual stem at 32 x 32, a 3 x 3 convolution of stride 1 without the
    max-pooling after it (ResNet and DenseNet; VGG-16 starts this way anyway). Without it,
    ResNet-18's last maps of a 32 x 32 image would have a single position.

    ``imagenet_weights``: a local safetensors file of torchvision's state dict for ``name``; its
    head is omitted, and the body then begins with ImageNet's normalisation. Make one with
    ``safetensors.torch.save_file(torchvision.models.resnet50(weights="IMAGENET1K_V2").state_dict(),
    path)``. Raises ``UserError`` if the file is missing, unreadable or of another network,
    ``ValueError`` for both options at once.
    """
    if name not in _HEADS:
        raise ValueError(f"the classifier must be one of {', '.join(_HEADS)}, got {name!r}")
    if small_images and imagenet_weights is not None:
        raise ValueError("ImageNet's weights do not fit the stem for small images")
    # torchvision takes seconds to import, which planning does not need.
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = getattr(models, name)(weights=None)
        if small_images:
            _small_stem(network, name)
        layers, features = _body(network, name)
        head = nn.Linear(features, classes)
    if imagenet_weights is None:
        return Classifier(nn.Sequential(*layers), head)
    _load(network, name, Path(imagenet_weights).expanduser())
    return Classifier(nn.Sequential(ImageNetNormalisation(), *layers), head)


def _small_stem(network: Any, name: Architecture) -> None:
    if name == "vgg16":
        return
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    # As torchvision draws the convolutions of both.
    nn.init.kaiming_normal_(
        stem.weight, mode="fan_out" if name != "densenet121" else "fan_in", nonlinearity="relu"
    )
    if name == "densenet121":
        network.features.conv0, network.features.pool0 = stem, nn.Identity()
    else:
        network.conv1, network.maxpool = stem, nn.Identity()


def _body(network: Any, name: Architecture) -> tuple[list[nn.Module], int]:
    """The layers before pooling, and the number of features they produce."""
    if name == "vgg16":
        return [network.features], 512
    if name == "densenet121":
        return [network.features, nn.ReLU()], network.classifier.in_features
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    return [
        *stem,
        network.layer1,
        network.layer2,
        network.layer3,
        network.layer4,
    ], network.fc.in_features


def _load(network: Any, name: Architecture, path: Path) -> None:
    """Loads the weights at ``path`` into all of ``network`` except its head."""
    if not path.is_file():
        raise UserError(
            f"no ImageNet weights of {name} at {str(path)!r}; save torchvision's state dict "
            f"there as safetensors"
        )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the ImageNet weights of {name} must be safetensors, got {path}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    expected = {
        key: value.shape
        for key, value in network.state_dict().items()
        if not key.startswith(_HEADS[name])
    }
    mismatched = [
        key for key, shape in expected.items() if key not in weights or weights[key].shape != shape
    ]
    if mismatched:
        raise UserError(
            f"{path} must hold torchvision's weights of {name}: {mismatched[0]} is missing or of "
            f"another shape" + (f", and {len(mismatched) - 1} more" if len(mismatched) > 1 else "")
        )
    network.load_state_dict({key: weights[key] for key in expected}, strict=False)
