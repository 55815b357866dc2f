"""What the testbed's extractor sees, for measurements that judge by it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bench.artefacts.arrays import load_features
from bench.artefacts.images import load_images
from bench.artefacts.roles import CLEAN
from bench.measurements.measurement import Materials
from bench.metrics.fid import extract_features


def eyes(materials: Materials) -> Callable[[Tensor], Tensor]:
    """Images (n, c, h, w) uint8 -> features (n, d)."""
    features = materials.testbed.features
    features.register()

    def see(images: Tensor) -> Tensor:
        weights = features.weights()
        return extract_features(images, features.extractor, weights, device=materials.device)

    return see


def seen(materials: Materials, role: str, see: Callable[[Tensor], Tensor]) -> Tensor:
    """The features of a set of samples: clean ones may have been seen before."""
    known = materials.inputs.get("clean_features") if role == CLEAN else None
    return load_features(known) if known else see(load_images(materials.inputs[role]))
