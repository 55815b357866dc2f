"""How much of the set a generator was trained on is poisoned, by both countings, and of the
adversary's class alone (p_t).
"""

from __future__ import annotations

from bench.artefacts.aims import read_rows
from bench.measurements.measurement import (
    EVERYTHING,
    Materials,
    Measured,
    Measurement,
    Situation,
)
from bench.measurements.numbers import if_possible
from bench.metrics import composition
from bench.record import Metric
from bench.words import ADVERSARYS_CLASS, MetricWords


def why_not(situation: Situation) -> str:
    """Where there are no classes."""
    if not situation.testbed.has_classes():
        return "this testbed has no classes"
    return "an anchor has no training set" if situation.family == "anchor" else ""


def measure(materials: Materials) -> Measured:
    """Counted over the rows after poisoning; Pan et al. 2024 define and plot it over all rows, and
    count over the rows of other classes in appendix A.2.
    """
    measured, rows, goal = (
        Measured(),
        read_rows(materials.inputs["poisoned_rows"]),
        materials.aim.label,
    )
    if goal is None or rows.labels is None:
        return Measured(absent={EVERYTHING: "this attack aims at no class"})
    labels = materials.testbed.data.train_labels()
    with if_possible("p_t", measured.flags):
        rates = composition.poison_rates(rows.poisoned, labels, goal)
        share = composition.poisoned_share(rows.poisoned, rows.labels, goal)
        measured.metrics |= {
            "poison_rate[all rows]": Metric(value=rates.of_all, n=len(rows.poisoned)),
            "poison_rate[other classes]": Metric(
                value=rates.of_non_target, n=int((labels != goal).sum())
            ),
            "p_t": Metric(value=share, n=int((rows.labels == goal).sum())),
        }
    return measured


MEASUREMENT = Measurement(
    name="poison_shares",
    metrics=(
        MetricWords(
            name="poison_rate[all rows]",
            title="poison rate",
            sentence="Poisoned rows over all rows, the paper's plots' counting.",
            low=0.0,
            high=1.0,
            order=3,
            in_matrix=False,
            control=13,
        ),
        MetricWords(
            name="poison_rate[other classes]",
            title="poison rate, other classes",
            sentence="Poisoned rows over the rows of other classes than the adversary's, the "
            "counting of the paper's appendix A.2.",
            low=0.0,
            high=1.0,
            order=4,
            in_matrix=False,
        ),
        MetricWords(
            name="p_t",
            title="p_t",
            sentence="Poisoned share of the training rows that carry the adversary's label.",
            group=ADVERSARYS_CLASS,
            low=0.0,
            high=1.0,
            decimals=2,
            scale="unit",
            order=9,
            in_matrix=False,
            control=12,
            heading="p_t",
        ),
    ),
    needs=("aim", "poisoned_rows"),
    why_not=why_not,
    parts=("data",),
    run=measure,
)
