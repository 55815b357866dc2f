"""A suite run in one call, and records as a table: what the command line and a notebook share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from bench.cards import read_cards
from bench.cells import Cell
from bench.engine.context import StageKind
from bench.engine.contract import Engine
from bench.engine.executor import Executor
from bench.engine.fingerprint import planned_code
from bench.engine.graph import Plan
from bench.engine.isolation import Limits
from bench.engine.jobs import JobExecutor, Profile, write_jobs
from bench.engine.live import Progress, reporting
from bench.engine.progress import Reporter, reporter_for
from bench.engine.provenance import provenance
from bench.engine.run import Outcome, execute_all
from bench.engine.scheduler import Patience
from bench.engine.slots import Slot, make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.errors import UserError
from bench.faults import suite_faults
from bench.planner import CONTROL, make_plan
from bench.record import PluginSpec, read_runs
from bench.registry import Registry
from bench.resources import Resources, most_memory
from bench.results import read_results
from bench.sealed import read_secret, seal
from bench.suite import LONGEST_TIMEOUT, MOST_RETRIES, Suite, load_suite, testbeds_of
from bench.text import one_line

if TYPE_CHECKING:
    import pandas as pd

#: What a cell is made of.
ROLES = ("testbed", "attack", "probe", "sampler", "defense")
#: Of this machine's main memory, what stages side by side may declare.
MEMORY_SHARE = 0.8
#: The module with the stage table.
DEFAULT_STAGES = "bench.stages.table"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A suite ready to run: all input has been checked, and nothing has been written. ``limits``:
    of third parties' plugins, if not the usual ones.
    """

    plan: Plan
    slots: list[Slot]
    kinds: dict[str, StageKind]
    device: str
    timeout: float | None
    retries: int
    gpus_per_stage: int = 1
    stages: str = DEFAULT_STAGES
    limits: Limits | None = None


def prepare(
    suite: str,
    *,
    seeds: Sequence[int] | None = None,
    attacks: Sequence[str] | None = None,
    defenses: Sequence[str] | None = None,
    detectors: Sequence[str] | None = None,
    samplers: Sequence[str] | None = None,
    cells: Sequence[str] | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    gpus: Sequence[str] | None = None,
    gpus_per_stage: int = 1,
    gpu_memory: float | None = None,
    plugins: Iterable[str | Path] = (),
    timeout: float | None = None,
    retries: int | None = None,
    sealed: str | Path | None = None,
    stages: str = DEFAULT_STAGES,
) -> Prepared:
    """Reads, validates and plans. ``seeds``, ``attacks``, ``defenses``, ``detectors``,
    ``samplers``: only these of the suite's; ``cells``: only those with these codes, as the board
    has them; ``limit``: only the first of them.

    ``gpu_memory``: what a stage takes of a GPU's at most, in GB, so that several share one.
    ``sealed``: the file with a secret, from which seeds and triggers are drawn
    (:mod:`bench.sealed`). ``stages``: the module with the stage table. Raises :class:`UserError`.
    """
    _refuse_numbers(limit, timeout, retries)
    planned_code()  # before any key is made of it
    slots = make_slots(device, jobs, gpus, gpus_per_stage, gpu_memory)
    registry = read_cards(plugins)
    try:
        chosen = load_suite(suite, registry)
        chosen = chosen.only(registry, attacks, defenses, seeds, detectors, samplers)
        if sealed is not None:
            chosen = seal(chosen, read_secret(Path(sealed)))
        _refuse_faults(chosen, registry)
        kinds = dict(load_stages(stages))
        plan = make_plan(chosen, registry, kinds, device, gpus_per_stage)
    finally:
        registry.close()
    if cells is not None:
        plan = _with_codes(plan, cells)
    return Prepared(
        plan=plan if limit is None else plan.limited(limit),
        slots=slots,
        kinds=kinds,
        device=device,
        timeout=chosen.timeout_seconds if timeout is None else timeout,
        retries=(chosen.retries or 0) if retries is None else retries,
        gpus_per_stage=gpus_per_stage,
        stages=stages,
    )


