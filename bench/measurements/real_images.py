"""The anchor of real images: what as many training images as a cell has samples score against all
the others.
"""

from __future__ import annotations

import numpy as np

from bench.artefacts.arrays import load_features
from bench.diffusion.noise import numpy_stream, stream_seed
from bench.measurements.measurement import REAL_IMAGES, Materials, Measured, Measurement, Situation
from bench.measurements.numbers import NOT_MEASURED, if_possible
from bench.metrics import fid
from bench.record import Flag, Metric
from bench.words import IMAGE_QUALITY, MetricWords

#: How often real images are drawn.
SPLITS = 10


def why_not(situation: Situation) -> str:
    """Of other cells."""
    return (
        "" if situation.anchor == REAL_IMAGES else "only the anchor of real images has this number"
    )


def measure(materials: Materials) -> Measured:
    """FID and KID of as many training images as a cell has samples against all the others,
    :data:`SPLITS` times.

    FID grows as n falls, so an anchor of another n says nothing about a cell. The value is the mean
    over the splits and the interval is mean -+ 1.96 standard deviations: what one set of real
    images scores. KID needs no such care, being unbiased.
    """
    measured = Measured()
    with if_possible("fid", measured.flags):
        _splits(materials, measured)
    return measured


def _splits(materials: Materials, measured: Measured) -> None:
    reference, testbed, seed = (
        load_features(materials.inputs["reference"]),
        materials.testbed,
        materials.seed,
    )
    wanted, extractor = testbed.counts.clean_samples, testbed.features.extractor
    n = min(wanted, len(reference) // 2)
    if n < wanted:
        text = f"the anchor has n = {n}, cells have {wanted}, so it is too high"
        measured.flags.append(Flag("small-anchor", "fid", text))
    by_family: dict[str, list[float]] = {"fid": [], "kid": []}
    for split in range(SPLITS):
        order = numpy_stream(seed, "real images", split).permutation(len(reference))
        chosen, rest = reference[order[:n]], reference[order[n:]]
        by_family["fid"].append(fid.fid(fid.statistics(chosen), fid.statistics(rest)))
        if n >= 4:
            by_family["kid"].append(fid.kid(chosen, rest, stream_seed(seed, "kid", split) % 2**32))
    for family, values in by_family.items():
        if not values:
            text = f"not measured, {n} images are too few"
            measured.flags.append(Flag(NOT_MEASURED, family, text))
            continue
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        low, high = mean - 1.96 * deviation, mean + 1.96 * deviation
        measured.metrics[f"{family}[{extractor}]"] = Metric(
            value=mean,
            ci_low=max(0.0, low) if family == "fid" else low,
            ci_high=high,
            n=n,
            higher_is_better=False,
        )
        measured.metrics[f"{family}_sd[{extractor}]"] = Metric(value=deviation, n=SPLITS)
        measured.series[f"{family}_splits[{extractor}]"] = values


MEASUREMENT = Measurement(
    name=REAL_IMAGES,
    metrics=tuple(
        MetricWords(
            name=f"{family}_sd[*]",
            title=f"{family.upper()}, standard deviation [{{}}]",
            sentence=f"Standard deviation of the real images' {family.upper()} over the splits, in "
            "the features of {}.",
            group=IMAGE_QUALITY,
            low=0.0,
            order=order,
        )
        for family, order in (("fid", 3), ("kid", 4))
    ),
    borrows=("fid[*]", "kid[*]"),
    needs=("reference",),
    why_not=why_not,
    parts=("features", "counts"),
    run=measure,
)
