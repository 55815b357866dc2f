"""Data replication: a copy of a training image must be found wherever it stands, and its score must
not depend on scale or memory.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.metrics.replication import Nearest, nearest


def features(n: int, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def slowly(generated: Tensor, training: Tensor) -> tuple[list[float], list[int]]:
    """Every pair on its own, in Python's floats."""
    similarities, indices = [], []
    for one in generated.tolist():
        cosines = []
        for other in training.tolist():
            lengths = math.sqrt(sum(value**2 for value in one)) * math.sqrt(
                sum(value**2 for value in other)
            )
            cosines.append(sum(a * b for a, b in zip(one, other, strict=True)) / lengths)
        similarities.append(max(cosines))
        indices.append(cosines.index(max(cosines)))
    return similarities, indices


@pytest.mark.parametrize("elements_at_once", [1, 50, 2**24])
def test_it_is_the_slow_definition_however_much_memory_there_is(elements_at_once: int) -> None:
    generated, training = features(23), features(17, seed=1)
    result = nearest(generated, training, elements_at_once)
    similarities, indices = slowly(generated, training)
    assert result.similarities.dtype == torch.float32 and result.indices.dtype == torch.int64
    np.testing.assert_allclose(result.similarities.numpy(), similarities, atol=1e-6)
    assert result.indices.tolist() == indices


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    d=st.integers(2, 12),
    exponent=st.integers(-30, 30),
)
def test_similarity_is_bounded_and_knows_no_scale(
    seed: int, n: int, m: int, d: int, exponent: int
) -> None:
    """Squares of 1e-30 and 1e30 leave float32: a plain norm would give 0 or infinity."""
    generated, training = features(n, d, seed), features(m, d, seed + 1)
    result = nearest(generated, training)
    assert result.similarities.abs().max() <= 1
    scaled = nearest(generated * 10.0**exponent, training / 10.0**exponent)
    torch.testing.assert_close(scaled.similarities, result.similarities, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 20), m=st.integers(2, 20))
def test_more_training_images_can_only_be_nearer(seed: int, n: int, m: int) -> None:
    generated, training = features(n, seed=seed), features(m, seed=seed + 1)
    fewer = nearest(generated, training[: m // 2]).similarities
    assert (nearest(generated, training).similarities >= fewer - 1e-6).all()


def test_copies_are_found_and_their_negatives_are_not() -> None:
    """The direction: a copy scores 1, the opposite -1."""
    training = features(10, 4)
    result = nearest(training[[7, 2]] * 3, training)
    torch.testing.assert_close(result.similarities, torch.ones(2))
    assert result.indices.tolist() == [7, 2]
    # In float32 a row's product with itself is often 1.0000001, which is no cosine.
    many = features(500, 33)
    itself = nearest(many, many)
    assert itself.similarities.max() == 1 and itself.indices.tolist() == list(range(500))
    assert float(nearest(-training[:1], training[:1]).similarities) == pytest.approx(-1)


def test_summaries_are_the_mean_and_the_95th_percentile() -> None:
    """6 copies among 100: the percentile sees them, the mean hardly does; 4 stay below it."""
    values = torch.full((100,), 0.2)
    values[:6] = 1.0
    result = Nearest(values, torch.zeros(100, dtype=torch.int64))
    assert result.mean == pytest.approx(0.248)
    assert result.percentile_95 == pytest.approx(1.0)
    values[:6] = torch.tensor([1.0, 1, 1, 1, 0.2, 0.2])
    assert result.percentile_95 == pytest.approx(0.2)
    ramp = Nearest(torch.linspace(0, 1, 101), torch.zeros(101, dtype=torch.int64))
    assert ramp.percentile_95 == pytest.approx(0.95)


def test_features_without_a_direction_are_refused() -> None:
    """0 / 0 is NaN, and NaN is the largest value to ``max``: every image would be nearest to the
    broken row.
    """
    good, broken = features(5), features(5)
    broken[3] = 0
    with pytest.raises(
        ValueError, match="training features must not be all zero, got 1 such rows, the first at 3"
    ):
        nearest(good, broken)
    with pytest.raises(
        ValueError, match="generated features must not be all zero, got 1 such rows, the first at 3"
    ):
        nearest(broken, good)
    broken[3] = float("nan")
    with pytest.raises(ValueError, match="training features must be finite"):
        nearest(good, broken)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many features, got 8 and 4"):
        nearest(features(2), features(2, 4))
    with pytest.raises(
        ValueError, match=r"generated must be \(n > 0, d > 0\) features, got \(0, 8\)"
    ):
        nearest(features(0), features(2))
    with pytest.raises(ValueError, match=r"training must be \(n > 0, d > 0\) features, got \(8,\)"):
        nearest(features(2), features(2)[0])
