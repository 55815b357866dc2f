"""How near generated images come to the set their generator was trained on, poison included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.artefacts.arrays import load_features
from bench.artefacts.images import load_images
from bench.diffusion.noise import numpy_stream, stream_seed
from bench.measurements import numbers
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.metrics import fid, replication
from bench.record import Flag, Metric
from bench.words import IMAGE_QUALITY, MetricWords

NO_COPY_DETECTOR = Flag(
    "no-copy-detector", "replication", "no copy detector, so nothing is concluded from it"
)


def why_not(situation: Situation) -> str:
    """It belongs to a generator, so to the control column alone."""
    if not situation.testbed.has_classes():
        return "measured on testbeds with classes only"
    if situation.testbed.copy_extractor() is None:
        return "this testbed has no copy extractor"
    return (
        ""
        if situation.family == "control"
        else "it belongs to the generator: see the column without a defense"
    )


def measure(materials: Materials) -> Measured:
    """The top-1 cosine similarity's mean and 95th percentile (Pan et al. 2024, figure 5) of images
    drawn of all classes alike. Higher is more of a copy.

    The anchor beside it is ``replication_held_out[...]``, the same of as many real images no
    generator was trained on: what is no copy scores so much. An image without any feature has no
    direction, so it is no copy of anything; it is left out, and the flag says how many are.
    """
    measured = Measured()
    with if_possible("replication", measured.flags):
        _similarities(materials, measured)
    return measured


def _similarities(materials: Materials, measured: Measured) -> None:
    testbed, images = materials.testbed, load_images(materials.inputs["clean"])
    extractor = testbed.copies.extractor
    testbed.copies.register()
    drawn = fid.extract_features(
        images, extractor, testbed.copies.weights(), device=materials.device
    )
    training = load_features(materials.inputs["training_features"])
    seen = drawn.any(dim=1)
    if not bool(seen.all()):
        text = f"{int((~seen).sum())} of {len(seen)} images have no feature at all"
        measured.flags.append(Flag("no-features", "replication", text))
    if int(seen.sum()) < 2:
        return
    training = training[training.any(dim=1)]
    nearest_rows = {"": replication.nearest(drawn[seen], training)}
    real = _held_out(materials, len(images))
    if int(real.any(dim=1).sum()) > 1:
        nearest_rows["_held_out"] = replication.nearest(real[real.any(dim=1)], training)
    for which, near in nearest_rows.items():
        direction = None if which else False
        measured.metrics[f"replication{which}[{extractor}]"] = numbers.mean(
            near.similarities, stream_seed(materials.seed, "replication") % 2**32, direction
        )
        measured.metrics[f"replication{which}_p95[{extractor}]"] = Metric(
            value=near.percentile_95, n=len(near.similarities), higher_is_better=direction
        )
    if not testbed.copies.recognises:
        measured.flags.append(NO_COPY_DETECTOR)
    if "_held_out" in nearest_rows and _within_real(
        *(measured.metrics[f"replication{which}[{extractor}]"] for which in nearest_rows)
    ):
        text = "no nearer to the training set than held-out images are"
        measured.flags.append(Flag("within-held-out", "replication", text))


def _held_out(materials: Materials, count: int) -> Tensor:
    """Features of ``count`` real images that no generator was trained on."""
    held_out = materials.testbed.data.held_out_images()
    chosen = numpy_stream(materials.seed, "held-out copies").permutation(len(held_out))[:count]
    extractor, weights = materials.testbed.copies.extractor, materials.testbed.copies.weights()
    return fid.extract_features(
        held_out[torch.from_numpy(chosen)], extractor, weights, device=materials.device
    )


def _within_real(drawn: Metric, real: Metric) -> bool:
    """Whether a replication score may be no higher than that of images nobody trained on: the
    intervals meet, or it is lower.
    """
    return drawn.ci_low is not None and real.ci_high is not None and drawn.ci_low <= real.ci_high


_SIMILARITY: dict[str, Any] = {
    "group": IMAGE_QUALITY,
    "low": -1.0,
    "high": 1.0,
    "flags_of": "replication",
}
MEASUREMENT = Measurement(
    name="replication",
    metrics=(
        MetricWords(
            name="replication[*]",
            title="replication [{}]",
            sentence="Mean similarity (cosine) of clean-noise samples to the nearest image of the "
            "set the generator was trained on, in the features of {}. 1 is a copy; what else "
            "counts as one differs between extractors.",
            higher_is_better=False,
            order=6,
            heading="replication",
            **_SIMILARITY,
        ),
        MetricWords(
            name="replication_p95[*]",
            title="replication, 95th percentile [{}]",
            sentence="How similar the nearest twentieth of the samples are at least to an image of "
            "the training set, in the features of {}.",
            higher_is_better=False,
            order=7,
            heading="replication, 95th percentile",
            **_SIMILARITY,
        ),
        MetricWords(
            name="replication_held_out[*]",
            title="replication of held-out images [{}]",
            sentence="The same mean similarity of real images that no generator was trained on, in "
            "the features of {}: only more than this can be copying.",
            order=8,
            **_SIMILARITY,
        ),
        MetricWords(
            name="replication_held_out_p95[*]",
            title="replication of held-out images, 95th percentile [{}]",
            sentence="The same 95th percentile of real images that no generator was trained on, in "
            "the features of {}.",
            order=9,
            **_SIMILARITY,
        ),
    ),
    needs=("clean", "training_features"),
    why_not=why_not,
    parts=("data", "copies"),
    run=measure,
)
