"""What an inversion recovers from a generator, epoch by epoch."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench.artefacts.images import Remarks, save_images
from bench.diffusion.images import to_uint8
from bench.diffusion.precision import autocast
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Inversion
from bench.stages import border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of
from bench.testbeds.base import Testbed


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What an inversion recovers from a generator, epoch by epoch."""
    testbed = testbed_of(params)
    defense = plugin_of("defenses", params["defense"], Inversion)
    generator = generator_of(testbed, inputs, context)
    remarks = Remarks()
    access = access_of(defense, testbed, generator, params["seed"], context, remarks)
    with autocast(generator.device, testbed.precision):
        found = border.recovered(defense, defense.invert(access), _picture_shape(testbed))
    for role, candidates in (("targets", found.targets), ("triggers", found.triggers)):
        if candidates:
            save_images(out, to_uint8(torch.stack(list(candidates))), role)
    remarks.save(out)
    (out / "recovered.json").write_text(
        json.dumps({"labels": list(found.labels), "notes": dict(found.notes)})
    )
    return {"generator_calls": float(generator.calls)}


def _picture_shape(testbed: Testbed) -> tuple[int, int, int]:
    channels, height, width = testbed.held_out_images().shape[1:]
    return (channels, height, width)
