"""The rows an attack poisons: the truth that no defense is handed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.aims import PoisonedRows, save_rows
from bench.contracts.attack import Attack
from bench.contracts.data import TrainingSet
from bench.engine.context import Inputs, Params, StageContext
from bench.errors import ContractError
from bench.stages.building import plugin_of, poison_doubts, poisoned_set, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes the :class:`~bench.artefacts.aims.PoisonedRows` of an attack and a seed. Other stages
    poison the set again, so it must come out the same: it is made twice.
    """
    testbed, attack = testbed_of(params), plugin_of("attacks", params["attack"], Attack)
    first = _digest(poisoned_set(testbed, attack, params["seed"]))
    suspected = poisoned_set(testbed, attack, params["seed"])
    if _digest(suspected) != first:
        raise ContractError(
            f"{attack.card.name}: poison() must draw from rng alone, but the same rng gave other "
            f"rows the second time"
        )
    save_rows(PoisonedRows(poisoned=suspected.poisoned, labels=suspected.labels), out)
    doubts.save(out, poison_doubts(testbed, suspected))
    return {}


def _digest(rows: TrainingSet) -> str:
    """So that one of two sets is in memory at a time."""
    digest = hashlib.blake2b()
    for images in rows.images.split(1024):
        digest.update(images.contiguous().numpy())
    for tensor in (rows.poisoned, rows.labels):
        digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()
