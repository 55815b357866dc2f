"""How well scores separate two groups of images: ROC, its area, and the true positive rate at a
tolerated false positive rate.

Everywhere: scores (n,), finite, **higher means more suspicious**; positive (n,) bool, True for the
rows a detector should flag. Neither group may be empty. Thresholds are the scores themselves: equal
scores are flagged together, and no point is interpolated between two thresholds. Raises
``ValueError`` for another shape or type, a score that is NaN or infinite, and an empty group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.metrics.uncertainty import Interval, proportion_interval

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Members = npt.NDArray[np.int64]


class Histograms(NamedTuple):
    """Counts of both groups' scores in the same bins: ``edges`` (bins + 1,), ``negative`` and
    ``positive`` (bins,) int64.
    """

    edges: Values
    negative: npt.NDArray[np.int64]
    positive: npt.NDArray[np.int64]


def roc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[Values, Values]:
    """``(fpr, tpr)``: the shares of negatives and of positives at or above each distinct score,
    from (0, 0) up to (1, 1).
    """
    values, flags = _checked(scores, positive)
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true_positives = np.cumsum(flags[order])[ends]
    false_positives = ends + 1 - true_positives
    return (
        np.append(0.0, false_positives / np.count_nonzero(~flags)),
        np.append(0.0, true_positives / np.count_nonzero(flags)),
    )


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """The probability that a positive scores above a negative, ties counting half, in [0, 1]: 0.5
    is chance, 1 separates all.

    Below 0.5 a detector's direction is wrong.
    """
    values, flags = _checked(scores, positive)
    return float(_wins(values, flags)[0].mean())


class Area(NamedTuple):
    """An interval for :func:`auroc`, and ``effective_n``, the number of independent pairs with the
    same variance: ``area (1 - area)`` over the area's variance.
    """

    low: float
    high: float
    effective_n: float


def auroc_interval(
    scores: npt.ArrayLike, positive: npt.ArrayLike, confidence: float = 0.95
) -> Interval:
    """:func:`area_interval` without groups: ``(low, high)``."""
    return area_interval(scores, positive, confidence)[:2]


def area_interval(
    scores: npt.ArrayLike,
    positive: npt.ArrayLike,
    confidence: float = 0.95,
    groups: npt.ArrayLike | None = None,
) -> Area:
    """Interval for :func:`auroc` over the choice of images: DeLong, DeLong, Clarke-Pearson (1988),
    on the logit scale.

    groups: (n,) integers, equal for images that belong together (crops of one digit); the variance
    is then that of Obuchowski (1997), which treats the groups as sampled, not the images.

    Without any spread DeLong's interval would have no width. For an area of exactly 0 or 1 the
    other bound is Wilson's for as many pairs as the smaller group allows without using an image
    twice, which is conservative. A group of one image has no spread: (0, 1). Scores that are all
    equal give (0.5, 0.5): other images would not change that.
    """
    from scipy import special, stats  # a second, which planning does not need

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    values, flags = _checked(scores, positive)
    members = (
        np.arange(len(values))
        if groups is None
        else np.unique(_same_length(groups, values), return_inverse=True)[1]
    )
    of_positives, of_negatives = _wins(values, flags)
    pairs = min(len(np.unique(members[flags])), len(np.unique(members[~flags])))
    area = float(of_positives.mean())
    if pairs == 1:
        return Area(0.0, 1.0, 1.0)
    if area in (0.0, 1.0):
        return Area(*proportion_interval(int(area) * pairs, pairs, confidence), float(pairs))
    variance = _area_variance(of_positives, of_negatives, members[flags], members[~flags])
    if variance == 0:
        return Area(area, area, float(pairs))
    reach = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / (area * (1 - area))
    logit = special.logit(area)
    low, high = special.expit([logit - reach, logit + reach])
    return Area(float(low), float(high), area * (1 - area) / variance)


def _area_variance(
    of_positives: Values, of_negatives: Values, among_positives: Members, among_negatives: Members
) -> float:
    """Obuchowski (1997), equation 4; with every image a group of its own, DeLong's. >= 0."""
    count = int(max(among_positives.max(), among_negatives.max())) + 1
    area, sums, group_counts = of_positives.mean(), [], []
    for shares, members in ((of_positives, among_positives), (of_negatives, among_negatives)):
        sums.append(np.bincount(members, weights=shares - area, minlength=count) / len(shares))
        group_counts.append(np.count_nonzero(np.bincount(members, minlength=count)))
    own = sum(
        n / (n - 1) * float(np.square(part).sum())
        for n, part in zip(group_counts, sums, strict=True)
    )
    shared = 2 * count / (count - 1) * float((sums[0] * sums[1]).sum())
    # A few groups can make the sum negative, which no variance is.
    return float(own + shared if own + shared > 0 else own)


