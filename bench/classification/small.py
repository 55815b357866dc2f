"""Two of torchvision's architectures cut down to images of 16 x 16: what a classifier is built like
may decide what it learns of a trigger, and the papers' own sizes take minutes a cell on a laptop.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bench.classification.classifier import Classifier

SmallArchitecture = Literal["vgg", "densenet"]
#: VGG-16 (Simonyan and Zisserman 2015, arXiv 1409.1556, column D) by its first three blocks, at a
#: quarter of their width: 16 x 16 is halved twice, where 224 x 224 is halved five times.
_VGG = (16, 16, "M", 32, 32, "M", 64, 64, 64)
#: DenseNet-121 (Huang et al. 2017, arXiv 1608.06993) has blocks of 6, 12, 24 and 16 layers.
_DENSE_LAYERS, _GROWTH, _STEM = (4, 4, 4), 12, 24


def small_classifier(name: SmallArchitecture, classes: int, seed: int) -> Classifier:
    """``name`` with ``classes`` outputs, its weights drawn by ``seed``; for RGB images of 16 x 16
    pixels in [-1, 1].

    - ``vgg``: convolutions and max-pooling, with batch normalisation, without which so short a
      training learns nothing; one linear layer on the maps' mean in place of VGG's three.
    - ``densenet``: three blocks of four layers, each of which sees all before it; behind one 3 x 3
      convolution of stride 2 in place of the stem's 7 x 7 and its pooling.

    Raises ``ValueError`` for another name.
    """
    if name not in ("vgg", "densenet"):
        raise ValueError(f"the small classifier must be vgg or densenet, got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, features = _vgg() if name == "vgg" else _densenet()
        head = nn.Linear(features, classes)
    return Classifier(body, head)


def _vgg() -> tuple[nn.Module, int]:
    """The layers before pooling, and the number of features they produce."""
    # torchvision takes seconds to import, which planning does not need.
    from torchvision.models import vgg

    body = vgg.make_layers(list(_VGG), batch_norm=True)
    for layer in body:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:  # as torchvision draws them
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return body, int(_VGG[-1])


def _densenet() -> tuple[nn.Module, int]:
    from torchvision.models import densenet

    network = densenet.DenseNet(_GROWTH, _DENSE_LAYERS, _STEM, num_classes=1)
    stem = nn.Conv2d(3, _STEM, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    network.features.conv0, network.features.pool0 = stem, nn.Identity()
    return nn.Sequential(network.features, nn.ReLU()), network.classifier.in_features
