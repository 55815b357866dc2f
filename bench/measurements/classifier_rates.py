"""TA and ASR of a classifier: the one a user trains on the suspected set, or what a defense puts in
its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.artefacts.arrays import load_scores
from bench.artefacts.classifiers import load_classifier
from bench.artefacts.rows import counts_of, evaluation_rows, evaluation_sets
from bench.classification.classifier import predict
from bench.measurements import numbers
from bench.measurements.families import NO_TRIGGER, no_classifier
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.words import CLASSIFIER, SHARE, MetricWords


def why_not(situation: Situation) -> str:
    """Where nothing is classified."""
    if not situation.testbed.has_classes():
        return "this testbed has no classes"
    return no_classifier(situation)


def measure(materials: Materials) -> Measured:
    """Accuracy on clean held-out images (higher is better), and the share of stamped ones of other
    classes that are taken for the adversary's (lower is better).
    """
    measured, testbed, aim = Measured(), materials.testbed, materials.aim
    if "predictions" in materials.inputs:
        rows = evaluation_rows(testbed, aim, materials.seed, counts_of(testbed).test_images)
        arrays = load_scores(materials.inputs["predictions"])
        predicted = {name: torch.from_numpy(arrays[name]) for name in rows if name in arrays}
    else:
        rows, predicted = evaluation_rows(testbed, aim, materials.seed), _predicted(materials)
    labels, groups = testbed.data.held_out_labels(), testbed.data.held_out_groups()
    for metric, (name, better) in {
        "ta": ("clean", True),
        "classifier_asr": ("triggered", False),
    }.items():
        if name not in rows or (metric == "classifier_asr" and aim.label is None):
            measured.absent[metric] = NO_TRIGGER
            continue
        with if_possible(metric, measured.flags):
            if name not in predicted:
                raise ValueError(f"no held-out image to judge ({name})")
            chosen = rows[name]
            outcomes = torch.eq(
                predicted[name], labels[chosen] if metric == "ta" else torch.tensor(aim.label)
            )
            among = None if groups is None else groups[chosen]
            numbers.add_rate(measured, metric, outcomes, better, among)
    return measured


def _predicted(materials: Materials) -> dict[str, Tensor]:
    network = load_classifier(materials.testbed, materials.inputs["classifier"], materials.device)
    sets = evaluation_sets(materials.testbed, materials.aim, materials.seed)
    return {name: predict(network, images) for name, (images, _) in sets.items() if len(images)}


_RATE: dict[str, Any] = {
    "group": CLASSIFIER,
    "low": 0.0,
    "high": 1.0,
    "unit": SHARE,
    "decimals": 2,
    "scale": "unit",
}
MEASUREMENT = Measurement(
    name="classifier_rates",
    metrics=(
        MetricWords(
            name="ta",
            title="TA",
            sentence="Accuracy on clean held-out images: of a classifier trained on the suspected "
            "set (no defense), or of what the defense puts in its place.",
            higher_is_better=True,
            order=1,
            control=14,
            headline=10,
            **_RATE,
        ),
        MetricWords(
            name="classifier_asr",
            title="ASR of the classifier",
            sentence="Share of stamped held-out images of other classes that are taken for the "
            "adversary's class.",
            higher_is_better=False,
            order=2,
            control=15,
            headline=11,
            heading="ASR of the classifier",
            **_RATE,
        ),
    ),
    needs=("aim",),
    uses=("classifier", "predictions"),
    why_not=why_not,
    parts=("data", "classifiers", "counts"),
    run=measure,
)
