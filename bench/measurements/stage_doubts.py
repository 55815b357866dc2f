"""What the stages themselves doubted about what a cell rests on, and whether a defense changed any
sample at all.
"""

from __future__ import annotations

import torch

from bench.artefacts import doubts
from bench.artefacts.images import load_images
from bench.artefacts.roles import UNDEFENDED, samples
from bench.measurements.measurement import EVERYTHING, Materials, Measured, Measurement
from bench.record import Flag


def measure(materials: Materials) -> Measured:
    """No number, flags alone."""
    flags = doubts.of_inputs(materials.inputs)
    pairs = [
        (role, UNDEFENDED + role)
        for role in samples(materials.inputs)
        if UNDEFENDED + role in materials.inputs
    ]
    if pairs and all(
        torch.equal(load_images(materials.inputs[role]), load_images(materials.inputs[before]))
        for role, before in pairs
    ):
        text = "changes nothing: every sample is the one drawn without the defense"
        flags.append(Flag("changes-nothing", "", text))
    return Measured(flags=list(dict.fromkeys(flags)))


MEASUREMENT = Measurement(
    name="stage_doubts", metrics=(), uses=(EVERYTHING,), parts=(), run=measure
)
