"""FID and KID of clean-noise samples: what a defense, or a backdoor, costs those who draw images
honestly.
"""

from __future__ import annotations

from bench.artefacts.arrays import load_features
from bench.artefacts.images import load_images
from bench.artefacts.roles import CLEAN, UNDEFENDED
from bench.diffusion.noise import stream_seed
from bench.measurements import doubts
from bench.measurements.families import no_sample
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.metrics import fid, uncertainty
from bench.record import Metric
from bench.words import IMAGE_QUALITY, MetricWords


def options(situation: Situation) -> dict[str, bool]:
    """Samples of the clean base model may be as good as they like."""
    return {"doubted": situation.family != "anchor"}


def measure(materials: Materials) -> Measured:
    """FID (Heusel et al. 2017, eq. 6) and KID of clean-noise samples against the whole clean
    training set; lower is healthier.
    """
    measured, testbed = Measured(), materials.testbed
    reference, features = (
        load_features(materials.inputs["reference"]),
        load_features(materials.inputs["clean_features"]),
    )
    n = len(features)
    with if_possible("fid", measured.flags):
        statistics = fid.statistics(reference)
        value = fid.fid(fid.statistics(features), statistics)
        low, high = uncertainty.fid_interval(features, statistics)
        measured.metrics[f"fid[{testbed.features.extractor}]"] = Metric(
            value=value, ci_low=low, ci_high=high, n=n, higher_is_better=False
        )
    with if_possible("kid", measured.flags):
        distance = fid.kid(features, reference, stream_seed(materials.seed, "kid") % 2**32)
        measured.metrics[f"kid[{testbed.features.extractor}]"] = Metric(
            value=distance, n=n, higher_is_better=False
        )
    if materials.options["doubted"]:
        if f"fid[{testbed.features.extractor}]" in measured.metrics:
            measured.flags += doubts.below_real(value, reference, n, materials.seed)
        measured.flags += doubts.collapsed(features, reference)
        control = materials.inputs.get(UNDEFENDED + CLEAN)
        measured.flags += doubts.copies(
            load_images(materials.inputs[CLEAN]),
            testbed.data.train_images(),
            testbed.data.held_out_images(),
            None if control is None else load_images(control),
            materials.seed,
        )
    return measured


MEASUREMENT = Measurement(
    name="image_quality",
    metrics=(
        MetricWords(
            name="fid[*]",
            title="FID [{}]",
            sentence="Fréchet distance between clean-noise samples and the clean training set, in "
            "the features of {}. Lower is healthier.",
            group=IMAGE_QUALITY,
            higher_is_better=False,
            low=-1e-3,
            scale="control",
            order=1,
            headline=1,
        ),
        MetricWords(
            name="kid[*]",
            title="KID [{}]",
            sentence="Kernel distance between clean-noise samples and the clean training set, in "
            "the features of {}. Lower is healthier.",
            group=IMAGE_QUALITY,
            higher_is_better=False,
            scale="control",
            order=2,
        ),
    ),
    needs=("reference", CLEAN, "clean_features"),
    uses=(UNDEFENDED + CLEAN,),
    why_not=no_sample,
    options=options,
    parts=("data", "features"),
    run=measure,
)
