"""A run on a SLURM cluster: groups of stages (:mod:`bench.engine.groups`) as tasks of job arrays,
submitted by submitit, each of which runs :mod:`bench.engine.node` on the store that all machines
share.

What is done is what the store has. Of SLURM only one thing is asked: whether a job is still in the
queue, and if not, how it ended. No result travels through submitit, whose files are never read
back, and whose own idea of a job's state needs an accounting database that many clusters lack.

A run may be left (Ctrl-C) and taken up again by the same command: which stages are in which job
stands in ``jobs/<suites>.json`` of the store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.engine.executor import Failure, Patience, unfinished
from bench.engine.graph import Stage, Turn
from bench.engine.groups import Group, grouped
from bench.engine.interrupts import Interrupts
from bench.engine.isolation import Limits
from bench.engine.node import code_of_all, stage_values
from bench.engine.progress import Reporter
from bench.engine.schedule import Queued, order
from bench.engine.store import Store, make_folder, remove_tree, write_atomically
from bench.errors import UserError
from bench.text import one_line
from bench.yaml_reader import read_yaml

#: Seconds that a job may be out of the queue before what it has not left in the store is missed:
#: a shared file system shows a file late.
GRACE_SECONDS = 10.0
#: What SLURM calls a job that a person, or an administrator, has ended: it is not begun again.
ENDED_BY_HAND = ("CANCELLED", "REVOKED")
#: Why a job waits for an administrator that a node could not start.
HELD = "launch failed requeued held"
LOOK_SECONDS, DAY_SECONDS = 1.0, 86_400.0
COMMAND_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a cluster wants to know of a job, from a YAML file. ``minutes``: of a job, and what the
    stages of one are expected to take together; ``batch_seconds``: so much work of stages that
    have nothing in common is one job; ``cpus``, ``memory_gb``, ``gpus``: of a job, which makes as
    many stages at once as it has GPUs, or else CPUs; ``at_once``: jobs of an array; ``tries``: how
    often a job that the cluster ended is begun; ``poll_seconds``: between questions to SLURM;
    ``setup``: shell lines before; ``options``: more options of sbatch, without dashes.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    minutes: int = 120
    batch_seconds: float = 120.0
    cpus: int = 2
    memory_gb: float = 8.0
    gpus: int = 0
    at_once: int = 256
    tries: int = 3
    poll_seconds: float = 20.0
    setup: tuple[str, ...] = ()
    options: Mapping[str, str | int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Raises :class:`UserError` in one line that names the field."""
        if not path.is_file():
            raise UserError(f"--profile {path}: there is no such file")
        values = read_yaml(path) or {}
        names = {one.name: one for one in fields(cls)}
        if not isinstance(values, dict):
            raise UserError(f"{path.name} must have fields, got a {type(values).__name__}")
        for name, value in values.items():
            if name not in names:
                known = ", ".join(sorted(names))
                raise UserError(f"{path.name}: unknown field {name!r} (allowed: {known})")
            if wrong := _wrong(name, value):
                raise UserError(f"{path.name}: {name} {wrong}, got {one_line(repr(value), 60)}")
        if "setup" in values:
            values["setup"] = tuple(values["setup"])
        return cls(**values)

    def choice(self) -> dict[str, Any]:
        """The options of a plan for such jobs. This machine need not have their GPUs."""
        gpus = [str(number) for number in range(self.gpus)]
        return {"device": "cuda", "gpus": gpus} if gpus else {"device": "cpu"}


_LEAST = {"minutes": 1, "cpus": 1, "gpus": 0, "at_once": 1, "tries": 1}


def _wrong(name: str, value: Any) -> str:
    if name in _LEAST:
        fits = type(value) is int and value >= _LEAST[name]
        return "" if fits else f"must be a whole number from {_LEAST[name]} up"
    if name in ("memory_gb", "batch_seconds", "poll_seconds"):
        fits = type(value) in (int, float) and 0 < value < 1e6
        return "" if fits else "must be a number above 0"
    if name == "setup":
        fits = isinstance(value, list) and all(isinstance(line, str) for line in value)
        return "" if fits else "must be a list of shell lines"
    if name == "options":
        fits = isinstance(value, dict) and all(
            isinstance(key, str) and isinstance(one, str | int) for key, one in value.items()
        )
        return "" if fits else "must be options of sbatch with their values"
    return "" if isinstance(value, str) and value else "must be a text"


@dataclass(kw_only=True)
class _Job:
    """A task of an array. ``task``: what its files in ``folder`` are called; ``note``: the last
    that it had to say.
    """

    id: str
    keys: list[str]
    folder: str
    task: str
    note: str = ""
    seen: int = 0
    gone: float | None = None
    held: bool = False

    @property
    def events(self) -> Path:
        return Path(self.folder) / f"{self.task}.jsonl"


