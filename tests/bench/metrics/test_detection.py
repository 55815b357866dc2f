"""Detection numbers: ties, directions and small groups are where AUROC and TPR at a rate quietly
flatter a detector.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from bench.metrics.detection import (
    area_interval,
    auroc,
    auroc_interval,
    histograms,
    roc,
    thin,
    threshold_at_fpr,
    tpr_at_fpr,
)
from bench.metrics.uncertainty import proportion_interval

Groups = tuple[np.ndarray, np.ndarray]


@st.composite
def groups(draw: st.DrawFn, largest: int = 40) -> Groups:
    """Scores with ties (few levels) or without, and both groups there."""
    n = draw(st.integers(2, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    levels = draw(st.integers(1, 60))
    positive = rng.random(n) < draw(st.floats(0.1, 0.9))
    positive[:2] = [True, False]
    return rng.integers(0, levels, n) / 7 - 3, positive


def planted(negatives: int, positives: int, shift: float, seed: int = 0) -> Groups:
    rng = np.random.default_rng(seed)
    scores = np.concatenate(
        [rng.standard_normal(negatives), rng.standard_normal(positives) + shift]
    )
    return scores, np.arange(negatives + positives) >= negatives


@settings(max_examples=60, deadline=None)
@given(groups())
def test_auroc_is_the_share_of_pairs_in_order(case: Groups) -> None:
    scores, positive = case
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(groups())
def test_roc_is_scikit_learns_and_its_area_is_auroc(case: Groups) -> None:
    scores, positive = case
    fpr, tpr = roc(scores, positive)
    expected_fpr, expected_tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(tpr, expected_tpr, rtol=0, atol=1e-12)
    area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    assert area == pytest.approx(auroc(scores, positive), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(case=groups(), rate=st.floats(0, 1))
def test_tpr_at_fpr_is_the_best_threshold_that_keeps_the_rate(case: Groups, rate: float) -> None:
    scores, positive = case
    best = 0.0
    for threshold in scores:
        if np.mean(scores[~positive] >= threshold) <= rate:
            best = max(best, float(np.mean(scores[positive] >= threshold)))
    assert tpr_at_fpr(scores, positive, rate) == pytest.approx(best, abs=1e-12)


def test_closed_forms_and_direction() -> None:
    """Positives on top are found; a detector with its sign turned must show as 0, not as 1."""
    positive = np.array([False, False, True, True])
    assert auroc([0, 1, 2, 3], positive) == 1.0
    assert auroc([3, 2, 1, 0], positive) == 0.0
    assert auroc([5, 5, 5, 5], positive) == 0.5
    assert auroc([0, 2, 1, 3], positive) == 0.75
    assert tpr_at_fpr([0, 2, 1, 3], positive, 0.0) == 0.5
    assert tpr_at_fpr([0, 2, 1, 3], positive, 0.5) == 1.0


def test_tpr_is_not_interpolated_upwards() -> None:
    """One threshold finds all and alarms on 1 of 10, the one above finds nothing: at 9 % there is
    no half of it to have.
    """
    scores, positive = [1.0] + 9 * [0.0] + 5 * [1.0], np.arange(15) >= 10
    assert tpr_at_fpr(scores, positive, 0.09) == 0.0
    assert tpr_at_fpr(scores, positive, 0.1) == 1.0


def test_a_rate_met_exactly_is_met() -> None:
    """29 false alarms of 100 are 29 %, whatever binary fractions make of it."""
    negatives = np.arange(100.0)
    for count in range(1, 100):
        scores = np.append(negatives, 99.5 - count)
        assert tpr_at_fpr(scores, np.arange(101) == 100, count / 100) == 1.0
        assert tpr_at_fpr(scores, np.arange(101) == 100, (count - 0.5) / 100) == 0.0


def test_torch_tensors_are_taken_as_they_come() -> None:
    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 1.0


def delong(scores: np.ndarray, positive: np.ndarray) -> float:
    """The variance by its definition: every pair is compared."""
    wins = np.array(
        [[(p > n) + 0.5 * (p == n) for n in scores[~positive]] for p in scores[positive]]
    )
    return float(
        wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]
    )


@settings(max_examples=40, deadline=None)
@given(groups())
def test_the_interval_is_delongs_on_the_logit_scale(case: Groups) -> None:
    scores, positive = case
    area = auroc(scores, positive)
    low, high = auroc_interval(scores, positive)
    assert 0 <= low <= area + 1e-12 and area - 1e-12 <= high <= 1
    if 0 < area < 1 and 1 < positive.sum() < len(positive) - 1:
        reach = 1.959963985 * delong(scores, positive) ** 0.5 / (area * (1 - area))
        for end, sign in ((low, -1), (high, 1)):
            assert np.log(end / (1 - end)) == pytest.approx(
                np.log(area / (1 - area)) + sign * reach, abs=1e-6
            )


def test_the_interval_covers() -> None:
    """Two normals a distance apart, true area Phi(shift / sqrt 2) = 0.9: 95 % should mean about 95
    %.
    """
    shift = 1.2815515655446004 * 2**0.5
    covered = 0
    for seed in range(400):
        low, high = auroc_interval(*planted(60, 40, shift, seed))
        covered += low <= 0.9 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_perfect_separation_is_not_certainty() -> None:
    """DeLong's variance is 0 there: ten pairs in order would print as 1.000 to 1.000."""
    scores, positive = np.arange(30.0), np.arange(30) >= 20
    assert auroc_interval(scores, positive) == proportion_interval(10, 10)
    assert auroc_interval(-scores, positive) == proportion_interval(0, 10)
    assert auroc_interval([0.0, 1.0, 2.0], [False, False, True]) == (0.0, 1.0)
    assert auroc_interval(np.ones(30), positive) == (0.5, 0.5)