def tpr_at_fpr(scores: npt.ArrayLike, positive: npt.ArrayLike, rate: float) -> float:
    """The largest share of positives flagged by a threshold that flags at most ``rate`` of the
    negatives, both in [0, 1].

    Never interpolated: with fewer than 1 / ``rate`` negatives no false alarm is allowed at all.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    fpr, tpr = roc(scores, positive)
    return float(tpr[fpr <= rate].max())


def threshold_at_fpr(clean_scores: npt.ArrayLike, rate: float) -> float:
    """The lowest threshold with at most ``rate`` of ``clean_scores`` ((n > 0,), finite) **above**
    it. A detector's owner can fix it in advance; scores above it are flagged. With fewer than 1 /
    ``rate`` clean scores it is the largest of them.
    """
    values = np.asarray(clean_scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"clean scores must be a non-empty list of finite numbers, got shape {values.shape}"
        )
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    # 0.29 * 100 is a little below 29 in binary.
    allowed = math.floor(rate * len(values) * (1 + 1e-12))
    return float(np.sort(values)[len(values) - 1 - allowed])


def thin(fpr: npt.ArrayLike, tpr: npt.ArrayLike, points: int = 100) -> tuple[Values, Values]:
    """At most ``points`` >= 2 of a ROC's own points for a plot, evenly spaced along the curve, both
    ends included.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    across, up = np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)
    if across.ndim != 1 or across.shape != up.shape or across.size == 0:
        raise ValueError(
            f"fpr and tpr must be lists of one length, got shapes {across.shape} and {up.shape}"
        )
    if len(across) <= points:
        return across, up
    # Both are non-decreasing, so their sum increases along the curve.
    along = across + up
    chosen = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], points)))
    return across[chosen], up[chosen]


def histograms(scores: npt.ArrayLike, positive: npt.ArrayLike, bins: int = 30) -> Histograms:
    """Both groups' counts in ``bins`` >= 1 equal bins from the lowest score of all to the
    highest.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    values, flags = _checked(scores, positive)
    edges = np.histogram_bin_edges(values, bins=bins)
    negatives, positives = (
        np.histogram(values[group], bins=edges)[0].astype(np.int64) for group in (~flags, flags)
    )
    return Histograms(edges.astype(np.float64), negatives, positives)


def _wins(values: Values, flags: Flags) -> tuple[Values, Values]:
    """For each positive the share of negatives it beats, and for each negative the share of
    positives that beat it.

    A rank among all less the rank within one's own group counts the others that one beats
    (midranks: ties count half).
    """
    from scipy import stats  # a second, which planning does not need

    ranks = stats.rankdata(values)
    positives, negatives = values[flags], values[~flags]
    of_positives = (ranks[flags] - stats.rankdata(positives)) / len(negatives)
    of_negatives = 1 - (ranks[~flags] - stats.rankdata(negatives)) / len(positives)
    return of_positives, of_negatives


def _checked(scores: npt.ArrayLike, positive: npt.ArrayLike) -> tuple[Values, Flags]:
    values, flags = np.asarray(scores, dtype=np.float64), np.asarray(positive)
    if values.ndim != 1 or flags.shape != values.shape:
        raise ValueError(
            f"scores and positive must be lists of one length, got shapes {values.shape} and "
            f"{flags.shape}"
        )
    if flags.dtype != np.bool_:
        raise ValueError(f"positive must be boolean, got {flags.dtype}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"scores must be finite, got {np.count_nonzero(~np.isfinite(values))} that are not"
        )
    count = np.count_nonzero(flags)
    if count in (0, len(flags)):
        raise ValueError(
            f"both groups must be there, got {count} positive and {len(flags) - count} negative "
            f"scores"
        )
    return values, flags


def _same_length(groups: npt.ArrayLike, values: Values) -> npt.NDArray[np.generic]:
    labels = np.asarray(groups)
    if labels.shape != values.shape:
        raise ValueError(
            f"groups must be one for each of the {len(values)} scores, got shape {labels.shape}"
        )
    return labels
