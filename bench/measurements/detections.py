"""AUROC and true positive rates of scores against a truth: what the measurements of every kind of
detector share.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from bench.measurements import doubts, numbers
from bench.measurements.measurement import Measured
from bench.metrics import detection
from bench.record import SHARE, Flag, Metric
from bench.words import MetricWords

#: The false-alarm rate a detector's threshold is fixed at, on clean held-out images.
FIXED_RATE = 0.01
FAMILIES = ("auroc", "tpr_at_1_fpr", "tpr_at_5_fpr", "tpr_fixed_threshold", "fpr_fixed_threshold")


#: (family, title, sentence with ``{}`` for what is judged, direction, heading).
_WORDS = (
    (
        "auroc",
        "AUROC",
        "Chance that a poisoned one scores above a clean one ({}). A guess has 0.5, and where "
        "nothing is poisoned that is right: such a control is not coloured.",
        True,
        "",
    ),
    (
        "tpr_fixed_threshold",
        "TPR at a fixed threshold",
        "Share of the poisoned that is found at a threshold fixed beforehand on clean held-out "
        "data, where 1 % lie above it ({}): what a defender would have had. Controls are not "
        "coloured.",
        True,
        "",
    ),
    (
        "fpr_fixed_threshold",
        "FPR at that threshold",
        "Share of the clean that is flagged at the threshold fixed on clean held-out data ({}); "
        "1 % was meant.",
        False,
        "",
    ),
    (
        "tpr_at_1_fpr",
        "TPR at 1 % FPR",
        "Share of the poisoned that is found while at most 1 % of the clean are flagged ({}). "
        "Controls are not coloured.",
        True,
        "",
    ),
    (
        "tpr_at_5_fpr",
        "TPR at 5 % FPR",
        "Share of the poisoned that is found while at most 5 % of the clean are flagged ({}). "
        "Controls are not coloured.",
        True,
        "TPR at 5 % FPR",
    ),
)


def declared(where: str, truth: str, headline: int = 0) -> tuple[MetricWords, ...]:
    """The metrics of detectors that judge ``where`` (``*``: anything that has no words of its own).
    ``truth``: what that is, and what of it counts as poisoned; ``headline``: of the AUROC.
    """
    others = where == "*"
    return tuple(
        MetricWords(
            name=f"{family}[{where}]",
            title=f"{title}, {{}}" if others else title,
            sentence=sentence.replace("{}", truth),
            group=f"Detection, {'other calls' if others else where}",
            higher_is_better=better,
            low=0.0,
            high=1.0,
            unit=SHARE,
            decimals=2,
            scale="unit",
            colour="never" if where == "clean" else "attacked",
            order=order,
            headline=headline if family == "auroc" else 0,
            heading=f"{heading}[{where}]" if heading and not others else "",
            flags_of="auroc",
        )
        for order, (family, title, sentence, better, heading) in enumerate(_WORDS, 1)
    )


def names(*subjects: str) -> tuple[str, ...]:
    """The metrics of detectors, for each of ``subjects``."""
    return tuple(f"{family}[{subject}]" for subject in subjects for family in FAMILIES)


class Judged(NamedTuple):
    """What a detector judged: ``where``; ``scores``, (n,); ``truth``, (n,) bool, what is
    poisoned; ``clean``, (k,) scores of clean images it could fix its threshold on; ``groups``,
    (n,), rows that belong together.
    """

    where: str
    scores: np.ndarray
    truth: Tensor
    clean: np.ndarray
    groups: Tensor | None = None


def rates(judged: Judged, measured: Measured) -> None:
    """Adds them to ``measured``, with their curves; a flag where all or none is poisoned. Raises
    ``ValueError`` for what has no AUROC.
    """
    where, scores, positive = judged.where, judged.scores, judged.truth.numpy()
    if positive.all() or not positive.any():
        missing = "clean" if positive.all() else "poisoned"
        text = f"no {missing} image among those judged"
        measured.flags.append(Flag("nothing-to-tell-apart", f"auroc[{where}]", text))
        return
    if np.ptp(scores) == 0:
        measured.flags.append(Flag("constant-scores", f"auroc[{where}]", "constant scores"))
    groups = None if judged.groups is None else judged.groups.numpy()
    low, high, effective = detection.area_interval(scores, positive, groups=groups)
    area = detection.auroc(scores, positive)
    measured.metrics[f"auroc[{where}]"] = Metric(
        value=area,
        ci_low=low,
        ci_high=high,
        n=len(scores),
        effective_n=effective,
        unit=SHARE,
        higher_is_better=True,
    )
    if where == "clean":
        measured.flags += doubts.control_auroc(area, positive, where)
    of = {
        side: None if groups is None else groups[flag]
        for side, flag in ((True, positive), (False, ~positive))
    }
    for percent in (1, 5):
        # Given the threshold; how it would move with other clean images is not in the interval.
        hits = scores[positive] > detection.threshold_at_fpr(scores[~positive], percent / 100)
        measured.metrics[f"tpr_at_{percent}_fpr[{where}]"] = numbers.share(hits, True, of[True])
    threshold = detection.threshold_at_fpr(judged.clean, FIXED_RATE)
    for name, side, better in (("tpr", True, True), ("fpr", False, False)):
        outcomes = scores[positive == side] > threshold
        measured.metrics[f"{name}_fixed_threshold[{where}]"] = numbers.share(
            outcomes, better, of[side]
        )
        measured.series[f"outcomes[{name}_fixed_threshold[{where}]]"] = [
            float(outcome) for outcome in outcomes
        ]
    across, up = detection.thin(*detection.roc(scores, positive))
    bins = detection.histograms(scores, positive)
    for name, values in (
        ("roc_fpr", across),
        ("roc_tpr", up),
        ("score_edges", bins.edges),
        ("score_clean", bins.negative),
        ("score_poisoned", bins.positive),
    ):
        measured.series[f"{name}[{where}]"] = [float(value) for value in values]
