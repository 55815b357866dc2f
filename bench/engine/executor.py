"""The local executor: puts the stages that :mod:`bench.engine.scheduler` says may begin onto free
slots of this machine. It holds no state worth keeping: the store does.

A stage that raises, times out or kills its worker fails alone; what depends on it fails for the
same reason, and the rest continues. If another run is making a key, this one waits, and takes over
if that run dies. A stage that needs a third-party plugin gets a worker of its own, isolated
(:mod:`bench.engine.isolation`), which ends with it: nothing that the plugin leaves behind in a
process can reach another stage. What it leaves in its folder a worker of ours reads, checks and
commits (:mod:`bench.engine.admission`).
"""

from __future__ import annotations

import math
import os
import queue
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from bench.engine import admission
from bench.engine.context import StageKind
from bench.engine.fingerprint import planned_code
from bench.engine.graph import Stage, Turn
from bench.engine.interrupts import Interrupts
from bench.engine.isolation import Isolation, Limits, origin, support, usual_limits
from bench.engine.progress import Reporter
from bench.engine.scheduler import Failure, Patience, Scheduler
from bench.engine.slots import Slot, Worker, allow_files
from bench.engine.store import LOG, Store, discard
from bench.text import one_line, tail

POLL_SECONDS = 0.3
#: How long to wait for a worker's last messages after its process has ended.
LAST_WORDS_SECONDS = 1.0
#: After this long without an event the reporter lists what is running.
QUIET_SECONDS = 60.0
#: The default time limit: the larger of the first and this many times the duration the testbed
#: declares for such a stage; for our own, and where it declares nothing, no less than the last.
SHORTEST_LIMIT, DECLARED_TIMES, UNDECLARED_LIMIT = 1800.0, 20.0, 86400.0
#: So many of a third-party plugin's notes are shown for a stage.
MOST_NOTES = 20


@dataclass
class _Job:
    key: str
    lock: FileLock
    folder: Path
    worker: Worker
    started: float
    limit: float
    ended: float | None = None
    # Of a third-party plugin's stage: its task, when it began, and where what it left is admitted.
    isolation: Isolation | None = None
    task: dict[str, Any] = field(default_factory=dict)
    begun: float | None = None
    notes: int = 0
    admitted: Path | None = None
    # On the name of its folders, which is not its key (Store.sealed).
    sealed: FileLock | None = None

    def release(self) -> None:
        self.lock.release()
        if self.sealed is not None:
            self.sealed.release()

    @property
    def log(self) -> Path:
        return (self.folder if self.isolation is None else self.isolation.out) / LOG


