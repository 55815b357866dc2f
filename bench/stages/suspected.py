"""The training set after an attack, as its owner sees it: what a defender is handed."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.suspected import save_suspected
from bench.contracts.attack import Attack
from bench.engine.context import Inputs, Params, StageContext
from bench.stages.building import plugin_of, poisoned_set, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes it down, so that the process in which a defender's plugin runs never knew the attack,
    nor which rows it took.
    """
    attack = plugin_of("attacks", params["attack"], Attack)
    save_suspected(poisoned_set(testbed_of(params), attack, params["seed"]), out)
    return {}
