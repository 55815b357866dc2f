"""The form of every classifier: a convolutional body, the mean over its last feature maps, and one
linear layer.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.diffusion.images import to_unit_range


class Classifier(nn.Module):
    """Logits (n, classes) from float images (n, c, h, w) in [-1, 1]; any normalisation of its own
    belongs in ``body``.

    ``body``: images -> feature maps (n, d, h', w'); ``head``: pooled features (n, d) -> logits.
    Detectors use the maps, the features and the logits.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.head.out_features

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps, (n, d, h', w')."""
        maps: Tensor = self.body(images)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The penultimate features, (n, d): the maps' mean over positions."""
        return self.maps(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def clone(self) -> Classifier:
        """An independent copy."""
        return copy.deepcopy(self)


def predict(classifier: Classifier, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Predicted classes (n,) int64 of ``images`` (n, c, h, w) uint8, on the CPU, in evaluation
    mode.

    ``batch_size``: by default 512, and proportionally fewer for images larger than 64 x 64: 8 at
    512 x 512.
    """
    return logits(classifier, images, batch_size).argmax(1)


@torch.inference_mode()
def logits(classifier: Classifier, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Like :func:`predict`, but the logits of every class: (n, classes) float32."""
    classifier.eval()
    batch_size = batch_size or max(
        1, min(512, 512 * 64 * 64 // (images.shape[-2] * images.shape[-1]))
    )
    device = classifier.head.weight.device
    outputs = [
        classifier(to_unit_range(piece).to(device)).float().cpu()
        for piece in images.split(batch_size)
    ]
    return torch.cat(outputs) if outputs else torch.empty(0, classifier.classes)
