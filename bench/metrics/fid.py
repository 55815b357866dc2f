"""FID and KID between two image sets, by torch-fidelity's own code: its extractors and its two
formulas, none of its caches.

FID: Heusel et al. 2017, arXiv 1706.08500, equation 6. KID: Binkowski et al. 2018, arXiv 1801.01401,
section 4 (the unbiased squared MMD with the kernel ``(x.y / d + 1)^3``, averaged over random
subsets). Both: 0 for equal distributions, lower is better. Neither may be compared across
extractors, and FID is biased upwards at small n, so it may not be compared across sample counts.

Features are passed as float64, where torch-fidelity would average float32: the numbers agree to
about 1e-6 and do not depend on the order of the images. torch-fidelity's disk cache is a pickle and
is never used: only lower-level functions are called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import UserError

# torch-fidelity takes seconds to import, which planning does not need, so each function imports
# what it calls.
if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

# The published subset size; half the smaller set where that is less, so that subsets still differ.
KID_SUBSET_SIZE = 1000
KID_SUBSETS = 100


@dataclass(frozen=True, eq=False)
class Statistics:
    """The Gaussian that FID compares. mean: (d,); covariance: (d, d), unbiased (n - 1); both
    float64.
    """

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]


def extract_features(
    images: Tensor,
    extractor: str,
    weights_path: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The features FID is taken on: (n, d) float32 on the CPU, row i for image i.

    images: (n, c, h, w) uint8, 0 to 255. ``extractor``: ``inception-v3-compat`` or a name that was
    registered with ``torch_fidelity.register_feature_extractor``; its default layer for FID is
    used. ``weights_path`` is handed to it as ``feature_extractor_weights_path``. ``batch_size``
    changes the features by float32 rounding at most.

    Without ``weights_path`` the Inception network reads its file from torch's hub folder, or
    downloads it there. Its loader would unpickle anything; while the extractor is built PyTorch is
    restricted to tensors (``TORCH_FORCE_WEIGHTS_ONLY_LOAD``), so a tampered file raises instead of
    running code. torch-fidelity's other built-in extractors are refused: they download code or
    TorchScript, which that switch does not cover.

    Raises ``UserError`` for an unknown extractor, or weights that are missing, unreachable or not
    of that network; ``ValueError`` for images of another type or shape, or features that are not
    finite.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or len(images) == 0:
        raise ValueError(
            f"images must be uint8 (n > 0, c, h, w), got {images.dtype} {tuple(images.shape)}"
        )
    network = _build(extractor, None if weights_path is None else Path(weights_path)).to(device)
    rows = []
    with torch.no_grad():
        for batch in torch.split(images, batch_size):
            # One layer was asked for, so the tuple has one entry.
            rows.append(network(batch.to(device))[0].float().cpu())
    features = torch.cat(rows)
    _check(features, f"{extractor} features")
    return features


def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of (n >= 2, d >= 2) features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    _check(features, "features", at_least=2)
    if features.shape[1] < 2:
        raise ValueError(f"features must have at least 2 columns, got {features.shape[1]}")
    result = fid_features_to_statistics(features.double().cpu())
    return Statistics(mean=result["mu"], covariance=result["sigma"])


def fid(a: Statistics, b: Statistics) -> float:
    """Fréchet inception distance, ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``: >= 0,
    symmetric, lower is nearer.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"both statistics must have the same number of features, got {a.mean.shape} and "
            f"{b.mean.shape}"
        )
    first, second = ({"mu": side.mean, "sigma": side.covariance} for side in (a, b))
    distance = float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])
    # Rounding can make it slightly negative for equal statistics.
    return max(0.0, distance)


def kid(a: Tensor, b: Tensor, seed: int) -> float:
    """Kernel inception distance between (n, d) and (m, d) features, n and m at least 4: unbiased,
    so it may dip below 0.

    The mean over 100 random subsets of 1,000 images from each side, or of half the smaller side if
    that is less; ``seed`` draws them. Unlike FID its expectation does not depend on n.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    for features in (a, b):
        _check(features, "features", at_least=4)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"both sides must have the same number of features, got {a.shape[1]} and {b.shape[1]}"
        )
    size = min(KID_SUBSET_SIZE, len(a) // 2, len(b) // 2)
    result = kid_features_to_metric(
        a.double(),
        b.double(),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return float(result[KEY_METRIC_KID_MEAN])


def _build(extractor: str, weights_path: Path | None) -> FeatureExtractorBase:
    """The extractor, in evaluation mode on the CPU. Never compiled: torch-fidelity's default, kept
    explicit.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    from torch_fidelity.utils import create_feature_extractor

    extractor_class = FEATURE_EXTRACTORS_REGISTRY.get(extractor)
    built_in = extractor_class is not None and extractor_class.__module__.startswith(
        "torch_fidelity."
    )
    if extractor_class is None or (built_in and extractor_class is not FeatureExtractorInceptionV3):
        ours = sorted(
            n
            for n, k in FEATURE_EXTRACTORS_REGISTRY.items()
            if not k.__module__.startswith("torch_fidelity.")
        )
        raise UserError(
            f"the feature extractor must be one of {['inception-v3-compat', *ours]}, got "
            f"{extractor!r}"
        )
    if weights_path is not None and not weights_path.is_file():
        raise UserError(
            f"the weights of {extractor} must be a file, got "
            f"{str(weights_path)!r}{_remedy(extractor_class, weights_path)}"
        )
    layer = extractor_class.get_default_feature_layer_for_metric("fid")
    path = None if weights_path is None else str(weights_path)
    try:
        with _tensors_only():
            network: FeatureExtractorBase = create_feature_extractor(
                extractor,
                [layer],
                cuda=False,
                verbose=False,
                feature_extractor_weights_path=path,
                feature_extractor_compile=False,
            )
            return network
    except Exception as error:
        # Network, disk, format and shape errors have no common type. A bug in a registered
        # extractor keeps its traceback.
        if not built_in:
            raise
        # PyTorch's own message about a refused pickle recommends disabling the protection.
        refused = "eights only load failed" in str(error)
        reason = (
            "not a file of tensors"
            if refused
            else next(iter(str(error).strip().splitlines()), type(error).__name__)
        )
        raise UserError(
            f"the weights of {extractor} could not be read ({reason})"
            f"{_remedy(extractor_class, weights_path)}"
        ) from error


def _remedy(extractor_class: type[FeatureExtractorBase], weights_path: Path | None) -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    if extractor_class is not FeatureExtractorInceptionV3:
        return ""
    default = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    return f"; download {URL_INCEPTION_V3} and put it at {weights_path or default}"


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Inside this context PyTorch's loader accepts tensors only, whatever the caller requests."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


def _check(features: Tensor, name: str, at_least: int = 1) -> None:
    if features.dim() != 2 or len(features) < at_least:
        raise ValueError(f"{name} must be (n >= {at_least}, d), got {tuple(features.shape)}")
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
