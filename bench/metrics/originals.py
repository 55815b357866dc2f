"""How far an image that was restored is from its original: one number per pair.

MSE and SSIM as in :mod:`bench.metrics.target`, with an original of its own for each image. The
distance of features is ours, so that a testbed without LPIPS has a perceptual distance too, and is
never called LPIPS: it knows one layer, pools it, and was calibrated on no person's judgement.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.metrics import target
from bench.metrics.target import Values


def mse(images: Tensor, originals: Tensor) -> Values:
    """Mean squared error of each image to its original, over channels and pixels; lower is nearer.

    images, originals: (n > 0, c, h, w) uint8. Returns (n,) float64 in [0, 1], pixels in [0, 1].
    Raises ``ValueError`` on another shape or type.
    """
    _check(images, originals)
    pairs = zip(images.split(1), originals, strict=True)
    return np.concatenate([target.mse(image, _unit(original)) for image, original in pairs])


def ssim(images: Tensor, originals: Tensor) -> Values:
    """Mean structural similarity of each image to its original; 1 is identical.

    As :func:`mse`: (n,) float64, here in [-1, 1], of images of at least 6 pixels a side.
    """
    _check(images, originals)
    pairs = zip(images.split(1), originals, strict=True)
    return np.concatenate([target.ssim(image, _unit(original)) for image, original in pairs])


def feature_distance(features: Tensor, originals: Tensor) -> Values:
    """The squared distance of each row's direction to that of its original's features: |f/|f| -
    g/|g||^2 = 2 (1 - cos), in [0, 4], and in [0, 2] where no feature is negative; lower is nearer.

    features, originals: (n > 0, d) finite. Rows without any feature have no direction: their
    distance is 1 to others and 0 among themselves. Raises ``ValueError`` on another shape.
    """
    if features.shape != originals.shape or features.dim() != 2 or len(features) == 0:
        raise ValueError(
            f"features must be (n > 0, d), alike on both sides, got {tuple(features.shape)} and "
            f"{tuple(originals.shape)}"
        )
    one, other = (
        torch.nn.functional.normalize(side.double(), dim=1, eps=1e-12)
        for side in (features, originals)
    )
    return np.asarray((one - other).square().sum(1).numpy(), dtype=np.float64)


def constants(originals: Tensor) -> Tensor:
    """For each of ``originals`` (n, c, h, w) uint8 the image of one colour that is nearest to it by
    :func:`mse`, to the rounding of 8 bits: its mean colour.
    """
    means = originals.double().mean(dim=(2, 3), keepdim=True)
    return means.round().to(torch.uint8).expand_as(originals).contiguous()


def _unit(image: Tensor) -> Tensor:
    return image.double() / 255


def _check(images: Tensor, originals: Tensor) -> None:
    for name, values in (("images", images), ("originals", originals)):
        if values.dtype != torch.uint8 or values.dim() != 4 or values.shape != originals.shape:
            raise ValueError(
                f"{name} must be uint8 (n, c, h, w), alike on both sides, got {values.dtype} "
                f"{tuple(values.shape)}"
            )
