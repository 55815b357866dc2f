"""A run whose stages are made elsewhere: groups of them (:mod:`bench.engine.groups`) as jobs of a
cluster, each of which runs :mod:`bench.engine.node` on the store that all machines share.

What is done is what the store has. Of the cluster only this is asked: whether a job is still to be
done, and if not, how it ended. No result travels through it.

Where jobs outlive the run (SLURM), it may be left (Ctrl-C) and taken up again by the same command:
which stages are in which job stands in ``jobs/<suites>.json`` of the store, also of jobs that a run
of the same suites with other choices began.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Gt

from bench.constraints import refusals_of
from bench.engine import node
from bench.engine.fingerprint import planned_code
from bench.engine.graph import Stage, Turn
from bench.engine.groups import Group, grouped
from bench.engine.interrupts import Interrupts
from bench.engine.isolation import Limits
from bench.engine.node import stage_values
from bench.engine.progress import Reporter
from bench.engine.schedule import Durations, Queued
from bench.engine.scheduler import Failure, Patience, Scheduler, unfinished
from bench.engine.store import DAY_SECONDS, Store, make_folder, remove_tree, write_atomically
from bench.errors import UserError, no_file
from bench.params import construct
from bench.resources import Resources, most_memory
from bench.text import one_line
from bench.yaml_reader import read_yaml

#: Seconds that a job may be gone before what it has not left in the store is missed: a shared file
#: system shows a file late.
GRACE_SECONDS = 10.0
LOOK_SECONDS = 1.0
#: Of a job whose stages declare nothing, where the profile says nothing either.
MINUTES, MEMORY_GB = 120, 8.0
#: A job's time limit: minutes until its first stage is at work, and how many times the forecast;
#: doubled from the least until both are in it, so that most of an array's jobs have the same.
START_MINUTES, FORECASTS, LEAST_MINUTES = 10.0, 3.0, 15


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a job is given. ``minutes``: until it is ended."""

    cpus: int
    gpus: int
    memory_gb: float
    minutes: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a cluster wants to know of a job, from a YAML file. ``minutes``: what the stages of one
    are expected to take together at most; ``batch_seconds``: so much work of stages that have
    nothing in common is one job; ``cpus``, ``memory_gb``, ``gpus``: of a job, which makes as many
    stages at once as it has GPUs, or else CPUs, and memory for; ``at_once``: jobs of a run that
    wait or run at one time; ``tries``: how often a job that the cluster ended is begun;
    ``poll_seconds``: between questions to it. ``None``: what the stages of the job declare.
    """

    minutes: Annotated[int, Ge(1)] | None = None
    batch_seconds: Annotated[float, Gt(0)] = 120.0
    cpus: Annotated[int, Ge(1)] = 2
    memory_gb: Annotated[float, Gt(0)] | None = None
    gpus: Annotated[int, Ge(0)] | None = None
    at_once: Annotated[int, Ge(1)] = 256
    tries: Annotated[int, Ge(1)] = 3
    poll_seconds: Annotated[float, Gt(0)] = 20.0

    #: What ``run --executor`` calls it; whether its jobs go on when the run that began them ends,
    #: and so wait in a queue of their own.
    name: ClassVar[str] = "jobs"
    lasting: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, wanted in refusals_of(self):
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    @classmethod
    def read(cls, file: str | Path | None, needs: Mapping[str, Resources] | None = None) -> Profile:
        """Without a file all fields have their defaults. ``needs``: of the testbeds whose stages
        the jobs are to make, by name. Raises :class:`UserError` in one line that names the field,
        also for one that is below what a testbed needs.
        """
        needs = needs or {}
        profile = cls._of_file(file)
        needing = [name for name, need in needs.items() if need.gpu]
        if needing and profile.gpus is None:
            profile = replace(profile, gpus=1)
        if needing and profile.gpus == 0:
            raise UserError(_too_little("gpus", 1, needing[0], "a GPU", 0, file))
        name = max(needs, key=lambda one: needs[one].memory_gb or 0.0, default="")
        if profile.memory_gb is not None and profile.memory_gb < most_memory(needs.values()):
            most = f"{needs[name].memory_gb:g}"
            given = f"{profile.memory_gb:g}"
            raise UserError(_too_little("memory_gb", most, name, f"{most} GB", given, file))
        return profile

    @classmethod
    def _of_file(cls, file: str | Path | None) -> Profile:
        if file is None:
            return cls()
        path = Path(file)
        if not path.is_file():
            raise UserError(f"--profile {path}: {no_file(path)}")
        values = read_yaml(path) or {}
        if not isinstance(values, dict):
            raise UserError(f"{path.name} must have fields, got a {type(values).__name__}")
        return construct(cls, f"{cls.name} profile", values, path.name)

    def choice(self) -> dict[str, Any]:
        """The options of a plan for such jobs. This machine need not have their GPUs."""
        gpus = [str(number) for number in range(self.gpus or 0)]
        return {"device": "cuda", "gpus": gpus} if gpus else {"device": "cpu"}

    def stages_at_once(self, stages: Iterable[Stage]) -> int:
        """How many of ``stages`` a job makes at one time: as many as it has GPUs, or else CPUs,
        and, where the profile says how much memory there is, no more than fit.
        """
        count, each = self.gpus or self.cpus, most_memory(stage.resources for stage in stages)
        if self.memory_gb is None or not each:
            return count
        return max(1, min(count, int(self.memory_gb / each)))

    def room(
        self,
        stages: Sequence[Stage],
        expected: Callable[[Stage], float | None],
        again: bool = False,
    ) -> Room:
        """What a job that makes ``stages`` is given. ``expected``: their seconds, if anybody knows;
        ``again``: the job had less time and did not get done.
        """
        each = most_memory(stage.resources for stage in stages)
        at_once = min(self.stages_at_once(stages), len(stages))
        return Room(
            cpus=self.cpus,
            gpus=self.gpus or 0,
            memory_gb=self.memory_gb or max(MEMORY_GB, at_once * each),
            minutes=self._minutes([expected(stage) for stage in stages], again),
        )

    def _minutes(self, seconds: Sequence[float | None], again: bool) -> int:
        """By forecast, bounded by the profile; the profile's where a stage has none."""
        usual = self.minutes or MINUTES
        wanted = START_MINUTES + FORECASTS * sum(one or 0.0 for one in seconds) / 60
        if again:
            wanted *= 2
        if again or None in seconds:
            wanted = max(wanted, usual)
        limit = LEAST_MINUTES << max(0, math.ceil(math.log2(wanted / LEAST_MINUTES)))
        return limit if self.minutes is None else min(limit, self.minutes)

    def backend(self) -> Backend:
        """What begins and watches such jobs; a profile of no cluster has none, since its jobs are
        for somebody else to begin (:func:`write_jobs`).
        """
        raise NotImplementedError(f"a profile of {self.name} has no backend")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ended, in words; ``again``: whether it may be begun again."""

    words: str
    again: bool = True


class JobsRefused(UserError):
    """The cluster took none of the jobs; it may later."""


class Backend(Protocol):
    """What begins jobs, and says what has become of them. Raises :class:`UserError` in one line if
    there is nothing that would.
    """

    def most(self) -> int:
        """Jobs that can be begun by one call."""

    def warning(self, room: Room) -> str:
        """What a user should know before the first jobs with so much room begin; empty if
        nothing.
        """

    def begin(self, tasks: Sequence[Sequence[str]], folder: Path, room: Room) -> list[str]:
        """Begins jobs: the arguments of :mod:`bench.engine.node`, one sequence each. Their names.
        ``folder``: for what the backend itself writes; ``room``: what each of them is given. Raises
        :class:`JobsRefused`.
        """

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        """Those of ``jobs`` that are waiting or at work; ``None`` if nobody answers. No other is
        touched.
        """

    def end_of(self, job: str) -> Ending:
        """Of one that is not."""

    def end(self, jobs: Sequence[str]) -> None:
        """Ends jobs, waiting or at work."""


@dataclass(kw_only=True)
class Job:
    """``task``: what its files in ``folder`` are called; ``note``: the last that it had to say."""

    id: str
    keys: list[str]
    folder: str
    task: str
    note: str = ""
    seen: int = 0
    gone: float | None = None

    @property
    def events(self) -> Path:
        return Path(self.folder) / f"{self.task}.jsonl"


def _too_little(
    field: str, least: object, testbed: str, need: str, got: object, file: str | Path | None
) -> str:
    return (
        f"{'' if file is None else f'{Path(file).name}: '}{field} must be at least {least} for "
        f"{testbed}, which declares that a stage needs {need}, got {got}; leave {field} out, "
        f"and a job has what its testbeds declare"
    )


class JobExecutor:
    """Makes stages by jobs; what a run needs to know of it is as of
    :class:`bench.engine.contract.Engine`. ``name``: of the file that says which are at work.
    """

    def __init__(
        self,
        store: Store,
        profile: Profile,
        reporter: Reporter,
        *,
        name: str,
        stages: str,
        provenance: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.store, self.profile, self.reporter, self.source = store, profile, reporter, stages
        self.provenance, self.limits = dict(provenance or {}), limits
        self.file = store.root / "jobs" / f"{name}.json"
        self.backend, self.most = profile.backend(), 0
        self.slots = range(profile.at_once)
        self.scheduler = Scheduler(store, reporter)
        self.jobs: dict[int, Job] = {}

    def run(
        self,
        stages: Mapping[str, Stage],
        targets: Iterable[str],
        changed: Callable[[], None] = lambda: None,
        *,
        turns: Mapping[str, Turn] | None = None,
        patience: Mapping[str, Patience] | None = None,
    ) -> dict[str, Failure]:
        """As of the local executor. ``KeyboardInterrupt`` leaves lasting jobs at work: the same run
        finds them again.
        """
        self.stages = stages
        self.folder: Path | None = None
        self.attempts: dict[int, int] = {}
        self.over: set[str] = set()
        self.refused_until, self.refusal = float("-inf"), ""
        self.expected = Durations(self.store.manifests()).of
        self.scheduler.begin(stages, targets, turns, patience)
        known = self._adopt()
        theirs = [[key for key in job.keys if key in self.scheduler.waiting] for job in known]
        waiting = self.scheduler.waiting
        self.groups = _groups(stages, waiting, self.profile, self.expected, theirs)
        self.open = {number for number, group in enumerate(self.groups) if group.keys}
        self.jobs = dict(enumerate(known))
        self.rooms = {self._size(self._room(number)) for number in self.jobs if number in self.open}
        if known:
            self.reporter.note(f"{len(known)} jobs of this run are still in the queue")
        try:
            self._work(changed)
        finally:
            if not self.profile.lasting and self.jobs:
                self.backend.end([job.id for job in self.jobs.values()])
        return self.scheduler.failures

    def _work(self, changed: Callable[[], None]) -> None:
        asked = float("-inf")
        with Interrupts() as interrupts:
            while self.open:
                interrupts.check()
                before = len(self.scheduler.waiting)
                self._submit(interrupts)
                self._read_events()
                if time.monotonic() - asked >= self.profile.poll_seconds:
                    asked = time.monotonic()
                    self._look_after()
                self._conclude()
                if len(self.scheduler.waiting) != before:
                    changed()
                if self.open:
                    time.sleep(LOOK_SECONDS)
        changed()

    def _adopt(self) -> list[Job]:
        """The jobs of an earlier run that have something of this one to make."""
        self._clear()
        jobs = read_jobs(self.file) if self.profile.lasting else []
        alive = self.backend.alive([job.id for job in jobs]) if jobs else set[str]()
        if alive is None:
            raise UserError(
                f"{self.profile.name} does not answer, and jobs of this run may still be at work"
            )
        self.over = {job.id for job in jobs} - alive
        if self.over:
            self._write_jobs()
        waiting = self.scheduler.waiting
        return [job for job in jobs if job.id in alive and any(key in waiting for key in job.keys)]

    def _clear(self) -> None:
        """Removes what runs before had for their jobs, a day after: logs may be wanted, and a job
        ends a little after its last stage.
        """
        used = {job.folder for _, job in all_jobs(self.store)}
        for folder in (self.store.root / "jobs").glob("run-*"):
            if str(folder) not in used and time.time() - folder.stat().st_mtime > DAY_SECONDS:
                remove_tree(folder)

    def _submit(self, interrupts: Interrupts) -> None:
        """Begins jobs for the groups that wait for nothing, as many at once as can be. Whoever has
        taken some may refuse more for a while.
        """
        if time.monotonic() < self.refused_until:
            return
        ready = [
            number
            for number in self.open
            if number not in self.jobs and not self.groups[number].needs & self.open
        ]
        ready.sort(key=lambda number: (self._position(self.groups[number]), number))
        ready = ready[: max(0, self.profile.at_once - len(self.jobs))]
        if not ready:
            return
        rooms: dict[Room, list[int]] = {}
        for number in ready:
            rooms.setdefault(self._room(number), []).append(number)
        for room, numbers in rooms.items():
            if not self._offer(room, numbers, interrupts):
                return

    def _room(self, number: int) -> Room:
        stages = [self.stages[key] for key in self._left(number)]
        return self.profile.room(stages, self.expected, again=bool(self.attempts.get(number)))

    def _size(self, room: Room) -> Room:
        """Of which a cluster that took one takes another: where the profile says how many minutes
        there may be, they make no difference.
        """
        return replace(room, minutes=self.profile.minutes or room.minutes)

    def _left(self, number: int) -> list[str]:
        """What a group has still to make."""
        return [key for key in self.groups[number].keys if key in self.scheduler.waiting]

    def _offer(self, room: Room, numbers: Sequence[int], interrupts: Interrupts) -> bool:
        """Begins jobs with so much room; whether the cluster takes them. Raises
        :class:`JobsRefused` where nothing says that it ever will.
        """
        self.most = self.most or self.backend.most()
        if self._size(room) not in self.rooms and (warning := self.backend.warning(room)):
            self.reporter.note(f"warning: {warning}")
        try:
            for start in range(0, len(numbers), self.most):
                self._begin(numbers[start : start + self.most], room)
        except JobsRefused as error:
            interrupts.check()  # Ctrl-C reaches what hands the jobs over, too
            if not self.jobs and self._size(room) not in self.rooms:
                raise
            self.refused_until = time.monotonic() + self.profile.poll_seconds
            if str(error) != self.refusal:
                self.refusal = str(error)
                self.reporter.note(f"{self.refusal}; trying again")
            return False
        return True

    def _position(self, group: Group) -> Queued:
        return min(self.scheduler.queue[key] for key in group.keys)

    def _begin(self, numbers: Sequence[int], room: Room) -> None:
        jobs = []
        with self.store.writing(f"the jobs of this run cannot be written into {self.store.root}"):
            folder = self._spec()
            for number in numbers:
                keys = self._left(number)
                task = f"{number}.{self.attempts.get(number, 0) + 1}"
                write_atomically(folder / f"{task}.json", json.dumps(keys))
                jobs.append(Job(id="", keys=keys, folder=str(folder), task=task))
        spec = str(folder / "spec.json")
        tasks = [[spec, job.task] for job in jobs]
        ids = self.backend.begin(tasks, folder / self.profile.name, room)
        self.rooms.add(self._size(room))
        for number, job, one in zip(numbers, jobs, ids, strict=True):
            job.id = one
            self.jobs[number] = job
            self.attempts[number] = self.attempts.get(number, 0) + 1
        self._write_jobs()

    def _spec(self) -> Path:
        """The folder of this run, with what its jobs read."""
        if self.folder is None:
            self.folder = self.store.root / "jobs" / f"run-{uuid.uuid4().hex[:12]}"
            make_folder(self.folder)
            os.chmod(self.folder, 0o700)  # submitit runs what lies in it
            write_spec(
                self.folder,
                self.store,
                self.stages,
                self.profile,
                source=self.source,
                provenance=self.provenance,
                patience=self.scheduler.patience,
                limits=self.limits,
            )
        return self.folder

    def _write_jobs(self) -> None:
        """Adds this run's jobs to the file and leaves out what is over. Those of a run with other
        choices stay: nothing else knows of them.
        """
        if not self.profile.lasting:
            return
        lock = self.store.lock(f"jobs-{self.file.stem}")
        try:
            jobs = {job.id: job for job in [*read_jobs(self.file), *self.jobs.values()]}
            rows = [
                {"id": job.id, "keys": job.keys, "folder": job.folder, "task": job.task}
                for job in jobs.values()
                if job.id not in self.over
            ]
            with self.store.writing(f"{self.file} cannot be written"):
                make_folder(self.file.parent)
                write_atomically(self.file, json.dumps(rows, indent=1))
        finally:
            lock.release()

    def _read_events(self) -> None:
        """Takes up what the jobs wrote since the last time."""
        for number, job in list(self.jobs.items()):
            for event in _new_events(job):
                self._hear(number, event)

    def _hear(self, number: int, event: Mapping[str, Any]) -> None:
        key = next((event[name] for name in _EVENTS if isinstance(event.get(name), str)), "")
        if "note" in event:
            self.jobs[number].note = one_line(key)
            self.reporter.note(f"job {self.jobs[number].id}: {one_line(key)}")
        elif key not in self.scheduler.waiting:
            return
        elif "done" in event and self.store.finished(key):
            self.scheduler.done(key)
        elif "started" in event and key not in self.scheduler.running:
            self.scheduler.started(key, f"job{number}")
        elif "failed" in event:
            self.scheduler.stopped(key)
            again = event.get("again") is True
            self.reporter.failed(key, self.stages[key], one_line(str(event.get("reason"))), again)
        elif "gave_up" in event:
            reason, trace = str(event.get("reason")), str(event.get("trace"))
            first = str(event.get("stage"))
            first = first if first in self.stages else key
            self.scheduler.give_up(key, Failure(first, one_line(reason), trace))

    def _look_after(self) -> None:
        """Notices what is in the store, whoever made it, and jobs that are no more."""
        if self.folder is not None:
            os.utime(self.folder)  # in use, however long its jobs take
        for job in self.jobs.values():
            self._take_up(job)
        alive = self.backend.alive([job.id for job in self.jobs.values()]) if self.jobs else set()
        if alive is None:
            return  # what manages the cluster may be starting again
        for job in self.jobs.values():
            if job.id in alive:
                job.gone = None
            elif job.gone is None:
                job.gone = time.monotonic()

    def _take_up(self, job: Job) -> None:
        for key in job.keys:
            if key in self.scheduler.waiting and self.store.finished(key):
                self.scheduler.done(key)

    def _conclude(self) -> None:
        """Ends the groups that have nothing left to make, and begins those again whose job is gone
        without having made all of it.
        """
        now = time.monotonic()
        for number, job in list(self.jobs.items()):
            if job.gone is not None and now > job.gone + GRACE_SECONDS:
                self._lost(number, job)
        for number in sorted(self.open):
            if not any(key in self.scheduler.waiting for key in self.groups[number].keys):
                self.open.discard(number)
                if number in self.jobs:
                    self._drop(self.jobs.pop(number))

    def _drop(self, job: Job) -> None:
        """Forgets a job, unless it has something to make of which only another run knows."""
        if job.gone is not None or all(
            key in self.stages or self.store.finished(key) for key in job.keys
        ):
            self.over.add(job.id)
        self._write_jobs()

    def _lost(self, number: int, job: Job) -> None:
        self._drop(self.jobs.pop(number))
        ending = self.backend.end_of(job.id)
        words = f"its job {job.id} {ending.words}" + (f": {job.note}" if job.note else "")
        self._take_up(job)
        left = self._left(number)
        if not left:
            return
        for key in left:
            self.scheduler.stopped(key)
        self.attempts.setdefault(number, 1)  # of a job that an earlier run began
        if ending.again and self.attempts[number] < self.profile.tries:
            self.reporter.note(f"{self.stages[left[0]].describe()}: {words}; trying again")
            return
        for key in left:
            failure = Failure(key, one_line(words), f"its log is in {job.folder}")
            self.scheduler.give_up(key, failure)


def _groups(
    stages: Mapping[str, Stage],
    waiting: Iterable[str],
    profile: Profile,
    expected: Callable[[Stage], float | None],
    known: Sequence[Iterable[str]] = (),
) -> list[Group]:
    """What is one job, as ``profile`` says and by what such stages are expected to take."""
    longest = 60.0 * (profile.minutes or MINUTES)
    return grouped(stages, waiting, longest, profile.batch_seconds, known=known, expected=expected)


def write_spec(
    folder: Path,
    store: Store,
    stages: Mapping[str, Stage],
    profile: Profile,
    *,
    source: str,
    provenance: Mapping[str, Any],
    patience: Mapping[str, Patience],
    limits: Limits | None,
) -> Path:
    """Writes what every job of a run reads, for :mod:`bench.engine.node`; where it is."""
    spec = {
        "code": planned_code()[0],
        "store": str(store.root.resolve()),
        "source": source,
        "stages": {key: stage_values(stage) for key, stage in stages.items()},
        "provenance": dict(provenance),
        "patience": {key: asdict(one) for key, one in patience.items()},
        "limits": None if limits is None else asdict(limits),
        "device": "cuda" if profile.gpus else "cpu",
        "jobs": profile.stages_at_once(stages.values()),
    }
    write_atomically(folder / "spec.json", json.dumps(spec, allow_nan=False))
    return folder / "spec.json"


def write_jobs(
    folder: Path,
    store: Store,
    stages: Mapping[str, Stage],
    targets: Iterable[str],
    profile: Profile,
    **about: Any,
) -> list[dict[str, Any]]:
    """Writes the jobs that make ``targets`` into a new folder, for another workflow manager:
    ``jobs.json`` has a row for each, its command, and the jobs that must have succeeded before it.
    ``about``: see :func:`write_spec`. Returns the rows.

    Raises :class:`UserError` if there is something in ``folder``.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--into must name a new or an empty folder, got {folder}")
    with store.writing(f"the jobs cannot be written into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # what lies in it is run
        spec = write_spec(folder, store, stages, profile, **about)
        waiting = unfinished(stages, dict.fromkeys(targets), store)
        expected = Durations(store.manifests()).of
        rows = []
        for number, group in enumerate(_groups(stages, waiting, profile, expected)):
            (folder / f"{number}.json").write_text(json.dumps(group.keys), encoding="utf-8")
            command = [*node.COMMAND, str(spec), str(number)]
            needs = [str(one) for one in sorted(group.needs)]
            room = asdict(profile.room([stages[key] for key in group.keys], expected))
            wanted = {name: room[name] for name in ("cpus", "gpus", "memory_gb")}
            row = {"job": str(number), "needs": needs, "seconds": group.seconds, **wanted}
            rows.append(row | {"stages": len(group.keys), "command": command})
        write_atomically(folder / "jobs.json", json.dumps(rows, indent=1))
    return rows


#: What a line of events may be about.
_EVENTS = ("note", "started", "done", "failed", "gave_up")


def _new_events(job: Job) -> list[Mapping[str, Any]]:
    """The whole lines that a job has added to its file."""
    try:
        with job.events.open("rb") as file:
            file.seek(job.seen)
            text = file.read()
    except OSError:
        return []
    whole = text[: text.rfind(b"\n") + 1]
    job.seen += len(whole)
    events: list[Mapping[str, Any]] = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def read_jobs(file: Path) -> list[Job]:
    """The jobs that a run's file names; none if it is not there or cannot be read."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [Job(**row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []


def all_jobs(store: Store) -> list[tuple[str, Job]]:
    """Of all runs in a store, with the name of their run."""
    files = sorted((store.root / "jobs").glob("*.json"))
    return [(file.stem, job) for file in files for job in read_jobs(file)]
