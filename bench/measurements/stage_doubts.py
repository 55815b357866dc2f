"""What the stages themselves doubted about what a cell rests on, and which of its samples a defense
changed at all.
"""

from __future__ import annotations

import torch

from bench.artefacts import doubts
from bench.artefacts.aims import read_aim
from bench.artefacts.images import load_images
from bench.artefacts.roles import CLEAN, UNDEFENDED, samples
from bench.measurements.doubts import shows
from bench.measurements.measurement import EVERYTHING, Materials, Measured, Measurement
from bench.record import Flag


def measure(materials: Materials) -> Measured:
    """No number, flags alone."""
    flags = doubts.of_inputs(materials.inputs)
    inputs = materials.inputs
    untouched = {
        role: torch.equal(load_images(inputs[role]), load_images(inputs[UNDEFENDED + role]))
        for role in samples(inputs)
        if UNDEFENDED + role in inputs
    }
    if untouched and all(untouched.values()):
        text = "changes nothing: every sample is the one drawn without the defense"
        flags.append(Flag("changes-nothing", "", text))
    elif untouched.get(CLEAN):
        text = "acts on calls alone: every clean sample is the one drawn without the defense"
        flags.append(Flag("acts-on-calls-alone", "", text))
    elif CLEAN in untouched and "aim" in inputs:
        aim = read_aim(inputs["aim"])
        before, after = load_images(inputs[UNDEFENDED + CLEAN]), load_images(inputs[CLEAN])
        flags += shows(before, after, {"target": aim.target, "trigger": aim.trigger})
    return Measured(flags=list(dict.fromkeys(flags)))


MEASUREMENT = Measurement(
    name="stage_doubts", metrics=(), uses=(EVERYTHING,), parts=(), run=measure
)
