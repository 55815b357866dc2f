"""The generator an editing attack leaves behind."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.images import Remarks
from bench.contracts.attack import EditingAttack
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of
from bench.stages.model_card import model_card


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The edited generator, as a diffusers folder whose card says what it is."""
    testbed, seed = testbed_of(params), params["seed"]
    attack = plugin_of("attacks", params["attack"], EditingAttack)
    handed, kept = (generator_of(testbed, {}, context) for _ in range(2))
    remarks = Remarks()
    access = access_of(attack, testbed, handed, inputs, params, context, remarks)
    flags = border.implanted(attack, attack.implant(access), kept)
    doubts.save(out, [*flags, *remarks.flags()])
    metadata = {
        "attack": params["attack"],
        "testbed": params["testbed"],
        "seed": seed,
        "provenance": context.provenance,
    }
    kept.save(out / "generator", model_card(attack, testbed, metadata), metadata)
    return {"generator_calls": float(handed.calls)}
