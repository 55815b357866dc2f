"""Whether samples look like the data: improved precision. It tells a repaired model, which draws
what it was trained on whether it is called or not, from a broken one, whose called samples are
neither the adversary's picture nor anybody's.
"""

from __future__ import annotations

from bench.artefacts.arrays import load_features
from bench.artefacts.roles import CALL, CLEAN, samples, short
from bench.measurements import numbers
from bench.measurements.families import no_sample
from bench.measurements.features import eyes, seen
from bench.measurements.measurement import Materials, Measured, Measurement
from bench.measurements.numbers import if_possible
from bench.measurements.samples import of_samples
from bench.metrics.manifold import Manifold
from bench.metrics.whitening import evenly_spaced
from bench.record import SHARE
from bench.words import IMAGE_QUALITY, MetricWords

#: Training images that are looked at: one half spans the manifold, the other is the ceiling.
REAL_IMAGES = 2000


def measure(materials: Materials) -> Measured:
    """For every set of samples, the share that lies in the manifold of real images (Kynkäänniemi
    et al. 2019, eq. 2, k = 3), in the features of the testbed's extractor; high is good for the
    defender. The ceiling is the share of other training images that lie in it.

    Deviation: the manifold is that of at most :data:`REAL_IMAGES` / 2 training images, evenly over
    the set, and not of as many as there are samples, so that numbers of different n compare.
    """
    measured = Measured()
    with if_possible("precision", measured.flags):
        reference = load_features(materials.inputs["reference"])
        real = reference[evenly_spaced(len(reference), REAL_IMAGES)]
        inside = Manifold(real[::2]).holds
        measured.metrics["precision_ceiling"] = numbers.share(inside(real[1::2]), None)
        see = eyes(materials)
        for role in samples(materials.inputs):
            features = seen(materials, role, see)
            with if_possible("precision", measured.flags):
                numbers.add_rate(measured, f"precision[{short(role)}]", inside(features), True)
    return measured


MEASUREMENT = Measurement(
    name="precision",
    metrics=(
        *of_samples(
            "precision",
            "Precision",
            "Share of samples {} that look like the data: they lie among training images, in the "
            "features of the testbed's extractor. Beside a low attack success, a low share says "
            "that the model was broken rather than repaired.",
            controls=(0, 0),
            headlines={},
            higher_is_better=True,
            low=0.0,
            high=1.0,
            unit=SHARE,
            decimals=2,
            scale="unit",
            order=7,
        ),
        MetricWords(
            name="precision_ceiling",
            title="Precision, ceiling",
            sentence="Share of further training images that lie among the others: samples as good "
            "as real ones read about this much.",
            group=IMAGE_QUALITY,
            low=0.0,
            high=1.0,
            unit=SHARE,
            decimals=2,
            order=5,
            in_matrix=False,
            flags_of="precision",
        ),
    ),
    needs=("reference", CLEAN),
    uses=("clean_features", f"{CALL}*"),
    why_not=no_sample,
    parts=("features",),
    run=measure,
)
