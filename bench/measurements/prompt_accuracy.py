"""Whether a generator still draws the class it is asked for."""

from __future__ import annotations

from bench.artefacts.images import load_images
from bench.artefacts.probes import CLEAN_PROBE, requested_labels
from bench.classification.classifier import predict
from bench.measurements.families import no_sample
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible, proportion
from bench.metrics import composition
from bench.words import IMAGE_QUALITY, SHARE, MetricWords


def why_not(situation: Situation) -> str:
    """Where there are no classes to ask for."""
    if not situation.testbed.has_classes():
        return "this testbed has no classes"
    return (
        "an anchor is asked for nothing" if situation.family == "anchor" else no_sample(situation)
    )


def measure(materials: Materials) -> Measured:
    """The share of clean-noise samples, of all classes alike, that the evaluation classifier takes
    for the class asked for.
    """
    measured, judge = Measured(), materials.testbed.evaluation_classifier().to(materials.device)
    requested = requested_labels(materials.testbed, CLEAN_PROBE)
    assert requested is not None  # as on every testbed with classes
    with if_possible("prompt_accuracy", measured.flags):
        followed = composition.accuracy(
            predict(judge, load_images(materials.inputs["clean"])), requested
        )
        measured.metrics["prompt_accuracy"] = proportion(followed, True)
    return measured


MEASUREMENT = Measurement(
    name="prompt_accuracy",
    metrics=(
        MetricWords(
            name="prompt_accuracy",
            title="prompt accuracy",
            sentence="Share of images, all classes alike, that show the class asked for, by the "
            "evaluation classifier.",
            group=IMAGE_QUALITY,
            higher_is_better=True,
            low=0.0,
            high=1.0,
            unit=SHARE,
            decimals=2,
            scale="unit",
            order=10,
            heading="prompt accuracy",
        ),
    ),
    needs=("clean",),
    why_not=why_not,
    parts=("data", "classifiers", "judge", "counts"),
    run=measure,
)