class Queue:
    """What SLURM's own commands say and do. Raises :class:`UserError` if they are not there."""

    def ids(self) -> dict[str, str] | None:
        """My jobs in the queue, each task of an array by itself, with the reason why it waits;
        ``None`` if nobody answers.
        """
        out = self._call(["squeue", "--me", "-h", "-r", "-o", "%i|%r"])
        if out is None:
            return None
        return {job: reason for job, _, reason in (line.partition("|") for line in out.split("\n"))}

    def end_of(self, job: str) -> tuple[str, str]:
        """The state of a job that has left the queue, as SLURM calls it, and its exit code."""
        out = self._call(["scontrol", "show", "job", "-o", job]) or ""
        words = dict(word.partition("=")[::2] for word in out.split() if "=" in word)
        if "JobState" in words:
            return words["JobState"], words.get("ExitCode", "")
        for more in ([], ["-c"]):  # the second reads a log of finished jobs, where one is kept
            out = (
                self._call(["sacct", *more, "-n", "-P", "-X", "-o", "State,ExitCode", "-j", job])
                or ""
            )
            if out.strip():
                state, _, code = out.strip().splitlines()[-1].partition("|")
                return state.split()[0], code
        return "UNKNOWN", ""

    def largest_array(self) -> int:
        """Tasks that an array may have here; SLURM's own default where it does not say."""
        for line in (self._call(["scontrol", "show", "config"]) or "").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "MaxArraySize" and value.strip().isdigit():
                return max(1, int(value) - 1)
        return 1000

    def cancel(self, jobs: Sequence[str]) -> None:
        """Ends jobs, queued or running."""
        for start in range(0, len(jobs), 200):
            self._call(["scancel", *jobs[start : start + 200]])

    @staticmethod
    def _call(command: list[str]) -> str | None:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
            )
        except FileNotFoundError:
            raise UserError(f"--executor slurm: there is no {command[0]} on this machine") from None
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None


