"""Terminal output of a run: the plan and estimate before it, a short table after it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.engine.graph import Plan
from bench.engine.run import Estimate, estimate
from bench.engine.store import Store
from bench.record import PluginSpec, Record, read_account, read_runs
from bench.words import declaration_of


def run_states(store: Path) -> list[dict[str, Any]]:
    """Of every run in a store: ``suite``, ``started``, ``finished`` (``None`` until it is), and
    ``cells``, how many are ok, failed, skipped and still to come.
    """
    states = []
    for path in sorted((store / "runs").glob("*.json")):
        try:
            account = read_account(path)
        except (OSError, ValueError):
            continue  # a run that begins; the board says what is wrong with one that does not
        counts = Counter(str(cell.get("status", "pending")) for cell in account["cells"])
        cells = {name: counts[name] for name in ("ok", "failed", "skipped", "pending")}
        named = {name: account[name] for name in ("suite", "started", "finished")}
        states.append(named | {"cells": cells})
    return states


def state_line(state: dict[str, Any]) -> str:
    """One of :func:`run_states` for a terminal."""
    cells = state["cells"]
    more = [f"{cells[name]} {name}" for name in ("failed", "skipped") if cells[name]]
    more += [f"{cells['pending']} to come"] if cells["pending"] else []
    counts = ", ".join([f"{cells['ok']} of {sum(cells.values())} cells ok", *more])
    if state["finished"]:
        return f"{state['suite']}: {counts}; finished {state['finished'][:16]}"
    begun = f"begun {state['started'][:16]}, not finished"
    return f"{state['suite']}: {counts}; {begun} (if nothing runs, the same command goes on)"


def summary(store: Path, suite: str, console: Console) -> None:
    """Prints a suite's last run: a row per attack and defense, each number the mean over the seeds
    that succeeded.
    """
    run = next((run for run in read_runs(store) if run.suite == suite), None)
    if run is None:
        return
    rows = _rows([record for _, record in run.records])
    names = list(
        dict.fromkeys(name for _, records in rows for record in records for name in record.metrics)
    )
    declared = {name: declaration_of(run.metrics, name) for name in names}
    headlines = {
        name: words.headline for name, words in declared.items() if words and words.headline
    }
    columns = sorted(headlines, key=lambda name: (headlines[name], name))
    sampled = ["sampler"] if any(record.sampler for _, record in run.records) else []
    table = Table("testbed", "attack", *sampled, "defense", "ok", *columns, box=None)
    for (testbed, attack, sampler, defense), records in rows:
        succeeded = [record for record in records if record.status == "ok"]
        table.add_row(
            testbed,
            attack,
            *[sampler for _ in sampled],
            defense,
            f"{len(succeeded)}/{len(records)}",
            *(_mean(succeeded, name) for name in columns),
        )
    console.print(table, markup=False)
    _show_skipped(
        f"{attack} x {defense}{f' under {sampler}' if sampler else ''}: {record.reason}"
        for (_, attack, sampler, defense), records in rows
        for record in records
        if record.status == "skipped"
    )
    for _, record in run.records:
        if record.status == "failed":
            under = f" under {record.sampler.label}" if record.sampler else ""
            where = f"{record.attack.label} x {record.defense.label}{under}, seed {record.seed}"
            console.print(
                f"failed: {where}: {record.reason}", markup=False, highlight=False, soft_wrap=True
            )
    for problem in run.problems:
        console.print(f"warning: {problem}", markup=False, highlight=False, soft_wrap=True)
    counts = ", ".join(f"{count} {status}" for status, count in run.counts.items() if count)
    console.print(f"{sum(run.counts.values())} cells: {counts}", highlight=False)


def _rows(records: Sequence[Record]) -> list[tuple[tuple[str, str, str, str], list[Record]]]:
    """The records of each cell over its seeds, with the names that a reader sees: testbed, attack,
    sampler (empty for the testbed's own), defense.

    Grouped by name, parameters and protocol, never by label, which a plugin chooses. If two groups
    would look the same, their parameters and the testbed's protocol are added.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        specs = (record.testbed, record.attack, record.probe, record.sampler, record.defense)
        whole = (*(spec and spec.identity for spec in specs), record.protocol, record.seeds)
        groups.setdefault(whole, []).append(record)
    plainly = [_names_of(cell_records[0]) for cell_records in groups.values()]
    clear = [
        names if plainly.count(names) == 1 else _names_of(cell_records[0], spelled_out=True)
        for names, cell_records in zip(plainly, groups.values(), strict=True)
    ]
    return list(zip(clear, groups.values(), strict=True))


def _names_of(record: Record, spelled_out: bool = False) -> tuple[str, str, str, str]:
    def name(spec: PluginSpec) -> str:
        text = spec.label or spec.name
        return f"{text} [{spec.name} {spec.identity[1]}]" if spelled_out else text

    testbed = (
        f"{name(record.testbed)} {record.protocol[:8]}" if spelled_out else name(record.testbed)
    )
    attack = name(record.attack) + (
        f" probed by {name(record.probe)}" if record.probe is not None else ""
    )
    if record.seeds:
        attack += f" against honest models, {len(record.seeds)} seeds"
    return testbed, attack, name(record.sampler) if record.sampler else "", name(record.defense)


def _mean(records: list[Record], name: str) -> str:
    values = [
        value
        for record in records
        if name in record.metrics and (value := record.metrics[name].value) is not None
    ]
    return f"{sum(values) / len(values):.3g}" if values else ""


def _existing(store: Path) -> Store | None:
    """The existing store, read-only; ``None`` if there is none."""
    return Store(store, read_only=True) if store.exists() else None


def show_stages(plan: Plan, folder: Path, console: Console, as_json: bool, slots: int) -> None:
    """Prints every stage, and about how long what is missing takes on ``slots``: a table, or one
    JSON object a line.
    """
    _warn(plan)
    store = _existing(folder)
    done = {key for key in plan.stages if store is not None and store.finished(key)}
    if as_json:
        for key, stage in plan.stages.items():
            row = {
                "key": key,
                "stage": stage.name,
                "params": stage.params,
                "inputs": stage.inputs,
                "cached": key in done,
                "resources": vars(stage.resources),
            }
            click.echo(json.dumps(row))
        return
    table = Table("key", "stage", "inputs", "cached", box=None)
    for key, stage in plan.stages.items():
        inputs = " ".join(f"{role}={above[:8]}" for role, above in stage.inputs.items())
        table.add_row(key[:8], stage.describe(), inputs, "yes" if key in done else "")
    console.print(table, markup=False)
    _show_skipped_cells(plan)
    click.echo(
        f"{len(plan.cells)} cells, {len(plan.stages)} stages, {len(done)} in the store; "
        f"{_about(estimate(plan, store, slots), slots)}"
    )


def estimate_json(plan: Plan, folder: Path, slots: int) -> dict[str, Any]:
    """What a run would do, as JSON values."""
    _warn(plan)
    work = vars(estimate(plan, _existing(folder), slots))
    return {"cells": len(plan.cells), "slots": slots} | work


def show_estimate(plan: Plan, folder: Path, slots: int) -> None:
    """Prints what a run would do and about how long it would take on ``slots``."""
    _warn(plan)
    work = estimate(plan, _existing(folder), slots)
    click.echo(
        f"{len(plan.cells)} cells; {sum(work.stages.values())} stages to make, {work.cached} in "
        f"the store"
    )
    for name, count in sorted(work.stages.items()):
        click.echo(f"  {name:<10} {count}")
    _show_skipped_cells(plan)
    click.echo(_about(work, slots))


def _about(work: Estimate, slots: int) -> str:
    unknown = f" (not counting {', '.join(work.unknown)}, never timed)" if work.unknown else ""
    plural = "" if slots == 1 else "s"
    return f"about {_duration(work.wall_seconds)} on {slots} slot{plural}{unknown}"


def _warn(plan: Plan) -> None:
    for warning in plan.warnings:
        click.echo(f"castlewalls: warning: {warning}", err=True)


def _show_skipped_cells(plan: Plan) -> None:
    _show_skipped(f"{cell.title}: {cell.reason}" for cell in plan.cells if cell.stage is None)


def _show_skipped(pairs: Iterable[str]) -> None:
    """Prints each skipped pair with its reason, once, since it is the same for every seed."""
    for pair in dict.fromkeys(pairs):
        click.echo(f"skipped: {pair}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
