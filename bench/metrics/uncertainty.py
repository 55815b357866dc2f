"""Intervals within one seed: how much a number varies over samples of the same generator."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bench.metrics.fid import Statistics, fid, statistics

Interval = tuple[float, float]

MEAN_RESAMPLES = 2000
# The jackknife behind BCa costs n^2; above this n its correction is below the bootstrap's noise.
BCA_LIMIT = 2000
ELEMENTS_AT_ONCE = 2**22


def bootstrap_interval(values: npt.ArrayLike, confidence: float = 0.95, *, seed: int) -> Interval:
    """Bootstrap interval (2,000 resamples) for the mean of (n >= 2,) finite values: ``(low,
    high)``, in the values' unit.

    Bias-corrected and accelerated (Efron 1987) up to 2,000 values, percentile beyond. Equal values
    give an interval of no width: right for measurements, wrong for shares of 0 or 1, for which use
    :func:`proportion_interval`.
    """
    from scipy import stats  # a second, which planning does not need

    array = np.asarray(values, dtype=np.float64)
    _check_confidence(confidence)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(
            f"values must be at least 2 finite numbers in a list, got shape {array.shape}"
        )
    lowest, width = array.min(), np.ptp(array)
    if width == 0:
        return float(array[0]), float(array[0])
    # BCa divides by third powers of the spread, which underflow for nearly equal values; the
    # bootstrap commutes with scaling.
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


def proportion_interval(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share, ``successes`` out of ``n`` > 0: ``(low, high)`` in [0,
    1], always of positive width.

    Neither has to be an integer: clustered samples count as ``n`` / :func:`design_effect`.
    """
    from scipy import stats  # a second, which planning does not need

    _check_confidence(confidence)
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must be in 0..n with n > 0, got {successes} of {n}")
    share, z = successes / n, float(stats.norm.ppf((1 + confidence) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding leaves 1e-17 at 0 and 1, where the bound is exact, and can exclude the share itself.
    low = 0.0 if successes == 0 else max(0.0, min(share, centre - half))
    return low, (1.0 if successes == n else min(1.0, max(share, centre + half)))


def design_effect(outcomes: npt.ArrayLike, groups: npt.ArrayLike | None) -> float:
    """How many clustered samples equal one independent sample, for their mean: >= 1 (Kish 1965).

    outcomes: (n > 0,) finite values; groups: (n,) integers, equal for samples that belong together
    (crops of one digit), ``None`` if none do. It is the variance of the mean from the groups' sums
    over that of as many independent samples. If all outcomes are equal there is no spread to
    measure; then a group counts as one sample, the worst case.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"outcomes must be a non-empty list of finite numbers, got shape {values.shape}"
        )
    if groups is None:
        return 1.0
    labels = np.asarray(groups)
    if labels.shape != values.shape:
        raise ValueError(
            f"groups must be one for each of the {len(values)} outcomes, got shape {labels.shape}"
        )
    n, (_, member, sizes) = len(values), np.unique(labels, return_inverse=True, return_counts=True)
    most = float(np.square(sizes).sum() / n)
    if len(sizes) == 1 or np.ptp(values) == 0:
        return most
    sums = np.bincount(member, weights=values - values.mean())
    clustered = np.square(sums).sum() * len(sizes) / (len(sizes) - 1) / n**2
    return float(max(1.0, clustered / (values.var() / n)))


def fid_interval(features: Tensor, reference: Statistics, confidence: float = 0.95) -> Interval:
    """Interval for ``fid(statistics(features), reference)``: ``(low, high)``, ``low`` >= 0.

    features: (n >= 2, d). The reference is assumed exact. The standard error is the infinitesimal
    jackknife's (Jaeckel 1972), ``sqrt(sum_i u_i^2) / n`` with ``u_i`` the derivative of FID in
    image i's weight: ``2 (m - m_r).(x_i - m) + (x_i - m)' (1 - T) (x_i - m)``, less its mean, where
    ``T = C_r^(1/2) (C_r^(1/2) C C_r^(1/2))^(-1/2) C_r^(1/2)`` is the map that carries one Gaussian
    to the other. Unlike in a bootstrap no image is drawn twice, which would raise FID by as much as
    the finite n did.

    The interval is for FID **at this n**, which is itself above that of infinitely many samples;
    close to the lowest FID that n images can have it is up to 40 % too wide. Features whose FID is
    exactly 0 give an interval of no width.
    """
    from scipy import stats  # a second, which planning does not need

    _check_confidence(confidence)
    estimate = fid(statistics(features), reference)
    points = features.double().cpu().numpy()
    mean = points.mean(axis=0)
    centred = points - mean
    root = _square_root(reference.covariance)
    weighted = centred @ root
    values, vectors = np.linalg.eigh(weighted.T @ weighted / (len(points) - 1))
    # Directions in which no image varies have no derivative.
    varying = values > values.max() * len(values) * np.finfo(np.float64).eps
    turned = vectors[:, varying] / np.sqrt(np.sqrt(values[varying]))
    moved = weighted @ turned
    # x' T x = |(C_r^(1/2) C C_r^(1/2))^(-1/4) C_r^(1/2) x|^2, so the map itself is never formed.
    spread = np.square(centred).sum(axis=1) - np.square(moved).sum(axis=1)
    # The covariance is the unbiased one.
    influence = 2 * centred @ (mean - reference.mean) + spread * len(points) / (len(points) - 1)
    error = float(np.std(influence, ddof=1)) / math.sqrt(len(points))
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * error
    return max(0.0, estimate - reach), estimate + reach


def _square_root(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The symmetric square root of a covariance matrix."""
    values, vectors = np.linalg.eigh(matrix)
    root: npt.NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