def test_the_interval_narrows_with_more_images_and_widens_with_confidence() -> None:
    def width(n: int, confidence: float = 0.95) -> float:
        low, high = auroc_interval(*planted(n, n, 1.0), confidence)
        return high - low

    assert width(1600) < 0.6 * width(400) < 0.6 * 0.6 * width(100)
    assert width(100, 0.8) < width(100) < width(100, 0.99)


def test_a_thin_roc_is_the_curves_own_points_with_both_ends() -> None:
    fpr, tpr = roc(*planted(3000, 2000, 1.5))
    thin_fpr, thin_tpr = thin(fpr, tpr)
    assert 90 < len(thin_fpr) == len(thin_tpr) <= 100
    assert (thin_fpr[0], thin_tpr[0], thin_fpr[-1], thin_tpr[-1]) == (0, 0, 1, 1)
    assert set(zip(thin_fpr, thin_tpr, strict=True)) <= set(zip(fpr, tpr, strict=True))
    areas = [
        float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        for x, y in ((fpr, tpr), (thin_fpr, thin_tpr))
    ]
    assert areas[1] == pytest.approx(areas[0], abs=0.002)


@settings(max_examples=40, deadline=None)
@given(case=groups(), points=st.integers(2, 12))
def test_thin_never_loses_an_end_nor_exceeds_its_number(case: Groups, points: int) -> None:
    fpr, tpr = roc(*case)
    thin_fpr, thin_tpr = thin(fpr, tpr, points)
    assert len(thin_fpr) <= max(points, 2)
    assert (thin_fpr[0], thin_tpr[0], thin_fpr[-1], thin_tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(thin_fpr) >= 0).all() and (np.diff(thin_tpr) >= 0).all()


def test_histograms_share_their_bins_and_lose_nobody() -> None:
    scores, positive = (
        np.array([0.0, 0.1, 0.9, 1.0, 0.45]),
        np.array([False, False, True, True, True]),
    )
    bins = histograms(scores, positive, bins=2)
    np.testing.assert_allclose(bins.edges, [0, 0.5, 1])
    assert bins.negative.tolist() == [2, 0]
    assert bins.positive.tolist() == [1, 2]
    many = histograms(*planted(300, 200, 2.0))
    assert (many.negative.sum(), many.positive.sum(), len(many.edges)) == (300, 200, 31)
    assert histograms(np.ones(4), np.arange(4) < 1).negative.sum() == 3


@pytest.mark.parametrize(
    "number", [auroc, auroc_interval, roc, histograms, lambda *case: tpr_at_fpr(*case, 0.05)]
)
@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([0.0, float("nan")], [True, False], "scores must be finite, got 1"),
        ([0.0, float("inf")], [True, False], "scores must be finite, got 1"),
        ([0.0, 1.0], [True, True], "both groups must be there, got 2 positive and 0 negative"),
        ([0.0, 1.0], [False, False], "both groups must be there, got 0 positive and 2 negative"),
        ([], np.zeros(0, dtype=bool), "both groups must be there"),
        ([0.0, 1.0, 2.0], [True, False], "lists of one length"),
        ([[0.0, 1.0]], [[True, False]], "lists of one length"),
        ([0.0, 1.0], [1, 0], "positive must be boolean"),
    ],
)
def test_scores_that_would_give_a_wrong_number_are_refused(
    number: object, scores: object, positive: object, message: str
) -> None:
    """Swapped arguments, a detector that returned NaN, a set without poison: each has a plausible
    AUROC if nobody looks.
    """
    with pytest.raises(ValueError, match=message):
        number(scores, positive)  # type: ignore[operator]