def needs_of(suites: Iterable[str]) -> dict[str, Resources]:
    """What the testbeds of ``suites`` declare that their stages need, by name."""
    return {one.name: one.resources for suite in suites for one in testbeds_of(suite)}


def declared_packing(
    needs: Mapping[str, Resources], jobs: int | None, total_memory: float | None = None
) -> dict[str, Any]:
    """``gpu_memory`` and ``jobs`` of :func:`prepare`, by what testbeds declare: no more stages at
    once than main memory has room for. ``total_memory``: of this machine, in GB. Raises
    :class:`UserError` for a testbed that declares nothing of a GPU's memory.
    """
    for name, need in needs.items():
        if need.gpu_memory_gb is None:
            raise UserError(f"--gpu-memory must be in GB for {name}, which declares none")
    total = total_memory or psutil.virtual_memory().total / 1e9
    if each := most_memory(needs.values()):
        most = max(1, int(MEMORY_SHARE * total / each))
        jobs = most if jobs is None else min(jobs, most)
    return {"gpu_memory": max(one.gpu_memory_gb or 0.0 for one in needs.values()), "jobs": jobs}


def _refuse_numbers(limit: int | None, timeout: float | None, retries: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, got {limit}")
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
        raise UserError(
            f"--timeout must be above 0 and at most {LONGEST_TIMEOUT:g} seconds, got {timeout:g}"
        )
    if retries is not None and not 0 <= retries <= MOST_RETRIES:
        raise UserError(f"--retries must be 0 to {MOST_RETRIES}, got {one_line(str(retries), 40)}")


def _with_codes(plan: Plan, codes: Sequence[str]) -> Plan:
    """Only the cells with these codes. Raises :class:`UserError` for a code of none."""
    cells = tuple(cell for cell in plan.cells if isinstance(cell, Cell) and cell.code in codes)
    for code in codes:
        if not any(cell.code == code for cell in cells):
            raise UserError(
                f"--cells {one_line(repr(code), 40)}: no cell of {plan.suite} with these choices "
                f"has this code; the suite, a plugin's parameters or the testbed may have changed"
            )
    if not cells:
        raise UserError("--cells must name at least one cell, got none")
    return plan.of(cells)


def _refuse_faults(suite: Suite, registry: Registry) -> None:
    """Raises one :class:`UserError` with all faults of the suite's testbeds and attacks, a line
    each.
    """
    attacks = [*suite.attacks]
    if not any(attack.card.name == CONTROL for attack in attacks):
        attacks.append(registry.attack(CONTROL))
    if faults := suite_faults(suite, attacks):
        raise UserError("\n".join(faults))


def check_names(prepared: Sequence[Prepared]) -> None:
    """Raises :class:`UserError` for suites of one name, whose accounts would be one."""
    names = [one.plan.suite for one in prepared]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"suites run together must have different names, got {twice[0]!r} twice")


def run_together(
    prepared: Sequence[Prepared],
    store: Store,
    reporter: Reporter,
    show: Callable[[Progress], None] | None = None,
    profile: Profile | None = None,
) -> list[Outcome]:
    """Runs suites that were prepared for the same slots, in one order over all of them: numbers of
    each come early, and the workers are started once. ``show`` is called with how far the run is,
    in a thread, while it goes on. ``profile``: of a cluster that makes the stages, not this
    machine. ``KeyboardInterrupt`` propagates; finished stages are kept.
    """
    check_names(prepared)
    first = prepared[0]
    where = provenance() | {"device": first.device}
    if first.gpus_per_stage > 1:
        where |= {"gpus_per_stage": first.gpus_per_stage}
    about: dict[str, Any] = {
        "stages": first.stages,
        "provenance": where,
        "limits": first.limits,
    }
    executor: Engine = (
        Executor(store, first.slots, reporter, kinds=first.kinds, **about)
        if profile is None
        else JobExecutor(store, profile, reporter, name=name_of(prepared), **about)
    )
    patience: dict[str, Patience] = {}
    for one in prepared:
        theirs = Patience(timeout=one.timeout, retries=one.retries)
        # What suites share is made as the first one says.
        patience = dict.fromkeys(one.plan.stages, theirs) | patience
    with reporter:
        for warning in dict.fromkeys(line for one in prepared for line in one.plan.warnings):
            reporter.note(f"warning: {warning}")
        plans = [one.plan for one in prepared]
        with reporting(plans, executor, show):
            return execute_all(plans, store, executor, where, patience)


