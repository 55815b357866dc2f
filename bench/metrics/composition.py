"""What a conditional generator draws for the adversary's class, and how classifiers respond to the
trigger: shares with intervals.

Pan et al. 2024 (arXiv 2311.02373, section 4, figures 2 and 3) sort the images drawn for the target
class into four groups:

    G1  trigger, another class        G2  trigger, the requested class
    G3  no trigger, another class     G4  no trigger, the requested class

Amplification is the share with the trigger, G1 + G2, over p_t, the poisoned share of the training
rows with the target label: above 1 the generator draws the trigger more often than it occurs in
its training data. The class and the presence of a trigger are decided by classifiers, so a share no
larger than their error means nothing: :func:`below_error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.metrics.uncertainty import Interval, proportion_interval


@dataclass(frozen=True)
class Proportion:
    """``successes`` out of ``n`` > 0. Raises ``ValueError`` on other counts."""

    successes: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n or self.n == 0:
            raise ValueError(
                f"successes must be in 0..n with n > 0, got {self.successes} of {self.n}"
            )

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.successes / self.n

    def interval(self, confidence: float = 0.95) -> Interval:
        """Wilson's interval, :func:`bench.metrics.uncertainty.proportion_interval`."""
        return proportion_interval(self.successes, self.n, confidence)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The four groups; their values sum to 1."""

    g1: Proportion
    g2: Proportion
    g3: Proportion
    g4: Proportion

    @property
    def trigger_ratio(self) -> Proportion:
        """G1 + G2, with an interval of its own: the two are not independent."""
        return Proportion(self.g1.successes + self.g2.successes, self.g1.n)

    @property
    def mismatch_ratio(self) -> Proportion:
        """G1 + G3: what an attack that only relabels aims at."""
        return Proportion(self.g1.successes + self.g3.successes, self.g1.n)


@dataclass(frozen=True, kw_only=True)
class PoisonRates:
    """The two definitions of a poison rate. ``of_all``: poisoned rows over all rows, as in the
    paper's section 3, plots and code. ``of_non_target``: poisoned rows of classes other than the
    target over all rows of those classes, as in the formula of its appendix A.2; ``None`` if
    there are no such rows.
    """

    of_all: float
    of_non_target: float | None


def composition(has_trigger: Tensor, mismatch: Tensor) -> Composition:
    """The groups of n > 0 images drawn for one class.

    has_trigger: (n,) bool, a trigger was recognised; mismatch: (n,) bool, a class other than the
    requested one was. Raises ``ValueError`` on another type or shape.
    """
    _check_rows(torch.bool, has_trigger=has_trigger, mismatch=mismatch)
    groups = [
        has_trigger & mismatch,
        has_trigger & ~mismatch,
        ~has_trigger & mismatch,
        ~has_trigger & ~mismatch,
    ]
    g1, g2, g3, g4 = (_share_of(group) for group in groups)
    return Composition(g1=g1, g2=g2, g3=g3, g4=g4)


def poisoned_share(poisoned: Tensor, labels: Tensor, target: int) -> float:
    """p_t: of the rows with the target label, **after** relabelling, the share that is poisoned, in
    [0, 1].

    poisoned: (n,) bool; labels: (n,) int64. Raises ``ValueError`` if no row has the target label.
    Known exactly, so no interval.
    """
    _check_rows(torch.bool, poisoned=poisoned)
    _check_rows(torch.int64, labels=labels, like=poisoned)
    return _share_of(_rows(poisoned, labels == target, f"with the target label {target}")).value


def poison_rates(poisoned: Tensor, labels_before: Tensor, target: int) -> PoisonRates:
    """The poison rate by both definitions.

    poisoned: (n > 0,) bool; labels_before: (n,) int64, the labels **before** relabelling.
    """
    _check_rows(torch.bool, poisoned=poisoned)
    _check_rows(torch.int64, labels_before=labels_before, like=poisoned)
    others = poisoned[labels_before != target]
    return PoisonRates(
        of_all=_share_of(poisoned).value,
        of_non_target=_share_of(others).value if len(others) else None,
    )


def amplification(trigger_ratio: float, poisoned_share: float) -> float | None:
    """``trigger_ratio / poisoned_share``: above 1 if the generator draws the trigger more often
    than it occurs in the training data; ``None`` for p_t = 0.

    Both in [0, 1]. Since p_t is exact, the bounds of the trigger ratio's interval give those of the
    amplification's.
    """
    for name, value in (("trigger_ratio", trigger_ratio), ("poisoned_share", poisoned_share)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    return trigger_ratio / poisoned_share if poisoned_share else None


def below_error(rate: float, n: int, classifier_error: float) -> bool:
    """Whether ``rate``, measured on n images, could be due to the classifier's false alarms alone:
    its 95 % interval begins below them.

    rate, classifier_error: in [0, 1]. The error was itself measured on a finite number of images:
    pass the upper bound of its interval to be strict. A classifier without any error casts no doubt
    on any rate.
    """
    for name, value in (("rate", rate), ("classifier_error", classifier_error)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    return proportion_interval(round(rate * n), n)[0] < classifier_error


def accuracy(predicted: Tensor, labels: Tensor) -> Proportion:
    """TA: the share of n > 0 clean images whose class is predicted correctly. Both (n,) int64. High
    is good.
    """
    _check_rows(torch.int64, predicted=predicted, labels=labels)
    return _share_of(predicted == labels)


def attack_success(predicted: Tensor, labels: Tensor, target: int) -> Proportion:
    """ASR of a classifier: the share of images with the trigger, **not of the target class**, that
    are classified as the target class.

    predicted: (n,) int64, for images with the trigger; labels: (n,) int64, their true classes. Rows
    of the target class do not count: predicting it is correct for them. Low is good for the
    defender. Raises ``ValueError`` if no other rows remain.
    """
    _check_rows(torch.int64, predicted=predicted, labels=labels)
    return _share_of(
        _rows(predicted == target, labels != target, f"of another class than {target}")
    )


def _share_of(group: Tensor) -> Proportion:
    return Proportion(int(group.sum()), len(group))


def _rows(values: Tensor, chosen: Tensor, what: str) -> Tensor:
    if not bool(chosen.any()):
        raise ValueError(f"there must be rows {what}, got none among {len(chosen)}")
    return values[chosen]


def _check_rows(dtype: torch.dtype, *, like: Tensor | None = None, **columns: Tensor) -> None:
    """Raises ``ValueError`` unless all are non-empty vectors of ``dtype`` and of one length, that
    of ``like`` if given.
    """
    first = like if like is not None else next(iter(columns.values()))
    for name, column in columns.items():
        if (
            column.dtype != dtype
            or column.dim() != 1
            or len(column) != len(first)
            or len(column) == 0
        ):
            type_name = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} must be ({len(first) or 'n > 0'},) {type_name}, got {tuple(column.shape)} "
                f"{column.dtype}"
            )