class SlurmExecutor:
    """Makes stages on a cluster; what a run needs to know of it is as of
    :class:`bench.engine.executor.Executor`. ``jobs``: the file that says which are at work.
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
        self.queue_of_slurm, self.array = Queue(), 0
        self.slots = range(profile.at_once)
        self.jobs: dict[int, _Job] = {}
        self.failures: dict[str, Failure] = {}
        self.waiting: dict[str, None] = {}
        self.queue: dict[str, Queued] = {}
        self.third_party: set[str] = set()
        self.made: set[str] = set()
        self.running: dict[str, float] = {}
        self.begun = threading.Event()

    def run(
        self,
        stages: Mapping[str, Stage],
        targets: Iterable[str],
        changed: Callable[[], None] = lambda: None,
        *,
        turns: Mapping[str, Turn] | None = None,
        patience: Mapping[str, Patience] | None = None,
    ) -> dict[str, Failure]:
        """As of the local executor. ``KeyboardInterrupt`` leaves the jobs at work: the same run
        finds them again.
        """
        self.stages, self.failures = stages, {}
        self.waiting = dict.fromkeys(unfinished(stages, dict.fromkeys(targets), self.store))
        self.queue = order(stages, self.waiting, turns or {})
        self.patience = patience or {}
        self.folder: Path | None = None
        self.attempts: dict[int, int] = {}
        self.begun.set()
        self.reporter.begin(len(self.waiting), len(stages) - len(self.waiting))
        known = self._adopt()
        self.groups = grouped(
            stages,
            self.waiting,
            60.0 * self.profile.minutes,
            self.profile.batch_seconds,
            known=[job.keys for job in known],
        )
        self.open = {number for number, group in enumerate(self.groups) if group.keys}
        self.jobs = dict(enumerate(known))
        if known:
            self.reporter.note(f"{len(known)} jobs of this run are still in the queue")
        asked = float("-inf")
        with Interrupts() as interrupts:
            while self.open:
                interrupts.check()
                before = len(self.waiting)
                self._submit()
                self._read_events()
                if time.monotonic() - asked >= self.profile.poll_seconds:
                    asked = time.monotonic()
                    self._look_after()
                self._conclude()
                if len(self.waiting) != before:
                    changed()
                if self.open:
                    time.sleep(LOOK_SECONDS)
        changed()
        return self.failures

    def state(self) -> tuple[dict[str, None], dict[str, float]]:
        """The stages still to be made, and those at work with the seconds they have had."""
        now = time.monotonic()
        return dict(self.waiting), {key: now - begun for key, begun in dict(self.running).items()}

    def _adopt(self) -> list[_Job]:
        """The jobs of an earlier run that are still in the queue, without what is done."""
        self._clear()
        jobs = read_jobs(self.file)
        alive = self.queue_of_slurm.ids() if jobs else {}
        if alive is None:
            raise UserError("squeue does not answer, and jobs of this run may still be at work")
        adopted = []
        for job in jobs:
            job.keys = [key for key in job.keys if key in self.waiting]
            if job.id in alive and job.keys:
                job.seen, job.gone, job.held = 0, None, False
                adopted.append(job)
        return adopted

    def _clear(self) -> None:
        """Removes what runs before had for their jobs, a day after: logs may be wanted, and a job
        ends a little after its last stage.
        """
        used = {job.folder for _, job in _all_jobs(self.store)}
        for folder in (self.store.root / "jobs").glob("run-*"):
            if str(folder) not in used and time.time() - folder.stat().st_mtime > DAY_SECONDS:
                remove_tree(folder)

    def _submit(self) -> None:
        """Hands the groups that wait for nothing to SLURM, a job array at a time."""
        ready = [
            number
            for number in sorted(self.open, key=lambda one: self._position(self.groups[one]))
            if number not in self.jobs and not self.groups[number].needs & self.open
        ]
        if ready and not self.array:
            self.array = self.queue_of_slurm.largest_array()
        for start in range(0, len(ready), self.array or 1):
            self._submit_array(ready[start : start + self.array])

    def _position(self, group: Group) -> Queued:
        return min(self.queue[key] for key in group.keys)

    def _submit_array(self, numbers: Sequence[int]) -> None:
        folder = self._spec()
        jobs = []
        for number in numbers:
            self.attempts[number] = self.attempts.get(number, 0) + 1
            keys = [key for key in self.groups[number].keys if key in self.waiting]
            task = f"{number}.{self.attempts[number]}"
            write_atomically(folder / f"{task}.json", json.dumps(keys))
            jobs.append(_Job(id="", keys=keys, folder=str(folder), task=task))
        node = [sys.executable, "-m", "bench.engine.node", str(folder / "spec.json")]
        ids = submit([[*node, job.task] for job in jobs], self.profile, folder / "slurm")
        for number, job, one in zip(numbers, jobs, ids, strict=True):
            job.id = one
            self.jobs[number] = job
        self._write_jobs()

    def _spec(self) -> Path:
        """The folder of this run, with what its jobs read."""
        if self.folder is None:
            self.folder = self.store.root / "jobs" / f"run-{uuid.uuid4().hex[:12]}"
            make_folder(self.folder)
            os.chmod(self.folder, 0o700)  # submitit runs what lies in it
            profile = self.profile
            spec = {
                "code": code_of_all(),
                "store": str(self.store.root.resolve()),
                "source": self.source,
                "stages": {key: stage_values(stage) for key, stage in self.stages.items()},
                "provenance": self.provenance,
                "patience": {key: asdict(one) for key, one in self.patience.items()},
                "limits": None if self.limits is None else asdict(self.limits),
                "device": "cuda" if profile.gpus else "cpu",
                "jobs": profile.gpus or profile.cpus,
            }
            write_atomically(self.folder / "spec.json", json.dumps(spec, allow_nan=False))
        return self.folder

    def _write_jobs(self) -> None:
        make_folder(self.file.parent)
        rows = [
            {"id": job.id, "keys": job.keys, "folder": job.folder, "task": job.task}
            for job in self.jobs.values()
        ]
        write_atomically(self.file, json.dumps(rows, indent=1))

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
        elif key not in self.waiting:
            return
        elif "done" in event and self.store.finished(key):
            self._done(key)
        elif "started" in event and key not in self.running:
            self.running[key] = time.monotonic()
            self.reporter.started(key, self.stages[key], f"job{number}")
        elif "failed" in event:
            self.running.pop(key, None)
            again = event.get("again") is True
            self.reporter.failed(key, self.stages[key], one_line(str(event.get("reason"))), again)
        elif "gave_up" in event:
            reason, trace = str(event.get("reason")), str(event.get("trace"))
            first = str(event.get("stage"))
            first = first if first in self.stages else key
            self._give_up(key, Failure(first, one_line(reason), trace))

    def _done(self, key: str) -> None:
        del self.waiting[key]
        self.running.pop(key, None)
        self.made.add(key)
        self.reporter.done(key, self.stages[key], self.store.seconds(key))

    def _look_after(self) -> None:
        """Notices what is in the store, whoever made it, and jobs that are in the queue no
        longer.
        """
        for key in [key for job in self.jobs.values() for key in job.keys]:
            if key in self.waiting and self.store.finished(key):
                self._done(key)
        alive = self.queue_of_slurm.ids() if self.jobs else {}
        if alive is None:
            return  # its controller may be starting again
        for job in self.jobs.values():
            if alive.get(job.id) == HELD:
                job.held = True
                self.queue_of_slurm.cancel([job.id])
            elif job.id in alive:
                job.gone = None
            elif job.gone is None:
                job.gone = time.monotonic()

    def _conclude(self) -> None:
        """Ends the groups that have nothing left to make, and begins those again whose job is gone
        without having made all of it.
        """
        now = time.monotonic()
        for number, job in list(self.jobs.items()):
            if job.gone is not None and now > job.gone + GRACE_SECONDS:
                self._lost(number, job)
        for number in sorted(self.open):
            if not any(key in self.waiting for key in self.groups[number].keys):
                self.open.discard(number)
                if self.jobs.pop(number, None):
                    self._write_jobs()

    def _lost(self, number: int, job: _Job) -> None:
        del self.jobs[number]
        self._write_jobs()
        state, code = self.queue_of_slurm.end_of(job.id)
        words = f"its job {job.id} ended as {state}" + (f" (exit code {code})" if code else "")
        words += f": {job.note}" if job.note else ""
        for key in [key for key in job.keys if key in self.waiting and self.store.finished(key)]:
            self._done(key)
        left = [key for key in self.groups[number].keys if key in self.waiting]
        if not left:
            return
        for key in left:
            self.running.pop(key, None)
        by_hand = state in ENDED_BY_HAND and not job.held
        self.attempts.setdefault(number, 1)  # of a job that an earlier run began
        if not by_hand and self.attempts[number] < self.profile.tries:
            self.reporter.note(f"{self.stages[left[0]].describe()}: {words}; trying again")
            return
        for key in left:
            if key in self.waiting:
                self._give_up(key, Failure(key, one_line(words), f"its log is in {job.folder}"))

    def _give_up(self, key: str, failure: Failure) -> None:
        """Marks a stage, and everything that depends on it, as failed."""
        if self.waiting.pop(key, self) is self:
            return
        self.running.pop(key, None)
        self.failures[key] = failure
        for below in [one for one in self.waiting if key in self.stages[one].inputs.values()]:
            self._give_up(below, failure)


#: What a line of events may be about.
_EVENTS = ("note", "started", "done", "failed", "gave_up")


def _new_events(job: _Job) -> list[Mapping[str, Any]]:
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


def read_jobs(file: Path) -> list[_Job]:
    """The jobs that a run's file names; none if it is not there or cannot be read."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [_Job(**row) for row in rows]
    except (OSError, ValueError, TypeError):
        return []


