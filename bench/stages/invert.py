"""What an inversion recovers from a generator, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.images import Remarks
from bench.artefacts.recovered import save_recovered
from bench.contracts.defense import Inversion
from bench.diffusion.precision import autocast
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of
from bench.testbeds.testbed import Testbed


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What an inversion recovers from a generator, epoch by epoch."""
    testbed = testbed_of(params)
    defense = plugin_of("defenses", params["defense"], Inversion)
    generator = generator_of(testbed, inputs, context)
    remarks = Remarks()
    access = access_of(defense, testbed, generator, inputs, params, context, remarks)
    with autocast(generator.device, testbed.sampler.precision):
        recovered = border.recovered(defense, defense.invert(access), _picture_shape(testbed))
    save_recovered(recovered, out)
    remarks.save(out)
    doubts.save(out, doubts.of_inputs(inputs))
    return {"generator_calls": float(generator.calls)}


def _picture_shape(testbed: Testbed) -> tuple[int, int, int]:
    channels, height, width = testbed.data.held_out_images().shape[1:]
    return (channels, height, width)
