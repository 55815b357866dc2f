"""A suite's cells, and the stages they need: a graph in which cells that share an input share the
stage that makes it.

A cell is the undefended graph of artefacts with one of them replaced (a sampler, the generator, a
classifier's training set, its answers) or one added (what an inversion recovers, a detector's
scores); a suite that lists samplers has every cell under each of them, over one training. What is
measured of it is decided by the measurements themselves, from what the cell has; what is not stands
in its record with the reason.

A detector of models gives a cell one score. Whether such scores tell backdoored models from honest
ones is a question to all seeds at once: a population, beside the cells.

Planning trains nothing and reads no data; it hashes code and small files.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence

from bench import measurements
from bench.cells import Cell
from bench.composed import name_of
from bench.contracts.attack import Attack
from bench.engine.context import StageKind
from bench.engine.fingerprint import shared_texts
from bench.engine.graph import Plan, Stage
from bench.measurements.model_detection import FEWEST
from bench.planner.cells import FREE, Cells, Treatment
from bench.planner.stages import alike, protocol_of, spec, title
from bench.registry import Registry
from bench.sentences import described
from bench.suite import Suite
from bench.turns import turns

__all__ = ["CONTROL", "FREE", "alike", "make_plan", "protocol_of", "spec", "title"]

CONTROL = "none"


def make_plan(
    suite: Suite,
    registry: Registry,
    kinds: Mapping[str, StageKind],
    device: str = "cpu",
    processes: int = 1,
) -> Plan:
    """Every cell of ``suite`` with the controls, and the stages behind them. ``kinds``: the stage
    table; ``device``: ``cpu`` or ``cuda``; ``processes``: how many make a distributed stage
    together.

    Raises :class:`UserError` if they cannot share a training batch evenly.
    """
    collects = gc.isenabled()
    gc.disable()  # a large plan is a million objects, of which none is garbage
    try:
        with shared_texts():
            return _planned(suite, registry, kinds, device, processes)
    finally:
        if collects:
            gc.enable()


def _planned(
    suite: Suite,
    registry: Registry,
    kinds: Mapping[str, StageKind],
    device: str,
    processes: int,
) -> Plan:
    stages: dict[str, Stage] = {}
    cells: list[Cell] = []
    attacks = [*suite.attacks]
    if not any(attack.card.name == CONTROL for attack in attacks):
        attacks.append(registry.attack(CONTROL))
    defenses = [*suite.defenses]
    if not any(name_of(defense) == CONTROL for defense in defenses):
        defenses.insert(0, registry.defense(CONTROL))
    defenses.sort(key=lambda defense: name_of(defense) != CONTROL)
    treatments: list[Treatment] = [*defenses, *suite.detectors]
    backdoors = [attack for attack in attacks if attack.card.name != CONTROL]
    honest = [attack for attack in attacks if attack.card.name == CONTROL]
    for testbed in suite.testbeds:
        met = [attack for attack in backdoors if suite.meets(attack, testbed.name)]
        columns = [one for one in treatments if suite.meets(one, testbed.name)]
        detectors = [one for one in suite.detectors if suite.meets(one, testbed.name)]
        builder = Cells(testbed, kinds, device, processes, stages, suite, registry, honest)
        under = [builder.under(sampler) for sampler in suite.samplers] or [builder]
        for seed in suite.seeds:
            cells += [
                one.cell(attack, probe, treatment, seed)
                for one in under
                for attack, probe in _rows(met, honest)
                for treatment in columns
            ]
            cells += builder.anchors(defenses[0], seed, under)
        for each in under:
            cells += each.populations(met, detectors, suite.seeds)
    stages = _needed(stages, cells)
    return Plan(
        suite=suite.name,
        cells=tuple(cells),
        stages=stages,
        description=suite.description,
        filtered=suite.filtered,
        metrics=tuple(words.to_json() for words in measurements.declared()),
        methods=tuple(words.to_json() for words in described([*backdoors, *treatments])),
        warnings=(*_few_seeds(suite), *_without_gpu(suite, device)),
        turns=turns(cells, stages),
    )


def _rows(
    backdoors: Sequence[Attack], honest: Iterable[Attack]
) -> list[tuple[Attack, Attack | None]]:
    """Every attack, and every honest model tried with each of them."""
    rows: list[tuple[Attack, Attack | None]] = [(attack, None) for attack in backdoors]
    for one in honest:
        rows += [(one, probe) for probe in backdoors] or [(one, None)]
    return rows


def _few_seeds(suite: Suite) -> tuple[str, ...]:
    """What to say of detectors of models that see too few of them."""
    names = [one.card.name for one in suite.detectors if "model" in one.subjects]
    if not names or len(suite.seeds) >= FEWEST:
        return ()
    return (
        f"{', '.join(names)}: to tell backdoored models from honest ones is a question to at least "
        f"{FEWEST} seeds, got {len(suite.seeds)}: there will be scores and no AUROC",
    )


def _without_gpu(suite: Suite, device: str) -> tuple[str, ...]:
    """What to say of testbeds that need a GPU where there is none to be used."""
    needing = [testbed.name for testbed in suite.testbeds if testbed.resources.gpu]
    if not needing or device != "cpu":
        return ()
    return (
        f"{', '.join(dict.fromkeys(needing))}: declared for a GPU, and this is planned for CPU "
        f"cores, where it may take months (--device cuda)",
    )


def _needed(stages: Mapping[str, Stage], cells: Iterable[Cell]) -> dict[str, Stage]:
    """Those that some cell's record rests on, in their order."""
    waiting = [cell.stage for cell in cells if cell.stage is not None]
    needed: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += stages[key].inputs.values()
    return {key: stage for key, stage in stages.items() if key in needed}