def plan_jobs(
    prepared: Prepared, store: Path, folder: Path, profile: Profile
) -> list[dict[str, Any]]:
    """Writes jobs into ``folder`` that make what is missing of a suite in ``store``, for another
    workflow manager; the rows of its ``jobs.json``.
    """
    theirs = Patience(timeout=prepared.timeout, retries=prepared.retries)
    return write_jobs(
        folder,
        Store(store),
        prepared.plan.stages,
        [cell.stage for cell in prepared.plan.cells if cell.stage],
        profile,
        source=prepared.stages,
        provenance=provenance() | {"device": prepared.device},
        patience=dict.fromkeys(prepared.plan.stages, theirs),
        limits=prepared.limits,
    )


def name_of(prepared: Sequence[Prepared]) -> str:
    """Of a run, in a file's name."""
    return "+".join(sorted(one.plan.suite for one in prepared))[:100]


def run_suite(
    suite: str, store: str | Path = "store", *, quiet: bool = False, **options: Any
) -> Outcome:
    """:func:`prepare` with ``options``, and run. Progress goes to standard error unless
    ``quiet``.
    """
    prepared = prepare(suite, **options)
    return run_together([prepared], Store(store), reporter_for(Console(stderr=True), quiet))[0]


def records_table(store: Path) -> pd.DataFrame:
    """See :func:`bench.load_records`."""
    import pandas as pd

    if not store.is_dir():
        raise UserError(f"there is no store at {store}")
    rows: list[dict[str, Any]] = []
    for run in read_runs(store) or read_results(store):
        for folder, record in run.records:
            row: dict[str, Any] = {
                "suite": run.suite,
                "testbed": record.testbed.label or record.testbed.name,
                "attack": record.attack.label or record.attack.name,
                "probe": None if record.probe is None else record.probe.label or record.probe.name,
                "sampler": record.sampler and (record.sampler.label or record.sampler.name),
                "defense": record.defense.label or record.defense.name,
                "kind": record.kind,
                "seed": None if record.seeds else record.seed,
                "seeds": record.seeds,
                "status": record.status,
                "reason": record.reason,
                "protocol": record.protocol,
                "folder": str(folder),
            }
            for role in ROLES:
                spec: PluginSpec | None = getattr(record, role)
                row |= {
                    f"{role}.name": spec and spec.name,
                    f"{role}.params": spec and spec.identity[1],
                }
            row |= {f"cost.{name}": value for name, value in record.cost.items()}
            for name, metric in record.metrics.items():
                row |= {
                    name: metric.value,
                    f"{name}.ci_low": metric.ci_low,
                    f"{name}.ci_high": metric.ci_high,
                    f"{name}.n": metric.n,
                }
            rows.append(row)
    first = [
        "suite",
        "testbed",
        "attack",
        "probe",
        "sampler",
        "defense",
        "kind",
        "seed",
        "seeds",
        "status",
        "reason",
        "protocol",
        "folder",
    ]
    first += [f"{role}.{part}" for role in ROLES for part in ("name", "params")]
    table: pd.DataFrame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=first)
    return table
