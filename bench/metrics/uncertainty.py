"""Intervals within one seed: how much a number would move had other samples been drawn from the same generator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from bench.metrics.fid import Statistics, fid, statistics

Interval = tuple[float, float]

MEAN_RESAMPLES = 2000
# The jackknife behind BCa costs n^2; by here the correction is below the bootstrap's own noise.
BCA_LIMIT = 2000
ELEMENTS_AT_ONCE = 2**22


def bootstrap_interval(values: npt.ArrayLike, confidence: float = 0.95, *, seed: int) -> Interval:
    """Bootstrap interval (2,000 resamples) for the mean of (n >= 2,) finite values: ``(low, high)``, in the values' unit.

    Bias-corrected and accelerated (Efron 1987) up to 2,000 values, percentile beyond. Equal values give an interval of no
    width: right for measurements, wrong for shares of 0 or 1, for which use :func:`proportion_interval`.
    """
    array = np.asarray(values, dtype=np.float64)
    _check_confidence(confidence)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(f"values must be at least 2 finite numbers in a list, got shape {array.shape}")
    lowest, width = array.min(), np.ptp(array)
    if width == 0:
        return float(array[0]), float(array[0])
    # BCa divides by third powers of the spread, which underflow for nearly equal values; the bootstrap commutes with scaling.
    result = stats.bootstrap(
        ((array - lowest) / width,),
        np.mean,
        confidence_level=confidence,
        n_resamples=MEAN_RESAMPLES,
        method="BCa" if array.size <= BCA_LIMIT else "percentile",
        batch=max(1, ELEMENTS_AT_ONCE // array.size),
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(lowest + width * result.low), float(lowest + width * result.high)


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share, ``successes`` out of ``n`` > 0: ``(low, high)`` in [0, 1], never of no width."""
    _check_confidence(confidence)
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must be in 0..n with n > 0, got {successes} of {n}")
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    # SciPy's rounding leaves 1e-17 at the ends, where the interval is exact.
    return (0.0 if successes == 0 else float(interval.low)), (1.0 if successes == n else float(interval.high))


def bootstrap_fid(
    features: Tensor, reference: Statistics, resamples: int = 200, confidence: float = 0.95, *, seed: int, device: str = "cpu"
) -> Interval:
    """Bootstrap interval for ``fid(statistics(features), reference)``: ``(low, high)``, ``low`` >= 0.

    features: (n >= 2, d). The reference is taken as known. A resample repeats images, which raises its FID by about as much
    again as the finite n already did, so a plain percentile interval can lie wholly above the estimate. The bootstrap
    therefore gives the spread only: its quantiles, less its mean, are laid around the estimate. The interval is for FID **at
    this n**, which is itself above that of infinitely many samples.

    A resample costs one product and the eigenvalues of one symmetric matrix (n x n if n < d), in float64 on ``device``; at d = 2,048
    and n = 10,000 that is about 85 GFLOP. What is drawn does not depend on the device.
    """
    _check_confidence(confidence)
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    estimate = fid(statistics(features), reference)
    n, rng = len(features), np.random.default_rng(seed)
    # How often each image is drawn: a weighted sum needs no copy of the rows.
    drawn: Iterable[Any] = (rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(resamples))
    points: Any = features.double().cpu().numpy()
    mean: Any = reference.mean
    covariance: Any = reference.covariance
    if device != "cpu":
        points, mean, covariance = (torch.from_numpy(array).to(device) for array in (points, mean, covariance))
        drawn = (torch.from_numpy(counts).to(device) for counts in drawn)
    distances = np.array(_resampled(points, mean, covariance, drawn), dtype=np.float64)
    tail = (1 - confidence) / 2
    low, high = np.quantile(distances, [tail, 1 - tail]) - distances.mean() + estimate
    return max(0.0, float(low)), float(high)


def _resampled(points: Any, mean: Any, covariance: Any, drawn: Iterable[Any]) -> list[float]:
    """FID of every resample of ``points`` (n, d) to the reference; ``drawn``: how often each row is in it, (n,).

    All are float64 arrays of NumPy or all tensors of one device: the lines below mean the same in both.
    """
    library: Any = torch if isinstance(points, Tensor) else np
    # Shifting both sides alike changes no FID, and keeps the weighted sums below free of cancellation.
    points = points - mean
    # tr (C C_r)^(1/2) = tr (C_r^(1/2) C C_r^(1/2))^(1/2): multiplied once here, symmetric in every resample.
    values, vectors = library.linalg.eigh(covariance)
    weighted = points @ ((vectors * library.sqrt(library.clip(values, 0, None))) @ vectors.T)
    n = len(points)
    squared_norms = library.square(points).sum(axis=1)
    distances = []
    for counts in drawn:
        offset = counts @ points / n
        trace = (counts @ squared_norms - n * offset @ offset) / (n - 1)
        centred = (weighted - counts @ weighted / n) * library.sqrt(counts / (n - 1))[:, None]
        gram = centred.T @ centred if n >= centred.shape[1] else centred @ centred.T
        shared = library.sqrt(library.clip(library.linalg.eigvalsh(gram), 0, None)).sum()
        distances.append(float(offset @ offset + trace + library.trace(covariance) - 2 * shared))
    return distances


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
