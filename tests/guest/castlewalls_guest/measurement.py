"""How bright clean samples are."""

from bench.artefacts.images import load_images
from bench.measurements import numbers
from bench.measurements.families import no_sample
from bench.measurements.measurement import Measured, Measurement
from bench.words import MetricWords


def measure(materials):
    """The mean of all pixels, from 0 to 1."""
    images = load_images(materials.inputs["clean"]).float() / 255
    return Measured(
        metrics={"guest_brightness": numbers.mean(images.flatten(1).mean(1), materials.seed, True)}
    )


MEASUREMENT = Measurement(
    name="guest_brightness",
    metrics=(
        MetricWords(
            name="guest_brightness",
            title="brightness",
            sentence="Mean of all pixels of clean-noise samples: what darkens them costs users.",
            group="Light",
            higher_is_better=True,
            low=0.0,
            high=1.0,
            decimals=4,
            headline=20,
        ),
    ),
    needs=("clean",),
    why_not=no_sample,
    run=measure,
)
