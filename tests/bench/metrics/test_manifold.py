"""Whether an image lies among those of a set: the paper's definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.metrics.manifold import NEIGHBOURS, Manifold


def drawn(count: int, seed: int, width: float = 1.0) -> torch.Tensor:
    return width * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_papers_definition() -> None:
    """Kynkäänniemi et al. 2019, eq. 1: within the distance of some image to its third nearest."""
    own, others = drawn(40, 0).double().numpy(), drawn(100, 1, 1.5).double().numpy()
    expected = []
    for other in others:
        inside = False
        for index, one in enumerate(own):
            rest = np.delete(own, index, axis=0)
            radius = sorted(np.linalg.norm(rest - one, axis=1))[NEIGHBOURS - 1]
            inside = inside or np.linalg.norm(other - one) <= radius
        expected.append(inside)
    holds = Manifold(torch.from_numpy(own)).holds(torch.from_numpy(others))
    assert holds.tolist() == expected and 0 < sum(expected) < 100


def test_by_hand_on_a_line() -> None:
    """Images at 0, 1, 2, 3 and 10: the radii are 3, 2, 2, 3 and 9."""
    inside = Manifold(torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])).holds
    values = torch.tensor([[-3.0], [-3.01], [6.01], [19.0], [19.01]])
    assert inside(values).tolist() == [True, False, True, True, False]


def test_more_of_the_set_inside_than_of_another() -> None:
    """The direction, and that it does not depend on the scale of the features."""
    inside = Manifold(drawn(90, 0)).holds
    assert float(inside(drawn(90, 1)).float().mean()) > 0.8
    assert float(inside(drawn(90, 2) + 10).float().mean()) == 0
    assert torch.equal(Manifold(1e4 * drawn(90, 0)).holds(1e4 * drawn(90, 1)), inside(drawn(90, 1)))


@pytest.mark.parametrize(
    "features",
    [torch.zeros(3, 2), torch.zeros(8), torch.full((8, 2), float("nan"))],
)
def test_what_is_no_set_is_refused(features: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"features must be \(n >= 4, d\) and finite"):
        Manifold(features)
    with pytest.raises(ValueError, match="6 columns, got 2"):
        Manifold(drawn(9, 0)).holds(torch.zeros(1, 2))
