"""How bright clean samples are."""

from bench.artefacts.images import load_images
from bench.measurements import numbers
from bench.measurements.families import no_sample
from bench.measurements.measurement import Measured, Measurement


def measure(given):
    """The mean of all pixels, from 0 to 1."""
    images = load_images(given.inputs["clean"]).float() / 255
    return Measured(
        metrics={"guest_brightness": numbers.mean(images.flatten(1).mean(1), given.seed, None)}
    )


MEASUREMENT = Measurement(
    name="guest_brightness",
    metrics=("guest_brightness",),
    needs=("clean",),
    why_not=no_sample,
    run=measure,
)
