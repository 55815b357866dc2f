"""What other users than those the adversary aims at lose: FID over the other classes."""

from __future__ import annotations

from bench.artefacts.arrays import load_features
from bench.artefacts.probes import CLEAN_PROBE, requested_labels
from bench.measurements.families import no_sample
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.metrics import fid
from bench.record import Metric
from bench.words import IMAGE_QUALITY, MetricWords


def why_not(situation: Situation) -> str:
    """Where there are no classes, or the attack aims at none."""
    if not situation.testbed.has_classes():
        return "this testbed has no classes"
    return no_sample(situation) or (
        "this attack aims at no class" if situation.label is None else ""
    )


def measure(materials: Materials) -> Measured:
    """FID of the prompts the adversary did not aim at, against the clean images of those classes;
    lower is healthier.
    """
    measured, testbed, goal = Measured(), materials.testbed, materials.aim.label
    requested = requested_labels(testbed, CLEAN_PROBE)
    assert requested is not None  # as on every testbed with classes
    with if_possible("fid_other_classes", measured.flags):
        chosen = load_features(materials.inputs["clean_features"])[requested != goal]
        reference = load_features(materials.inputs["reference"])[
            testbed.data.train_labels() != goal
        ]
        value = fid.fid(fid.statistics(chosen), fid.statistics(reference))
        measured.metrics[f"fid_other_classes[{testbed.features.extractor}]"] = Metric(
            value=value, n=len(chosen), higher_is_better=False
        )
    return measured


MEASUREMENT = Measurement(
    name="other_classes",
    metrics=(
        MetricWords(
            name="fid_other_classes[*]",
            title="FID, other classes [{}]",
            sentence="FID over the classes the adversary did not aim at, in the features of {}.",
            group=IMAGE_QUALITY,
            higher_is_better=False,
            low=-1e-3,
            scale="control",
            order=5,
            heading="FID, other classes",
        ),
    ),
    needs=("reference", "clean_features", "aim"),
    why_not=why_not,
    parts=("data", "counts", "features"),
    run=measure,
)
