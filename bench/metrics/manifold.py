"""Whether an image lies among those of a set, by its features: the precision of Kynkäänniemi et al.
2019 (arXiv 1904.06991, eq. 1 and 2), which TrojDiff calls attack precision (Chen et al. 2023).

The set's manifold is a ball around each of its images, as wide as the distance to the third nearest
of the others. Deviation: none, but for the number of images, here a hundred and not ten thousand.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The paper's k.
NEIGHBOURS = 3
_AT_ONCE = 1024


class Manifold:
    """``features``: of the set, (n > :data:`NEIGHBOURS`, d), finite. Raises ``ValueError`` if
    not.
    """

    def __init__(self, features: Tensor) -> None:
        _check(features, NEIGHBOURS + 1)
        self._centres = features.double()
        distances = torch.cdist(self._centres, self._centres)
        # The nearest of all is the image itself.
        self._radii = distances.sort(1).values[:, NEIGHBOURS]

    def holds(self, features: Tensor) -> Tensor:
        """Whether each of (m > 0, d) ``features`` lies in some ball: (m,) bool. Raises
        ``ValueError`` for other shapes, or values that are not finite.
        """
        _check(features, 1)
        if features.shape[1] != self._centres.shape[1]:
            raise ValueError(
                f"features must have {self._centres.shape[1]} columns, got {features.shape[1]}"
            )
        pieces = features.double().split(_AT_ONCE)
        return torch.cat(
            [(torch.cdist(piece, self._centres) <= self._radii).any(1) for piece in pieces]
        )


def _check(features: Tensor, at_least: int) -> None:
    if features.dim() != 2 or len(features) < at_least or not bool(features.isfinite().all()):
        raise ValueError(
            f"features must be (n >= {at_least}, d) and finite, got {tuple(features.shape)}"
        )
