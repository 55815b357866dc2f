"""The local executor: ready stages onto free slots, longest chain first. It holds no state worth keeping: the store does.

A stage that raises, takes too long or takes its worker down fails alone; what depends on it fails for the same reason, and the
rest goes on. A key that another run is making is waited for, and taken over if that run dies.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.engine.context import StageKind
from bench.engine.graph import Stage
from bench.engine.interrupts import Interrupts
from bench.engine.progress import Reporter
from bench.engine.slots import Slot, Worker
from bench.engine.store import LOG, Store, discard

POLL_SECONDS = 0.3
DEFAULT_STAGES = "bench.engine.stages"


@dataclass(frozen=True)
class Failure:
    """Why a stage has no result. ``stage``: the key of the one that failed first."""

    stage: str
    reason: str
    trace: str = ""


@dataclass
class _Job:
    key: str
    lock: FileLock
    folder: Path
    deadline: float | None = None
    late: bool = False


def unfinished(stages: Mapping[str, Stage], targets: Iterable[str], store: Store) -> list[str]:
    """The keys that must be made for ``targets``: those not in the store, and their inputs, but nothing above a finished
    one."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        key = waiting.pop()
        if key not in found and not store.finished(key):
            found.add(key)
            waiting += stages[key].inputs.values()
    return [key for key in stages if key in found]


