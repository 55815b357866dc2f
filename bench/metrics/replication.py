"""How much of its training set a generator reproduces: every generated image's nearest training
image, by the angle between features.

Pan et al. 2024 (arXiv 2311.02373, section 6, figure 5), after Somepalli et al. (arXiv 2305.20086):
features of a copy detector, scaled to unit length; an image's top-1 cosine similarity to the
training set is its replication score. Higher means more of a copy. With SSCD features 0.3 already
looks like a copy; other extractors have other scales, so numbers of two extractors are never
compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# The similarities of a piece of the generated set to all of the training set: 64 MB in float32.
ELEMENTS_AT_ONCE = 2**24
PERCENTILE = 95.0


@dataclass(frozen=True, eq=False)
class Nearest:
    """similarities: (n,) float32 in [-1, 1], higher is nearer; indices: (n,) int64, the nearest
    training row (any one of several equally near). Both on the CPU.
    """

    similarities: Tensor
    indices: Tensor

    @property
    def mean(self) -> float:
        """The mean similarity."""
        return float(self.similarities.double().mean())

    @property
    def percentile_95(self) -> float:
        """The 95th percentile, interpolated. A few copies barely change the mean."""
        return float(np.percentile(self.similarities.double().numpy(), PERCENTILE))


def nearest(
    generated: Tensor, training: Tensor, elements_at_once: int = ELEMENTS_AT_ONCE
) -> Nearest:
    """Each generated image's nearest training image by cosine similarity.

    generated: (n > 0, d), training: (m > 0, d) features, of any scale. ``elements_at_once`` bounds
    the similarities held in memory, and changes the result by float32 rounding at most. Raises
    ``ValueError`` on another shape, on values that are not finite, and on features that are all
    zero, which have no direction.
    """
    rows, columns = _directions("generated", generated), _directions("training", training)
    if rows.shape[1] != columns.shape[1]:
        raise ValueError(
            f"generated and training must have as many features, got {rows.shape[1]} and "
            f"{columns.shape[1]}"
        )
    matches = [
        (piece @ columns.T).max(dim=1)
        for piece in rows.split(max(1, elements_at_once // len(columns)))
    ]
    return Nearest(
        similarities=torch.cat([match.values for match in matches]).clamp(-1, 1).cpu(),
        indices=torch.cat([match.indices for match in matches]).cpu(),
    )


def _directions(name: str, features: Tensor) -> Tensor:
    """Rows of unit length, float32. Scaled by the largest value first: squares of very small or
    large values would underflow or overflow.
    """
    if features.dim() != 2 or len(features) == 0 or features.shape[1] == 0:
        raise ValueError(f"{name} must be (n > 0, d > 0) features, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{name} features must be finite, got NaN or infinity")
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    empty = (largest == 0).flatten()
    if bool(empty.any()):
        first = int(empty.nonzero()[0])
        raise ValueError(
            f"{name} features must not be all zero, got {int(empty.sum())} such rows, the first "
            f"at {first}"
        )
    scaled = (features.detach() / largest).float()
    directions: Tensor = scaled / scaled.norm(dim=1, keepdim=True)
    return directions
