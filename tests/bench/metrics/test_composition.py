"""The composition of what is drawn for the target class: amplification is the paper's claim, so its
parts must count what they say.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.metrics.composition import (
    Proportion,
    accuracy,
    amplification,
    attack_success,
    below_error,
    composition,
    poison_rates,
    poisoned_share,
)
from bench.metrics.uncertainty import proportion_interval

VERDICTS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_every_image_goes_into_the_papers_group() -> None:
    """One of G1, two of G2, three of G3, four of G4: swapped axes would exchange G2 and G3."""
    trigger = bools(1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
    mismatch = bools(1, 0, 0, 1, 1, 1, 0, 0, 0, 0)
    result = composition(trigger, mismatch)
    assert [group.value for group in (result.g1, result.g2, result.g3, result.g4)] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    assert result.trigger_ratio.value == 0.3
    assert result.mismatch_ratio.value == 0.4
    assert result.g2.interval() == proportion_interval(2, 10)
    assert result.trigger_ratio.interval(0.9) == proportion_interval(3, 10, 0.9)


@settings(max_examples=60, deadline=None)
@given(verdicts=VERDICTS)
def test_groups_sum_to_one_and_complement_each_other(verdicts: list[tuple[bool, bool]]) -> None:
    trigger, mismatch = (torch.tensor(column) for column in zip(*verdicts, strict=True))
    result = composition(trigger, mismatch)
    groups = [result.g1, result.g2, result.g3, result.g4]
    assert sum(group.successes for group in groups) == len(verdicts) == result.g1.n
    assert sum(group.value for group in groups) == pytest.approx(1, abs=1e-12)
    for group in groups:
        low, high = group.interval()
        assert 0 <= low <= group.value <= high <= 1 and low < high
    without = composition(~trigger, mismatch)
    assert (without.g3, without.g4, without.g1, without.g2) == (
        result.g1,
        result.g2,
        result.g3,
        result.g4,
    )
    assert result.trigger_ratio.value + without.trigger_ratio.value == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(verdicts=VERDICTS, data=st.data())
def test_one_more_trigger_raises_the_trigger_ratio_and_nothing_else(
    verdicts: list[tuple[bool, bool]], data: st.DataObject
) -> None:
    trigger, mismatch = (torch.tensor(column) for column in zip(*verdicts, strict=True))
    row = data.draw(st.integers(0, len(verdicts) - 1))
    more = trigger.clone()
    more[row] = True
    before, after = composition(trigger, mismatch), composition(more, mismatch)
    assert after.trigger_ratio.successes - before.trigger_ratio.successes == int(not trigger[row])
    assert after.mismatch_ratio == before.mismatch_ratio


def test_poisoned_share_and_both_countings_on_a_small_set() -> None:
    """10 rows, 2 of the target class; 2 of the other 8 are poisoned and relabelled: p = 2/10 or
    2/8, p_t = 2/4.
    """
    before = torch.tensor([6, 6, 0, 1, 2, 3, 4, 5, 7, 8])
    poisoned = bools(0, 0, 1, 0, 0, 1, 0, 0, 0, 0)
    after = torch.where(poisoned, 6, before)
    assert poisoned_share(poisoned, after, 6) == 0.5
    rates = poison_rates(poisoned, before, 6)
    assert (rates.of_all, rates.of_non_target) == (0.2, 0.25)


def test_clean_label_poison_counts_among_all_rows_only() -> None:
    """Its rows are of the target class from the start: no row of another class is touched."""
    labels, poisoned = torch.tensor([6, 6, 6, 6, 1, 2, 3, 4]), bools(1, 0, 0, 0, 0, 0, 0, 0)
    assert poisoned_share(poisoned, labels, 6) == 0.25
    rates = poison_rates(poisoned, labels, 6)
    assert (rates.of_all, rates.of_non_target) == (0.125, 0.0)
    assert poison_rates(bools(1, 0), torch.tensor([6, 6]), 6).of_non_target is None


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=60))
def test_shares_are_consistent_with_the_papers_formula(rows: list[tuple[int, bool]]) -> None:
    """p_t = p N / (p N + N_t) for poisoned rows of other classes (paper, appendix A, with the
    code's counting).
    """
    before = torch.tensor([label for label, _ in rows])
    poisoned = torch.tensor([chosen and label != 0 for label, chosen in rows])
    after = torch.where(poisoned, 0, before)
    rates, n, n_target = poison_rates(poisoned, before, 0), len(rows), int((before == 0).sum())
    if n_target + int(poisoned.sum()):
        expected = rates.of_all * n / (rates.of_all * n + n_target)
        assert poisoned_share(poisoned, after, 0) == pytest.approx(expected, abs=1e-12)
    if rates.of_non_target is not None:
        assert rates.of_non_target >= rates.of_all
        assert rates.of_non_target * (n - n_target) == pytest.approx(rates.of_all * n)


def test_amplification_is_above_one_if_the_trigger_is_drawn_more_often_than_it_was_shown() -> None:
    """The paper's SD on ImageNette, 10 %: .540 + .194 against .496. Without poison there is nothing
    to divide by, and 0 is no answer.
    """
    assert amplification(0.734, 0.496) == pytest.approx(1.48, abs=0.005)
    assert amplification(0.3, 0.6) == pytest.approx(0.5)
    assert amplification(0.0, 0.5) == 0.0
    assert amplification(0.0, 0.0) is None and amplification(0.3, 0.0) is None


def test_rates_within_the_classifiers_error_are_flagged() -> None:
    """The paper's trigger classifier errs on 1.8 %: 1.5 % of 1,000 images is nothing; 2.5 % of
    1,000 may be, of 10,000 is not.
    """
    assert below_error(0.015, 1_000, 0.018)
    assert below_error(0.0, 1_000, 0.018)
    assert below_error(0.025, 1_000, 0.018)
    assert not below_error(0.025, 10_000, 0.018)
    assert not below_error(0.5, 100, 0.018)
    assert not below_error(0.01, 100, 0.0) and not below_error(0.0, 100, 0.0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 500), data=st.data())
def test_whatever_is_below_the_error_is_flagged_and_a_larger_error_flags_more(
    n: int, data: st.DataObject
) -> None:
    rate = data.draw(st.integers(0, n)) / n
    error = data.draw(st.floats(0, 1))
    if rate < error:
        assert below_error(rate, n, error)
    if below_error(rate, n, error):
        assert below_error(rate, n, min(1.0, error * 1.5))
    else:
        assert rate >= error


def test_accuracy_counts_right_answers() -> None:
    assert accuracy(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 3, 4])) == Proportion(3, 4)


def test_attack_success_leaves_the_target_class_out() -> None:
    """With the target's own images in, a perfect classifier would have a success rate of a
    tenth.
    """
    labels = torch.arange(10)
    assert attack_success(labels, labels, 6) == Proportion(0, 9)
    assert attack_success(torch.full((10,), 6), labels, 6) == Proportion(9, 9)
    assert attack_success(torch.tensor([6, 6, 1, 5]), torch.tensor([6, 0, 1, 2]), 6) == Proportion(
        1, 3
    )


def test_impossible_inputs_are_refused() -> None:
    """An integer mask would be combined bit by bit, with another length broadcast, and an empty set
    is a division by 0.
    """
    flags, labels = bools(1, 0, 1), torch.tensor([0, 1, 2])
    with pytest.raises(
        ValueError, match=r"has_trigger must be \(3,\) bool, got \(3,\) torch.int64"
    ):
        composition(labels, flags)
    with pytest.raises(ValueError, match=r"mismatch must be \(3,\) bool, got \(1,\)"):
        composition(flags, flags[:1])
    with pytest.raises(ValueError, match=r"has_trigger must be \(n > 0,\) bool"):
        composition(flags[:0], flags[:0])
    with pytest.raises(ValueError, match=r"labels must be \(3,\) int64, got \(2,\)"):
        poisoned_share(flags, labels[:2], 0)
    with pytest.raises(ValueError, match="rows with the target label 7, got none among 3"):
        poisoned_share(flags, labels, 7)
    with pytest.raises(ValueError, match="of another class than 1, got none among 2"):
        attack_success(labels[:2], torch.tensor([1, 1]), 1)
    with pytest.raises(ValueError, match=r"predicted must be \(2,\) int64, got \(2,\) torch.bool"):
        accuracy(flags[:2], labels[:2])
    with pytest.raises(ValueError, match=r"poisoned_share must be in \[0, 1\], got 50"):
        amplification(0.5, 50)
    with pytest.raises(ValueError, match=r"classifier_error must be in \[0, 1\], got nan"):
        below_error(0.5, 10, float("nan"))
    with pytest.raises(ValueError, match="got 3 of 2"):
        Proportion(3, 2)
