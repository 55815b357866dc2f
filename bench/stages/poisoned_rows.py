"""The rows an attack poisons: the truth that no defense is handed."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.aims import PoisonedRows, save_rows
from bench.contracts.attack import Attack
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import plugin_of, poison_doubts, poisoned_set, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes the :class:`~bench.artefacts.aims.PoisonedRows` of an attack and a seed."""
    testbed = testbed_of(params)
    suspected = poisoned_set(
        testbed, plugin_of("attacks", params["attack"], Attack), params["seed"]
    )
    save_rows(PoisonedRows(poisoned=suspected.poisoned, labels=suspected.labels), out)
    doubts.save(out, poison_doubts(testbed, suspected))
    return {}
