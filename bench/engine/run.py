"""A run: one plan or several, executed together into a store. The account of each,
``runs/<suite>.json``, is kept up to date all along.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.engine.contract import Engine
from bench.engine.graph import Cell, Plan
from bench.engine.schedule import Durations, longest_chain, turns_of
from bench.engine.scheduler import Failure, Patience, unfinished
from bench.engine.store import Store, write_atomically
from bench.manifest import fault
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
    plan: Plan, store: Store, executor: Engine, provenance: Mapping[str, Any] | None = None
) -> Outcome:
    """:func:`execute_all` of one plan."""
    return execute_all([plan], store, executor, provenance)[0]


def execute_all(
    plans: Sequence[Plan],
    store: Store,
    executor: Engine,
    provenance: Mapping[str, Any] | None = None,
    patience: Mapping[str, Patience] | None = None,
) -> list[Outcome]:
    """Makes what is missing, in one order over all plans, and accounts for every cell. On Ctrl-C
    the accounts are written before the exception propagates. ``patience``: with stages, by key.

    An account starts with the finished cells and, for the others, the last run's results, so a run
    that is interrupted at any moment removes nothing from the board.
    """
    accounts = [
        _Account(plan, store, dict(provenance or {}), executor.reporter.note) for plan in plans
    ]
    store.clean()
    for account in accounts:
        account.refuse_damaged()
        account.update({}, always=True)

    stands = executor.scheduler

    def update(always: bool = False) -> None:
        for account in accounts:
            account.update(stands.failures, stands.waiting, stands.made, always=always)

    try:
        executor.run(
            {key: stage for plan in plans for key, stage in plan.stages.items()},
            [cell.stage for plan in plans for cell in plan.cells if cell.stage],
            update,
            turns=turns_of(plans),
            patience=patience,
        )
    finally:
        update(always=True)
    made = _made_by(plans, stands.made)
    return [
        Outcome(counts=account.counts(), stages_made=count, file=account.path)
        for account, count in zip(accounts, made, strict=True)
    ]


def _made_by(plans: Sequence[Plan], made: Set[str]) -> list[int]:
    """How many stages were made for each plan; one that several share counts for the first."""
    left = set(made)
    counts = []
    for plan in plans:
        counts.append(len(left & plan.stages.keys()))
        left -= plan.stages.keys()
    return counts


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

    def _finish(self, made: Set[str]) -> None:
        """Sets the dates once every cell has ended. Those of the last run stay if nothing was made:
        rerunning a finished suite changes nothing on its board.
        """
        earlier = self.earlier
        if not made.isdisjoint(self.plan.stages) or earlier is None or not earlier["finished"]:
            self.finished = _now()
        else:
            self.started, self.finished = earlier["started"], earlier["finished"]

    def refuse_damaged(self) -> None:
        """Moves unusable results aside, so that they are made again."""
        for cell in self.plan.cells:
            if cell.stage and self.store.folder(cell.stage).is_dir():
                if self.store.fault(cell.stage) or _read(self.store.folder(cell.stage))[1]:
                    self._put_aside(cell.stage)

    def _put_aside(self, key: str) -> None:
        moved = self.store.put_aside(
            key, lambda folder: fault(folder, contents=True) or _read(folder)[1]
        )
        if moved is not None:
            self.tell(f"{self.plan.stages[key].describe()}: {moved}")

    def update(
        self,
        failures: Mapping[str, Failure],
        waiting: Container[str] = (),
        made: Set[str] = frozenset(),
        *,
        always: bool = False,
    ) -> None:
        """Adds the cells that have ended, and writes the file if there are new ones. ``waiting``:
        stages that are known not to have; ``made``: those that this run made.
        """
        before = len(self.results)
        for index, cell in enumerate(self.plan.cells):
            if index not in self.results and cell.stage not in waiting:
                result = self._result(cell, failures)
                if result is not None:
                    self.results[index] = result
        if len(self.results) == len(self.ids) and self.finished is None:
            self._finish(made)
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
            status, wrong = _read(self.store.folder(cell.stage))
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


def _read(folder: Path) -> tuple[str, str]:
    """The status in a finished cell's record, and what is wrong with it; empty if nothing."""
    try:
        text = (folder / RECORD_FILE).read_text(encoding="utf-8")
        return Record.from_json(text).status, ""
    except (OSError, ValueError) as error:
        return "failed", f"{RECORD_FILE} cannot be used: {one_line(str(error))}"


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
    durations = Durations(store.manifests() if store else ())
    targets = [cell.stage for cell in plan.cells if cell.stage]
    missing = unfinished(plan.stages, targets, store) if store else plan.closure(targets)
    known = {key: durations.of(plan.stages[key]) for key in missing}
    seconds = {key: one or 0.0 for key, one in known.items()}
    total = sum(seconds.values())
    return Estimate(
        stages=dict(Counter(plan.stages[key].name for key in missing)),
        cached=len(plan.stages) - len(missing),
        seconds=total,
        wall_seconds=max(total / jobs, longest_chain(plan.stages, seconds)),
        unknown=tuple(sorted({plan.stages[key].name for key in known if known[key] is None})),
    )