def test_parameters_out_of_range_are_refused() -> None:
    case = ([0.0, 1.0], [False, True])
    with pytest.raises(ValueError, match="rate must be in"):
        tpr_at_fpr(*case, 5)
    with pytest.raises(ValueError, match="confidence must be in"):
        auroc_interval(*case, 95)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        histograms(*case, bins=0)
    with pytest.raises(ValueError, match="points must be at least 2"):
        thin([0.0, 1.0], [0.0, 1.0], points=1)
    with pytest.raises(ValueError, match="lists of one length"):
        thin([0.0, 1.0], [0.0])


@settings(max_examples=40, deadline=None)
@given(groups())
def test_images_that_are_groups_of_their_own_have_delongs_interval(case: Groups) -> None:
    scores, positive = case
    alone = area_interval(scores, positive, groups=np.arange(len(scores))[::-1])
    assert alone[:2] == pytest.approx(auroc_interval(scores, positive), abs=1e-9)
    if (
        0 < auroc(scores, positive) < 1
        and 1 < positive.sum() < len(positive) - 1
        and delong(scores, positive)
    ):
        area = auroc(scores, positive)
        assert alone.effective_n == pytest.approx(
            area * (1 - area) / delong(scores, positive), rel=1e-9
        )


def crops(
    digits: int, per_digit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of one digit score alike: scores, truth (by crop, so both stand within a digit),
    digit.
    """
    digit = np.repeat(np.arange(digits), per_digit)
    positive = rng.random(len(digit)) < 0.3
    positive[:2] = [True, False]
    return (
        rng.standard_normal(digits)[digit] + 0.5 * rng.standard_normal(len(digit)) + 1.2 * positive,
        positive,
        digit,
    )


def test_intervals_by_digit_cover_where_intervals_by_image_do_not() -> None:
    """Whole digits are poisoned or not: four crops of one say little more than one, and an interval
    that counts them all misses.
    """
    rng = np.random.default_rng(3)
    covered, naive = 0, 0
    for _ in range(300):
        digit = np.repeat(np.arange(80), 4)
        positive = (rng.random(80) < 0.4)[digit]
        scores = rng.standard_normal(80)[digit] + 0.3 * rng.standard_normal(320) + 1.2 * positive
        truth = stats.norm.cdf(1.2 / np.sqrt(2 * 1.09))
        low, high, _ = area_interval(scores, positive, groups=digit)
        covered += low <= truth <= high
        low, high = auroc_interval(scores, positive)
        naive += low <= truth <= high
    assert covered / 300 > 0.92 and naive / 300 < 0.8


def test_the_clustered_variance_is_obuchowskis_by_definition() -> None:
    """Sums over the digits of each image's share of wins, the two kinds' covariance within a digit
    included.
    """
    scores, positive, digit = crops(30, 4, np.random.default_rng(4))
    wins = np.array(
        [[(p > n) + 0.5 * (p == n) for n in scores[~positive]] for p in scores[positive]]
    )
    area = wins.mean()
    ups = [(wins.mean(1)[digit[positive] == g] - area).sum() for g in range(30)]
    downs = [(wins.mean(0)[digit[~positive] == g] - area).sum() for g in range(30)]
    m, n = wins.shape
    with_up, with_down = (len(np.unique(digit[side])) for side in (positive, ~positive))
    s10 = with_up / ((with_up - 1) * m) * np.square(ups).sum()
    s01 = with_down / ((with_down - 1) * n) * np.square(downs).sum()
    s11 = 30 / 29 * np.dot(ups, downs)
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    low, high, effective = area_interval(scores, positive, groups=digit)
    assert effective == pytest.approx(area * (1 - area) / variance, rel=1e-9)
    reach = 1.959963985 * variance**0.5 / (area * (1 - area))
    assert np.log(high / (1 - high)) == pytest.approx(np.log(area / (1 - area)) + reach, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=250), st.floats(0, 0.99))
def test_a_fixed_threshold_is_the_lowest_that_keeps_the_rate(
    clean: list[float], rate: float
) -> None:
    """A higher one would find less than its owner allowed, a lower one alarm more often."""
    threshold = threshold_at_fpr(clean, rate)
    values = np.array(clean)
    assert (values > threshold).sum() <= rate * len(values) + 1e-9
    lower = values[values < threshold]
    if len(lower):
        assert (values > lower.max()).sum() > rate * len(values)


def test_too_few_clean_images_allow_no_false_alarm() -> None:
    """1 % of 99 is none; of 100 it is the largest."""
    assert threshold_at_fpr(range(99), 0.01) == 98
    assert threshold_at_fpr(range(100), 0.01) == 98
    assert threshold_at_fpr(range(100), 0.29) == 70
    for broken in ([], [float("nan")]):
        with pytest.raises(ValueError, match="non-empty list of finite"):
            threshold_at_fpr(broken, 0.01)
