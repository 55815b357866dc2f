"""A run: a plan, executed into a store, with the account of it in ``runs/<suite>.json`` kept up to date while it goes on."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.engine.executor import Executor, Failure, unfinished
from bench.engine.graph import Cell, Plan
from bench.engine.record import Record
from bench.engine.store import Store, write_atomically

RECORD_FILE = "record.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. ``counts``: cells by status; ``made``: stages made; ``file``: the account."""

    counts: dict[str, int]
    made: int
    file: Path

    @property
    def all_ok(self) -> bool:
        """Whether no cell failed; a skipped one is no failure."""
        return not self.counts.get("failed") and not self.counts.get("pending")


def execute(plan: Plan, store: Store, executor: Executor, provenance: Mapping[str, Any] | None = None) -> Outcome:
    """Makes what is missing and accounts for every cell. On Ctrl-C the account is written before the exception goes on."""
    account = _Account(plan, store, dict(provenance or {}))
    store.clean()
    earlier = account.earlier_times()
    account.write()
    try:
        executor.run(plan.stages, [cell.stage for cell in plan.cells if cell.stage], lambda: account.update(executor.failures))
        # Looking again at a finished suite makes nothing, so its board keeps its dates.
        account.started, account.finished = earlier if earlier and not executor.made else (account.started, _now())
    finally:
        account.update(executor.failures, always=True)
    return Outcome(counts=account.counts(), made=executor.made, file=account.path)


class _Account:
    """What ``runs/<suite>.json`` says."""

    def __init__(self, plan: Plan, store: Store, provenance: dict[str, Any]) -> None:
        self.plan, self.store, self.provenance = plan, store, provenance
        self.path = store.root / "runs" / f"{plan.suite}.json"
        self.started, self.finished = _now(), None
        self.results: dict[int, tuple[str, dict[str, Any]]] = {}  # cell's index -> status, entry

    started: str
    finished: str | None

    def earlier_times(self) -> tuple[str, str] | None:
        """When the last run of this suite started and finished, if it did."""
        if not self.path.is_file():
            return None
        data = json.loads(self.path.read_text())
        return (data["started"], data["finished"]) if data["finished"] else None

    def update(self, failures: Mapping[str, Failure], always: bool = False) -> None:
        """Notes the cells that have come to an end, and writes if there are any new."""
        before = len(self.results)
        for index, cell in enumerate(self.plan.cells):
            if index not in self.results:
                found = self._result(cell, failures)
                if found is not None:
                    self.results[index] = found
        if always or len(self.results) > before:
            self.write()

    def _result(self, cell: Cell, failures: Mapping[str, Failure]) -> tuple[str, dict[str, Any]] | None:
        if cell.stage is None:
            return "skipped", _inline(cell.without_result("skipped", cell.reason, provenance=self.provenance))
        if self.store.finished(cell.stage):
            file = self.store.folder(cell.stage) / RECORD_FILE
            status = json.loads(file.read_text())["status"]
            return status, {"record": str(file.relative_to(self.store.root))}
        failure = failures.get(cell.stage)
        if failure is None:
            return None
        reason = failure.reason
        if failure.stage != cell.stage:
            reason = f"{self.plan.stages[failure.stage].describe()}: {reason}"
        return "failed", _inline(cell.without_result("failed", reason, failure.trace, self.provenance))

    def counts(self) -> dict[str, int]:
        """Cells of this plan by status."""
        counted = Counter(status for status, _ in self.results.values())
        return {status: counted[status] for status in ("ok", "failed", "skipped")} | {
            "pending": len(self.plan.cells) - len(self.results)
        }

    def write(self) -> None:
        """Replaces the file. A part of a suite (``--seeds`` and the like) leaves the other cells of the last run where they
        are."""
        with (
            self.store.writing(f"{self.path} cannot be written"),
            FileLock(self.store.root / "locks" / f"{self.plan.suite}.run.lock"),
        ):
            entries = [{"id": _identity(cell), "status": "pending"} for cell in self.plan.cells]
            for index, (status, entry) in self.results.items():
                entries[index] = {"id": entries[index]["id"], "status": status} | entry
            if self.plan.filtered and self.path.is_file():
                mine = {entry["id"]: entry for entry in entries}
                earlier = json.loads(self.path.read_text())["cells"]
                kept = [mine.pop(entry["id"], entry) for entry in earlier]
                entries = kept + list(mine.values())
            counted = Counter(entry["status"] for entry in entries)
            data = {
                "suite": self.plan.suite,
                "description": self.plan.description,
                "started": self.started,
                "finished": self.finished,
                "counts": {status: counted[status] for status in ("ok", "failed", "skipped", "pending")},
                "cells": entries,
            }
            write_atomically(self.path, json.dumps(data, indent=1, allow_nan=False))


def _identity(cell: Cell) -> str:
    """Which cell of a suite this is, whatever code made it: how a partial run finds what it replaces."""
    specs = [cell.testbed, cell.attack, cell.probe, cell.defense]
    named = [None if spec is None else [spec.name, spec.params] for spec in specs]
    return json.dumps([*named, cell.seed], sort_keys=True)


def _inline(record: Record) -> dict[str, Any]:
    return {"inline": dataclasses.asdict(record)}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``stages``: how many are missing, by kind; ``seconds``: of work, ``wall_seconds``: over the slots; ``unknown``: kinds
    nobody timed."""

    stages: dict[str, int]
    cached: int
    seconds: float
    wall_seconds: float
    unknown: tuple[str, ...]


def estimate(plan: Plan, store: Store | None, jobs: int) -> Estimate:
    """What is left to do: from the time such stages took in this store, else from what the testbed declares."""
    timed: dict[tuple[Any, ...], list[float]] = {}
    for manifest in store.manifests() if store else ():
        for kind in _kinds(manifest["stage"], manifest["params"]):
            timed.setdefault(kind, []).append(manifest["cost"]["seconds"])
    targets = [cell.stage for cell in plan.cells if cell.stage]
    missing = unfinished(plan.stages, targets, store) if store else plan.closure(targets)
    seconds: dict[str, float] = {}
    unknown = set()
    for key in missing:
        stage = plan.stages[key]
        known = next((timed[kind] for kind in _kinds(stage.name, stage.params) if kind in timed), None)
        if known is None and stage.seconds is None:
            unknown.add(stage.name)
        seconds[key] = sum(known) / len(known) if known else stage.seconds or 0.0
    total = sum(seconds.values())
    return Estimate(
        stages=dict(Counter(plan.stages[key].name for key in missing)),
        cached=len(plan.stages) - len(missing),
        seconds=total,
        wall_seconds=max(total / jobs, _longest_chain(plan, seconds)),
        unknown=tuple(sorted(unknown)),
    )


def _longest_chain(plan: Plan, seconds: Mapping[str, float]) -> float:
    """No number of slots is faster than this."""
    ends: dict[str, float] = {}
    for key, stage in plan.stages.items():  # inputs stand before what needs them
        if key in seconds:
            ends[key] = seconds[key] + max((ends.get(above, 0.0) for above in stage.inputs.values()), default=0.0)
    return max(ends.values(), default=0.0)


def _kinds(name: str, params: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """Stages that share the first of these take about the same time; those that share the second, with any plugins, still roughly."""
    testbed, *plugins = (params.get(role) for role in ("testbed", "attack", "defense"))
    roughly = (name, params.get("what"), testbed and testbed["name"])
    return (*roughly, *(spec and spec["name"] for spec in plugins)), roughly
