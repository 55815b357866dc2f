"""A run: a plan, executed into a store, with the account of it in ``runs/<suite>.json`` kept up to
date while it goes on.
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
from bench.record import Record, read_account
from bench.text import one_line

RECORD_FILE = "record.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. ``counts``: cells by status; ``made``: stages made; ``file``: the
    account.
    """

    counts: dict[str, int]
    made: int
    file: Path

    @property
    def all_ok(self) -> bool:
        """Whether no cell failed; a skipped one is no failure."""
        return not self.counts.get("failed") and not self.counts.get("pending")


def execute(
    plan: Plan, store: Store, executor: Executor, provenance: Mapping[str, Any] | None = None
) -> Outcome:
    """Makes what is missing and accounts for every cell. On Ctrl-C the account is written before
    the exception goes on.

    The account begins with what is finished and, for the rest, with what the last run found, so
    that a run that is ended at any moment takes nothing from the board.
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
        # Looking again at a finished suite makes nothing, so its board keeps its dates.
        account.finish(made=executor.made)
    finally:
        account.update(executor.failures, always=True)
    return Outcome(counts=account.counts(), made=executor.made, file=account.path)


class _Account:
    """What ``runs/<suite>.json`` says. ``tell``: what a person should know."""

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
        """The account of the last run; ``None`` if there is none that can be read."""
        try:
            return read_account(self.path) if self.path.is_file() else None
        except (OSError, ValueError) as error:
            if aloud:
                self.tell(
                    f"{self.path} cannot be read ({one_line(str(error))}); it is written anew"
                )
            return None

    def _say_what_is_replaced(self) -> None:
        """Two suites of one name share one account: the second takes the first one's cells off the
        board.
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

    def finish(self, made: int) -> None:
        """The run came to its end. Nothing made: the dates of the last run stay."""
        earlier = self.earlier
        if made or earlier is None or not earlier["finished"]:
            self.finished = _now()
        else:
            self.started, self.finished = earlier["started"], earlier["finished"]

    def refuse_damaged(self) -> None:
        """Moves aside the results that cannot be used, so that they are made again."""
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
        """The status in a finished cell's record, and what is wrong with that record."""
        try:
            text = (self.store.folder(key) / RECORD_FILE).read_text(encoding="utf-8")
            return Record.from_json(text).status, ""
        except (OSError, ValueError) as error:
            return "failed", f"{RECORD_FILE} cannot be used: {one_line(str(error))}"

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
        """Replaces the file. A part of a suite (``--seeds`` and the like) leaves the other cells of
        the last run where they are; a cell without a result keeps what the last run found.
        """
        with self.store.writing(f"{self.path} cannot be written"):
            lock = self.store.lock(f"{self.plan.suite}.run")
            try:
                write_atomically(self.path, json.dumps(self._data(), indent=1, allow_nan=False))
            finally:
                lock.release()

    def _data(self) -> dict[str, Any]:
        known = self._earlier() or {"cells": [], "metrics": []}
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
        # What an earlier run of a part has words for, this one may have forgotten.
        words = {one["name"]: one for one in [*known["metrics"], *self.plan.metrics]}
        return {
            "suite": self.plan.suite,
            "description": self.plan.description,
            "started": self.started,
            "finished": self.finished,
            "counts": {
                status: counted[status] for status in ("ok", "failed", "skipped", "pending")
            },
            "metrics": list(words.values()),
            "cells": list(mine.values()),
        }


def _inline(record: Record) -> dict[str, Any]:
    return {"inline": dataclasses.asdict(record)}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``stages``: how many are missing, by kind; ``seconds``: of work, ``wall_seconds``: over the
    slots; ``unknown``: kinds nobody timed.
    """

    stages: dict[str, int]
    cached: int
    seconds: float
    wall_seconds: float
    unknown: tuple[str, ...]


def estimate(plan: Plan, store: Store | None, jobs: int) -> Estimate:
    """What is left to do: from the time such stages took in this store, else from what the testbed
    declares.
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
    """No number of slots is faster than this."""
    ends: dict[str, float] = {}
    for key, stage in plan.stages.items():  # inputs stand before what needs them
        if key in seconds:
            ends[key] = seconds[key] + max(
                (ends.get(above, 0.0) for above in stage.inputs.values()), default=0.0
            )
    return max(ends.values(), default=0.0)
