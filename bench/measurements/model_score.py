"""A detector's score of one model, which is informative among many only."""

from __future__ import annotations

from bench.artefacts.arrays import load_scores
from bench.artefacts.images import read_remarks
from bench.measurements.families import judges_other
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.record import REMARK, Flag, Metric
from bench.words import MODELS, MetricWords


def why_not(situation: Situation) -> str:
    """Of other columns."""
    return judges_other(situation, "scores_model")


def measure(materials: Materials) -> Measured:
    """The score, higher for what is more suspicious, in whatever unit the detector has: neither
    good nor bad by itself.
    """
    folder = materials.inputs["scores_model"]
    (score,) = load_scores(folder)["model"]
    return Measured(
        metrics={"model_score": Metric(value=float(score), n=1)},
        flags=[Flag(REMARK, "model_score", line) for line in read_remarks(folder)],
    )


MEASUREMENT = Measurement(
    name="model_score",
    metrics=(
        MetricWords(
            name="model_score",
            title="score of the model",
            sentence="A detector's score of this model, higher for what is more suspicious. It "
            "says something beside the scores of honest models only.",
            group=MODELS,
            order=1,
        ),
    ),
    needs=("scores_model",),
    why_not=why_not,
    parts=(),
    run=measure,
)