def job_states(store: Path) -> list[dict[str, Any]]:
    """The jobs of all runs in a store: ``run``, ``job``, ``queued``, and ``left``, the stages that
    it has still to make.
    """
    if not store.is_dir():
        raise UserError(f"there is no store at {store}")
    here = Store(store, read_only=True)
    known = _all_jobs(here)
    alive = Queue().ids() if known else {}
    if alive is None:
        raise UserError("squeue does not answer")
    return [
        {"run": run, "job": job.id, "queued": job.id in alive}
        | {"left": sum(not here.finished(key) for key in job.keys)}
        for run, job in known
    ]


def cancel_jobs(store: Path) -> int:
    """Ends the jobs of all runs in a store that are still in the queue; how many they were."""
    ids = [row["job"] for row in job_states(store) if row["queued"]]
    if ids:
        Queue().cancel(ids)
    return len(ids)


def _all_jobs(store: Store) -> list[tuple[str, _Job]]:
    """With the name of their run."""
    files = sorted((store.root / "jobs").glob("*.json"))
    return [(file.stem, job) for file in files for job in read_jobs(file)]


def submit(commands: Sequence[list[str]], profile: Profile, folder: Path) -> list[str]:
    """Hands commands to SLURM as one array; their job ids. Raises :class:`UserError` in one
    line.
    """
    try:
        import submitit
        from submitit.helpers import CommandFunction
    except ImportError:
        raise UserError(
            "--executor slurm needs submitit: pip install 'castlewalls[slurm]'"
        ) from None
    given = {name: getattr(profile, name) for name in ("partition", "account", "qos")}
    more = {name: value for name, value in given.items() if value} | dict(profile.options)
    paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
    try:
        executor = submitit.SlurmExecutor(folder=folder)
        executor.update_parameters(
            job_name="castlewalls",
            time=profile.minutes,
            cpus_per_task=profile.cpus,
            mem=f"{profile.memory_gb:g}GB",
            array_parallelism=profile.at_once,
            setup=list(profile.setup),
            signal_delay_s=min(60, 6 * profile.minutes),
            **({"gpus_per_node": profile.gpus} if profile.gpus else {}),
            additional_parameters=more,
        )
        with executor.batch():
            jobs = [
                executor.submit(CommandFunction(command, verbose=False, env=environment))
                for command in commands
            ]
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise UserError(f"sbatch refuses the jobs: {one_line(str(error))}") from error
    return [str(job.job_id) for job in jobs]
