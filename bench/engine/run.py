"""A run: a plan executed into a store. Its account, ``runs/<suite>.json``, is kept up to date all
along.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.engine.executor import Executor, Failure, unfinished
from bench.engine.graph import Cell, Plan
from bench.engine.store import Store, write_atomically
from bench.record import Record, methods_of, read_account
from bench.text import one_line

RECORD_FILE = "record.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. ``counts``: cells by status; ``stages_made``: how many; ``file``: the
    account.
    """

    counts: dict[str, int]
    stages_made: int
    file: Path

    @property
    def all_ok(self) -> bool:
        """Whether no cell failed; a skipped cell is not a failure."""
        return not self.counts.get("failed") and not self.counts.get("pending")


def execute(
    plan: Plan, store: Store, executor: Executor, provenance: Mapping[str, Any] | None = None
) -> Outcome:
    """Makes what is missing and accounts for every cell. On Ctrl-C the account is written before
    the exception propagates.

    The account starts with the finished cells and, for the others, the last run's results, so a run
    that is interrupted at any moment removes nothing from the board.
    """
    account = _Account(plan, store, dict(provenance or {}), executor.reporter.note)
    store.clean()
    account.refuse_damaged()
    account.update({}, always=True)
    try:
        executor.run(
            plan.stages,
            [cell.stage for cell in plan.cells if cell.stage],
            lambda: account.update(executor.failures),
        )
        # Rerunning a finished suite makes nothing, so its board keeps its dates.
        account.finish(stages_made=executor.stages_made)
    finally:
        account.update(executor.failures, always=True)
    return Outcome(counts=account.counts(), stages_made=executor.stages_made, file=account.path)


