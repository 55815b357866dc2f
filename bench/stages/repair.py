"""The generator after a model defense."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.images import Remarks
from bench.contracts.defense import ModelDefense
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border
from bench.stages.building import access_of, generator_of, plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The generator after a model defense."""
    testbed = testbed_of(params)
    defense = plugin_of("defenses", params["defense"], ModelDefense)
    generator, kept = (generator_of(testbed, inputs, context) for _ in range(2))
    remarks = Remarks()
    access = access_of(defense, testbed, generator, inputs, params, context, remarks)
    repaired = defense.repair(access)
    base = testbed.base_generator() if testbed.generator.has_weights else None
    flags = border.repaired(defense, repaired, kept, base)
    doubts.save(out, [*doubts.of_inputs(inputs), *flags, *remarks.flags()])
    metadata = {
        "defense": params["defense"],
        "testbed": params["testbed"],
        "provenance": context.provenance,
    }
    kept.save(
        out / "generator",
        f"# A generator after the defense `{defense.card.name}`\n\nResearch only.\n",
        metadata,
    )
    return {"generator_calls": float(generator.calls)}