class Executor:
    """Runs stages in worker processes. ``stages``: the module with the table; ``kinds``: that table, for its timeouts and
    retries.

    ``timeout``, ``retries``: for every stage, over what its kind says. ``context``: more of :class:`StageContext` for every
    stage.
    """

    def __init__(
        self,
        store: Store,
        slots: Sequence[Slot],
        reporter: Reporter,
        *,
        stages: str = DEFAULT_STAGES,
        kinds: Mapping[str, StageKind] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        plugin_files: tuple[str, ...] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.store, self.slots, self.reporter, self.source = store, list(slots), reporter, stages
        self.kinds, self.timeout, self.retries = kinds or {}, timeout, retries
        self.plugin_files, self.provenance = plugin_files, dict(provenance or {})
        self.events: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self.workers: dict[str, Worker] = {}
        self.failures: dict[str, Failure] = {}
        self.tries: dict[str, int] = {}
        self.waiting: dict[str, None] = {}
        self.jobs: dict[str, _Job] = {}  # by slot
        self.made = 0

    def run(
        self, stages: Mapping[str, Stage], targets: Iterable[str], changed: Callable[[], None] = lambda: None
    ) -> dict[str, Failure]:
        """Makes every target, and returns the failures by key. ``changed`` is called after every stage that finished or failed.

        On an exception (Ctrl-C) the workers are ended and what they had begun is removed; finished stages stay.
        """
        targets = list(dict.fromkeys(targets))
        self.stages, self.failures, self.tries = stages, {}, {}
        self.waiting = dict.fromkeys(unfinished(stages, targets, self.store))
        self.said: set[str] = set()
        self.urgency = self._chain_lengths()
        self.reporter.begin(len(self.waiting), len([key for key in stages if key not in self.waiting]))
        with Interrupts() as interrupts:
            try:
                while self.waiting or self.jobs:
                    interrupts.check()
                    if self._dispatch():
                        changed()
                    self._listen(changed)
            finally:
                self._stop()
        return self.failures

    def _chain_lengths(self) -> dict[str, float]:
        """Seconds from each waiting stage to the end of the longest chain that hangs on it."""
        lengths = {key: self.stages[key].seconds or 1.0 for key in self.waiting}
        for key in reversed(list(self.waiting)):
            for above in self.stages[key].inputs.values():
                if above in lengths:
                    lengths[above] = max(lengths[above], (self.stages[above].seconds or 1.0) + lengths[key])
        return lengths

    def _dispatch(self) -> bool:
        """Fills the free slots. True if a waiting stage turned out to be finished (by another run)."""
        found = False
        running = {job.key for job in self.jobs.values()}
        ready = [
            key
            for key in self.waiting
            if key not in running and not any(above in self.waiting for above in self.stages[key].inputs.values())
        ]
        for key in sorted(ready, key=lambda key: -self.urgency[key]):
            free = [slot for slot in self.slots if slot.name not in self.jobs]
            if not free:
                break
            lock = self.store.try_lock(key)
            if lock is None:
                if key not in self.said:
                    self.said.add(key)
                    self.reporter.elsewhere(key, self.stages[key])
            elif self.store.finished(key):
                lock.release()
                del self.waiting[key]
                self.reporter.done(key, self.stages[key], 0.0)
                found = True
            else:
                self._start(key, lock, free[0])
        return found

    def _start(self, key: str, lock: FileLock, slot: Slot) -> None:
        stage = self.stages[key]
        folder = self.store.new_folder(key)
        self.jobs[slot.name] = _Job(key, lock, folder)
        if slot.name not in self.workers:
            self.workers[slot.name] = Worker(slot, self.events)
        task = {
            "stages": self.source,
            "stage": stage.name,
            "key": key,
            "params": stage.params,
            "inputs": {role: str(self.store.folder(above)) for role, above in stage.inputs.items()},
            "input_keys": stage.inputs,
            "folder": str(folder),
            "final": str(self.store.folder(key)),
            "provenance": self.provenance,
            "processes": slot.processes,
            "context": {
                "key": key,
                "device": slot.device,
                "partial": str(self.store.partial(key)),
                "threads": slot.threads,
                "plugin_files": self.plugin_files,
                "protocol": stage.protocol,
                "provenance": self.provenance | {"stage": key, "inputs": stage.inputs, "threads": slot.threads} | stage.notes,
                "input_costs": self._own_costs(stage),
            },
        }
        self.reporter.started(key, stage, slot.name)
        self.workers[slot.name].send(task)

    def _own_costs(self, stage: Stage) -> dict[str, float]:
        """What a cell cost: for ``measure``, the stages it alone needed, and the attack's training apart."""
        if stage.name != "measure":
            return {}
        shared = ("reference", "aim", "poisoned_rows", "true_rows")
        own = [key for role, key in stage.inputs.items() if role not in shared and not role.startswith("undefended_")]
        manifests, training = {}, 0.0
        while own:
            key = own.pop()
            if key not in manifests:
                manifests[key] = self.store.manifest(key)
                own += manifests[key]["input_keys"].values()
        # An inversion's generator is reached through its invert stage, so training is found for every cell that has one.
        for key in [key for key, found in manifests.items() if found["stage"] == "train"]:
            training += manifests.pop(key)["cost"]["seconds"]
        costs = [found["cost"] for found in manifests.values()]
        return {
            "seconds": sum((cost["seconds"] for cost in costs), 0.0),
            "peak_memory_bytes": max((cost["peak_memory_bytes"] for cost in costs), default=0.0),
            "generator_calls": sum((cost.get("generator_calls", 0.0) for cost in costs), 0.0),
            "attack_seconds": training,
        }

    def _listen(self, changed: Callable[[], None]) -> None:
        """Waits for a worker's word, or a moment, and acts on it."""
        try:
            worker, message = self.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            self._end_late()
            return
        job = self.jobs.get(worker.slot.name)
        if self.workers.get(worker.slot.name) is not worker:
            return  # a worker that was ended already
        if message is None:
            del self.workers[worker.slot.name]
            if job is not None:
                reason = f"timed out after {self._timeout(job.key):g} s" if job.late else worker.ended()
                self._finish(worker.slot.name, {"ok": False, "reason": reason, "trace": self._log(job, worker), "retry": True})
                changed()
        elif job is not None and "started" in message:
            limit = self._timeout(job.key)
            job.deadline = None if limit is None else time.monotonic() + limit
        elif job is not None and "progress" in message:
            done, total, what = message["progress"]
            self.reporter.progress(job.key, done, total, what)
        elif job is not None:
            if job.late:  # it answered while it was being ended
                del self.workers[worker.slot.name]
            self._finish(worker.slot.name, message)
            changed()
        self._end_late()

    def _timeout(self, key: str) -> float | None:
        kind = self.kinds.get(self.stages[key].name)
        return self.timeout if self.timeout is not None else (kind.timeout_seconds if kind else None)

    def _end_late(self) -> None:
        for slot, job in self.jobs.items():
            if job.deadline is not None and time.monotonic() > job.deadline and not job.late and slot in self.workers:
                job.late = True
                self.workers[slot].kill()

    def _log(self, job: _Job, worker: Worker) -> str:
        log = job.folder / LOG
        return log.read_text(errors="replace")[-4000:] if log.is_file() else worker.last_words()

    def _finish(self, slot: str, result: Mapping[str, Any]) -> None:
        job = self.jobs.pop(slot)
        stage = self.stages[job.key]
        if not result["ok"]:
            discard(job.folder)
        job.lock.release()
        if result["ok"] or self.store.finished(job.key):
            del self.waiting[job.key]
            self.made += 1
            self.reporter.done(job.key, stage, result.get("cost", {}).get("seconds", 0.0))
            return
        kind = self.kinds.get(stage.name)
        allowed = self.retries if self.retries is not None else (kind.retries if kind else 0)
        self.tries[job.key] = self.tries.get(job.key, 0) + 1
        again = bool(result["retry"]) and self.tries[job.key] <= allowed
        self.reporter.failed(job.key, stage, result["reason"], again)
        if not again:
            self._give_up(job.key, Failure(job.key, result["reason"], result["trace"]))

    def _give_up(self, key: str, failure: Failure) -> None:
        """Marks a stage and everything that hangs on it."""
        del self.waiting[key]
        self.failures[key] = failure
        for below in [below for below in self.waiting if key in self.stages[below].inputs.values()]:
            if below in self.waiting:
                self._give_up(below, failure)

    def _stop(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        for worker in self.workers.values():
            worker.process.wait()
        for job in self.jobs.values():
            discard(job.folder)
            job.lock.release()
        self.workers.clear()
        self.jobs.clear()