class _Account:
    """The content of ``runs/<suite>.json``. ``tell``: prints a line for the user."""

    def __init__(
        self, plan: Plan, store: Store, provenance: dict[str, Any], tell: Callable[[str], None]
    ) -> None:
        self.plan, self.store, self.provenance, self.tell = plan, store, provenance, tell
        self.path = store.root / "runs" / f"{plan.suite}.json"
        self.started, self.finished = _now(), None
        self.results: dict[int, tuple[str, dict[str, Any]]] = {}  # cell's index -> status, entry
        self.ids = [cell.id for cell in plan.cells]
        self.earlier = self._earlier(aloud=True)
        self._say_what_is_replaced()

    started: str
    finished: str | None

    def _earlier(self, aloud: bool = False) -> dict[str, Any] | None:
        """The account of the last run; ``None`` if there is no readable one."""
        try:
            return read_account(self.path) if self.path.is_file() else None
        except (OSError, ValueError) as error:
            if aloud:
                self.tell(
                    f"{self.path} cannot be read ({one_line(str(error))}); it is written anew"
                )
            return None

    def _say_what_is_replaced(self) -> None:
        """Warns if this run removes cells from the board: two suites of the same name share one
        account.
        """
        if self.earlier is None or self.plan.filtered:
            return
        before, mine = [cell.get("id") for cell in self.earlier["cells"]], set(self.ids)
        gone = sum(name not in mine for name in before)
        if gone:
            what = (
                f"{self.plan.suite} ({self.earlier['description'] or 'no description'}, "
                f"started {self.earlier['started']})"
            )
            self.tell(
                f"replaces the run of {what}: {gone} of its {len(before)} cells are not in this "
                f"suite and leave the board"
            )

    def finish(self, stages_made: int) -> None:
        """Sets the dates at the end of the run; those of the last run stay if nothing was made."""
        earlier = self.earlier
        if stages_made or earlier is None or not earlier["finished"]:
            self.finished = _now()
        else:
            self.started, self.finished = earlier["started"], earlier["finished"]

    def refuse_damaged(self) -> None:
        """Moves unusable results aside, so that they are made again."""
        for cell in self.plan.cells:
            if cell.stage and self.store.folder(cell.stage).is_dir():
                wrong = self.store.fault(cell.stage) or self._read(cell.stage)[1]
                if wrong:
                    self._put_aside(cell.stage, wrong)

    def _put_aside(self, key: str, wrong: str) -> None:
        described = self.plan.stages[key].describe()
        self.tell(
            f"{described}: {wrong}; it is made again, what was there is in "
            f"{self.store.put_aside(key)}"
        )

    def _read(self, key: str) -> tuple[str, str]:
        """The status in a finished cell's record, and what is wrong with it; empty if nothing."""
        try:
            text = (self.store.folder(key) / RECORD_FILE).read_text(encoding="utf-8")
            return Record.from_json(text).status, ""
        except (OSError, ValueError) as error:
            return "failed", f"{RECORD_FILE} cannot be used: {one_line(str(error))}"

    def update(self, failures: Mapping[str, Failure], always: bool = False) -> None:
        """Adds the cells that have ended, and writes the file if there are new ones."""
        before = len(self.results)
        for index, cell in enumerate(self.plan.cells):
            if index not in self.results:
                result = self._result(cell, failures)
                if result is not None:
                    self.results[index] = result
        if always or len(self.results) > before:
            self.write()

    def _result(
        self, cell: Cell, failures: Mapping[str, Failure]
    ) -> tuple[str, dict[str, Any]] | None:
        if cell.stage is None:
            return "skipped", _inline(
                cell.without_result("skipped", cell.reason, provenance=self.provenance)
            )
        failure = failures.get(cell.stage)
        if failure is None and self.store.finished(cell.stage):
            status, wrong = self._read(cell.stage)
            if not wrong:
                file = self.store.folder(cell.stage) / RECORD_FILE
                return status, {"record": str(file.relative_to(self.store.root))}
            failure = Failure(cell.stage, wrong)
        if failure is None:
            return None
        reason = failure.reason
        if failure.stage != cell.stage:
            reason = f"{self.plan.stages[failure.stage].describe()}: {reason}"
        return "failed", _inline(
            cell.without_result("failed", reason, failure.trace, self.provenance)
        )

    def counts(self) -> dict[str, int]:
        """Cells of this plan by status."""
        counted = Counter(status for status, _ in self.results.values())
        return {status: counted[status] for status in ("ok", "failed", "skipped")} | {
            "pending": len(self.plan.cells) - len(self.results)
        }

    def write(self) -> None:
        """Replaces the file. A partial run (``--seeds`` and the like) leaves the other cells of the
        last run unchanged; a cell without a result keeps the last run's.
        """
        with self.store.writing(f"{self.path} cannot be written"):
            lock = self.store.lock(f"{self.plan.suite}.run")
            try:
                write_atomically(self.path, json.dumps(self._data(), indent=1, allow_nan=False))
            finally:
                lock.release()

    def _data(self) -> dict[str, Any]:
        known = self._earlier() or {"cells": [], "metrics": [], "methods": []}
        before = {cell["id"]: cell for cell in known["cells"] if isinstance(cell.get("id"), str)}
        mine: dict[str, dict[str, Any]] = {}
        for index, (name, cell) in enumerate(zip(self.ids, self.plan.cells, strict=True)):
            if index in self.results:
                status, entry = self.results[index]
                mine[name] = cell.about() | {"id": name, "status": status} | entry
            else:
                mine[name] = before.get(name, cell.about() | {"id": name, "status": "pending"})
        if self.plan.filtered:
            mine = {name: mine.get(name, cell) for name, cell in before.items()} | mine
        counted = Counter(entry.get("status", "pending") for entry in mine.values())
        # An earlier partial run may have declared metrics, or had methods, that this one does not.
        words = {metric["name"]: metric for metric in [*known["metrics"], *self.plan.metrics]}
        usable = [one.to_json() for one in methods_of(known["methods"])]
        methods = {method["name"]: method for method in [*usable, *self.plan.methods]}
        return {
            "suite": self.plan.suite,
            "description": self.plan.description,
            "started": self.started,
            "finished": self.finished,
            "counts": {
                status: counted[status] for status in ("ok", "failed", "skipped", "pending")
            },
            "metrics": list(words.values()),
            "methods": list(methods.values()),
            "cells": list(mine.values()),
        }


def _inline(record: Record) -> dict[str, Any]:
    return {"inline": dataclasses.asdict(record)}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``stages``: how many are missing, by name; ``seconds``: total work; ``wall_seconds``: with
    the slots working in parallel; ``unknown``: names of stages without any known duration.
    """

    stages: dict[str, int]
    cached: int
    seconds: float
    wall_seconds: float
    unknown: tuple[str, ...]


def estimate(plan: Plan, store: Store | None, jobs: int) -> Estimate:
    """The remaining work, from the durations of such stages in this store, or else from what the
    testbed declares.
    """
    timed: dict[str, list[float]] = {}
    for manifest in store.manifests() if store else ():
        for group in manifest.get("alike", ()):
            timed.setdefault(group, []).append(manifest["cost"]["seconds"])
    targets = [cell.stage for cell in plan.cells if cell.stage]
    missing = unfinished(plan.stages, targets, store) if store else plan.closure(targets)
    seconds: dict[str, float] = {}
    unknown = set()
    for key in missing:
        stage = plan.stages[key]
        known = next((timed[group] for group in stage.alike if group in timed), None)
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
    """The seconds of the longest chain of stages: a lower bound for any number of slots."""
    ends: dict[str, float] = {}
    for key, stage in plan.stages.items():  # inputs stand before what needs them
        if key in seconds:
            ends[key] = seconds[key] + max(
                (ends.get(above, 0.0) for above in stage.inputs.values()), default=0.0
            )
    return max(ends.values(), default=0.0)