class Executor:
    """Runs stages in worker processes. ``stages``: the module that defines the table of stages;
    ``kinds``: that table, which says what their time is charged to.

    ``timeout`` and ``retries`` apply to every stage that a run says nothing else of, ``limits`` to
    those that run a third party's plugin.
    """

    def __init__(
        self,
        store: Store,
        slots: Sequence[Slot],
        reporter: Reporter,
        *,
        stages: str,
        kinds: Mapping[str, StageKind] | None = None,
        timeout: float | None = None,
        retries: int = 0,
        provenance: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = usual_limits(len(slots)) if limits is None else limits
        self.store, self.slots, self.reporter, self.source = store, list(slots), reporter, stages
        self.kinds, self.provenance = kinds or {}, dict(provenance or {})
        self.scheduler = Scheduler(store, reporter, Patience(timeout=timeout, retries=retries))
        self.events: queue.SimpleQueue[tuple[Worker, Any]] = queue.SimpleQueue()
        # by slot, those that run our own stages, one after another
        self.workers: dict[str, Worker] = {}
        self.jobs: dict[str, _Job] = {}
        self.disk_full = self.isolation_named = False
        self.last_event = 0.0

    def run(
        self,
        stages: Mapping[str, Stage],
        targets: Iterable[str],
        changed: Callable[[], None] = lambda: None,
        *,
        turns: Mapping[str, Turn] | None = None,
        patience: Mapping[str, Patience] | None = None,
    ) -> dict[str, Failure]:
        """Makes ``targets`` and what they need, and returns why some could not be made, by key.

        ``changed`` is called after every stage that ended. ``turns``, ``patience``: of the stages,
        by key. ``KeyboardInterrupt`` goes through once the workers are ended.
        """
        self.stages, self.announced = stages, set[str]()
        self.disk_full = self.isolation_named = False
        self.last_event = time.monotonic()
        allow_files(len(self.slots))
        self.scheduler.begin(stages, targets, turns, patience)
        with Interrupts() as interrupts:
            try:
                while self.scheduler.waiting or self.jobs:
                    interrupts.check()
                    if self._dispatch():
                        changed()
                    if self._listen():
                        changed()
            finally:
                self._stop()
        return self.scheduler.failures

    def _dispatch(self) -> bool:
        """Fills the free slots. True if a waiting stage ended without being started."""
        scheduler = self.scheduler
        if self.disk_full:  # any stage started now would fail too
            return scheduler.give_up_all("not begun: the disk is full")
        free = [slot for slot in self.slots if slot.name not in self.jobs]
        if not free:  # as at most of a worker's messages
            return False
        before = len(scheduler.waiting)
        for key in scheduler.ready():
            if not free:
                break
            lock = self.store.try_lock(key)
            if lock is None:
                if key not in self.announced:
                    self.announced.add(key)
                    self.reporter.elsewhere(key, self.stages[key])
            elif self.store.finished(key):
                lock.release()
                scheduler.done(key, ours=False)
            elif self._usable(key):
                self._start(key, lock, free.pop(0))
            else:
                lock.release()
        return len(scheduler.waiting) != before

    def _usable(self, key: str) -> bool:
        """Whether a stage's inputs and its own folder are intact; what is damaged or missing is
        planned again.
        """
        if self.store.folder(key).is_dir() and not self.scheduler.put_aside(key):
            return False  # another machine has just made it
        for above in self.stages[key].inputs.values():
            wrong = (
                self.store.fault(above)
                if self.store.folder(above).is_dir()
                else "it is gone from the store"
            )
            if wrong:
                self.scheduler.make_again(above, wrong)
                return False
        return True

    def _start(self, key: str, lock: FileLock, slot: Slot) -> None:
        stage = self.stages[key]
        name = self.store.sealed(key) if stage.plugins else key
        sealed = self.store.lock(name) if stage.plugins else None
        folder = self.store.new_folder(name)
        provenance = self.provenance | self._isolation_of(key, stage)
        task = {
            "code": planned_code(),
            "stages": self.source,
            "stage": stage.name,
            "alike": list(stage.alike),
            "key": key,
            "params": stage.params,
            "inputs": {role: str(self.store.folder(above)) for role, above in stage.inputs.items()},
            "input_keys": stage.inputs,
            "folder": str(folder),
            "final": str(self.store.folder(key)),
            "provenance": provenance,
            "processes": slot.processes,
            "plugins": [asdict(source) for source in stage.plugins],
            "context": {
                "key": key,
                "device": slot.device,
                "partial": str(self.store.partial(name)),
                "threads": slot.threads,
                "provenance": provenance
                | {"stage": key, "inputs": stage.inputs, "threads": slot.threads}
                | stage.notes,
                "charged": self._charged(stage),
            },
        }
        self.scheduler.started(key, slot.name)
        isolation = self._isolation(task, stage, slot) if stage.plugins else None
        worker = self._isolated(slot, isolation) if isolation else self._worker(slot)
        self.jobs[slot.name] = _Job(
            key,
            lock,
            folder,
            worker,
            time.monotonic(),
            self._limit(stage),
            isolation=isolation,
            task=task,
            sealed=sealed,
        )
        worker.send(task)

    def _isolation_of(self, key: str, stage: Stage) -> dict[str, list[str]]:
        """For the provenance of what third-party plugins have a part in: how they were isolated."""
        if key not in self.scheduler.third_party:
            return {}
        if not stage.plugins:
            manifests = [self.store.manifest(above) for above in stage.inputs.values()]
            return {"isolation": ways} if (ways := origin(manifests)) else {}
        if not self.isolation_named:
            self.isolation_named = True
            self.reporter.note(f"third parties' plugins run {support().words}")
        return {"isolation": [support().words]}

    def _isolation(self, task: Mapping[str, Any], stage: Stage, slot: Slot) -> Isolation:
        return Isolation(
            limits=self.limits,
            inputs=task["inputs"],
            folder=Path(task["folder"]),
            partial=Path(task["context"]["partial"]),
            files=[
                *(file for source in stage.plugins for file in source.hashes),
                *([self.source] if self.source.endswith(".py") else []),
            ],
            locations=stage.locations,
            store=self.store.root,
            device=slot.device,
        )

    def _isolated(self, slot: Slot, isolation: Isolation) -> Worker:
        """A worker for one stage of a third-party plugin."""
        if slot.device != "cpu" and slot.name in self.workers:  # it would keep its GPU memory
            self.workers.pop(slot.name).end()
        return Worker(slot, self.events, isolation=isolation)

    def _worker(self, slot: Slot) -> Worker:
        """The slot's worker for our own stages."""
        if slot.name not in self.workers:
            self.workers[slot.name] = Worker(slot, self.events)
        return self.workers[slot.name]

    def _limit(self, stage: Stage) -> float:
        """Seconds this stage may take from the moment it is started. Our own may take a day or
        longer, however slow the machine: the code that may never return is third-party code.
        """
        timeout = self.scheduler.patience_of(stage.key).timeout
        if timeout is not None:
            return timeout
        if stage.seconds is None:
            return UNDECLARED_LIMIT
        shortest = SHORTEST_LIMIT if stage.plugins else UNDECLARED_LIMIT
        return max(shortest, DECLARED_TIMES * stage.seconds)

    def _charged(self, stage: Stage) -> dict[str, float]:
        """The cost of the stages that are charged to this one, by the ``charge`` of their kind.
        What has since been removed from the store does not count.
        """
        if not stage.charged:
            return {}
        total = {kind.charge: 0.0 for kind in self.kinds.values()}
        peak = calls = 0.0
        own, visited = [stage.inputs[role] for role in stage.charged], set[str]()
        while own:
            key = own.pop()
            if key in visited:
                continue
            visited.add(key)
            try:
                manifest = self.store.manifest(key)
                charge, cost = self.kinds[str(manifest["stage"])].charge, dict(manifest["cost"])
                own += dict(manifest["input_keys"]).values()
            except (OSError, ValueError, KeyError, TypeError):
                continue
            total[charge] += cost.get("seconds", 0.0)
            if charge == "seconds":
                peak = max(peak, cost.get("peak_memory_bytes", 0.0))
                calls += cost.get("generator_calls", 0.0)
        return total | {"peak_memory_bytes": peak, "generator_calls": calls}

    def _listen(self) -> bool:
        """Waits briefly for a worker's message and handles it. True if a stage ended."""
        before = len(self.jobs), len(self.scheduler.waiting)
        try:
            worker, message = self.events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            pass
        else:
            job = self.jobs.get(worker.slot.name)
            if job is not None and job.worker is worker:
                self._hear(worker.slot.name, job, message)
            elif (
                message is None and self.workers.get(worker.slot.name) is worker
            ):  # it died while it had nothing to do
                self.workers.pop(worker.slot.name).end()
        self._look_after()
        return (len(self.jobs), len(self.scheduler.waiting)) != before

    def _hear(self, slot: str, job: _Job, message: Any) -> None:
        """Handles a message from the worker of a running stage; ``None`` means it has ended."""
        message_type = message_type_of(message)
        if message is None:
            self._lost(slot, job.worker.ended())
        elif message_type == "progress":
            done, total, text = message["progress"]
            self.reporter.progress(job.key, done, total, one_line(text, 80))
        elif message_type == "note":
            job.notes += 1
            if job.isolation and job.notes > MOST_NOTES:
                return
            self._say(f"{self.stages[job.key].describe()}: {one_line(message['note'])}")
        elif message_type == "started":
            job.begun = job.begun or time.monotonic()  # a plugin may say so again
        elif message_type == "answer" and message["ok"] and job.isolation and not job.admitted:
            self._admit(slot, job, message)
        elif message_type == "answer":
            self._finish(slot, message)
        elif message_type is None:
            self._lost(
                slot,
                f"the worker sent an invalid answer: {one_line(repr(message), 80)}",
                again=False,
            )

    def _look_after(self) -> None:
        """Ends a stage that exceeds its limit, and notices a dead worker whose pipe is still held
        open by a process it started.
        """
        now = time.monotonic()
        for slot, job in list(self.jobs.items()):
            if job.ended is None and job.worker.process.poll() is not None:
                job.ended = now
            if job.ended is not None and now > job.ended + LAST_WORDS_SECONDS:
                self._lost(slot, job.worker.ended())
            elif (
                job.isolation
                and not job.admitted
                and (more := job.isolation.exceeded(job.worker.process.pid))
            ):
                self._lost(slot, f"stopped: {more}", again=False)
            elif now > job.started + job.limit:
                default = (
                    ""
                    if self.scheduler.patience_of(job.key).timeout is not None
                    else " (the default; --timeout or a suite's timeout_seconds sets another)"
                )
                self._lost(slot, f"timed out after {job.limit:g} s{default}")
                self._give_up_like(job.key)
        if self.jobs and now > self.last_event + QUIET_SECONDS:
            self.last_event = now
            running = sorted(self.jobs.values(), key=lambda job: job.started)
            self.reporter.still([(self.stages[job.key], now - job.started) for job in running])

    def _admit(self, slot_name: str, job: _Job, answer: Mapping[str, Any]) -> None:
        """Ends a third-party plugin's processes, and hands what they left to a worker of ours."""
        assert job.isolation is not None
        job.worker.end()
        now = time.monotonic()
        if more := job.isolation.overfull():
            self._lost(slot_name, f"stopped: {more}", again=False)
            return
        job.admitted = self.store.new_folder(job.key)
        (slot,) = (slot for slot in self.slots if slot.name == slot_name)
        job.worker, job.ended, job.started = self._worker(slot), None, now
        job.limit = self.scheduler.patience_of(job.key).timeout or UNDECLARED_LIMIT
        seconds = 0.0 if job.begun is None else now - job.begun
        job.worker.send(
            job.task
            | {
                "raw": str(job.folder / "out"),
                "folder": str(job.admitted),
                "plugins": [],
                "cost": admission.cost(answer.get("cost"), seconds),
            }
        )

    def _say(self, text: str) -> None:
        self.last_event = time.monotonic()
        self.reporter.note(text)

    def _lost(self, slot: str, reason: str, again: bool = True) -> None:
        """Fails a running stage whose worker has died or must end; ends all its processes."""
        job = self.jobs[slot]
        job.worker.end()
        trace = end_of(job.log) or job.worker.last_words()
        self.workers = {
            name: worker for name, worker in self.workers.items() if worker is not job.worker
        }
        self._finish(slot, {"ok": False, "reason": reason, "trace": trace, "retry": again})

    def _finish(self, slot: str, answer: Mapping[str, Any]) -> None:
        """Handles the end of a stage. Only the store decides whether it has a result."""
        self.last_event = time.monotonic()
        job = self.jobs.pop(slot)
        if job.worker is not self.workers.get(slot):
            job.worker.end()
        self._clear(job)
        job.release()
        if self.store.finished(job.key):
            self.scheduler.done(job.key)
            return
        reason, trace = one_line(answer.get("reason") or ""), tail(answer.get("trace") or "")
        if answer["ok"]:  # it cannot be trusted with another stage
            reason = "its worker said that it was done, but there is no result in the store"
            if slot in self.workers:
                self.workers.pop(slot).end()
        if job.isolation is None or job.admitted:  # a plugin's process may say what it likes
            self.disk_full = self.disk_full or answer.get("disk_full") is True
        self.scheduler.failed(job.key, reason, trace, retry=answer.get("retry") is True)

    def _give_up_like(self, late: str) -> None:
        """Gives up the other stages of a third-party plugin that timed out: each would wait as long
        again.
        """
        plugins = self.stages[late].plugins
        if late not in self.scheduler.failures or not plugins:
            return
        reason = f"not begun: its plugin had run out of time in {self.stages[late].describe()}"
        alike = [
            key
            for key in self.scheduler.waiting
            if any(source in plugins for source in self.stages[key].plugins)
        ]
        self.scheduler.give_up_all(one_line(reason), alike)

    def _stop(self) -> None:
        workers = {
            id(worker): worker
            for worker in [*self.workers.values(), *(job.worker for job in self.jobs.values())]
        }
        for worker in workers.values():
            worker.kill()
        for worker in workers.values():
            worker.end()
        for job in self.jobs.values():
            self._clear(job)
            job.release()
        self.workers.clear()
        self.jobs.clear()

    def _clear(self, job: _Job) -> None:
        """Removes the folders of a stage that has ended."""
        discard(job.folder)
        if job.admitted:
            discard(job.admitted)


def end_of(log: Path) -> str:
    """The last lines of what a stage printed; its process may have put anything there."""
    try:
        with os.fdopen(os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
            return file.read(4000).decode(errors="replace")
    except OSError:
        return ""


def message_type_of(message: Any) -> Literal["started", "progress", "note", "answer"] | None:
    """The type of a worker's message; ``None`` if it is malformed, since a plugin can write into
    the worker's pipe.
    """
    if not isinstance(message, dict):
        return None
    if isinstance(message.get("ok"), bool):
        texts = [message.get("reason", ""), message.get("trace", "")]
        return "answer" if all(isinstance(text, str) for text in texts) else None
    if message.get("started") is True:
        return "started"
    if isinstance(message.get("note"), str):
        return "note"
    progress = message.get("progress")
    if isinstance(progress, list) and len(progress) == 3 and isinstance(progress[2], str):
        counts = progress[:2]
        if all(type(count) in (int, float) and math.isfinite(count) for count in counts):
            return "progress"
    return None
