"""Jobs of a SLURM cluster: job arrays, submitted by submitit.

submitit's files are never read back, and its own idea of a job's state, which needs an accounting
database that many clusters lack, is not asked for: SLURM's commands are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.engine import node
from bench.engine.environment import search_path
from bench.engine.jobs import Ending, JobsRefused, Profile, Room, all_jobs
from bench.engine.store import Store
from bench.errors import UserError
from bench.text import one_line

#: What SLURM calls a job that a person, or an administrator, has ended: it is not begun again.
ENDED_BY_HAND = ("CANCELLED", "REVOKED")
#: Why a job waits for an administrator that a node could not start.
HELD = "launch failed requeued held"
COMMAND_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class SlurmProfile(Profile):
    """``minutes`` is also a job's time limit, or a bound on it; ``setup``: shell lines before;
    ``options``: more options of sbatch, without dashes.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    setup: tuple[str, ...] = ()
    options: Any = field(default_factory=dict)

    name: ClassVar[str] = "slurm"
    lasting: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.options, Mapping) or not all(
            isinstance(key, str) and isinstance(one, str | int) for key, one in self.options.items()
        ):
            got = one_line(repr(self.options), 60)
            raise ValueError(f"options must be options of sbatch with their values, got {got}")

    def backend(self) -> Slurm:
        return Slurm(self)


class Slurm:
    """See :class:`bench.engine.jobs.Backend`."""

    def __init__(self, profile: SlurmProfile | None = None) -> None:
        self.profile = profile or SlurmProfile()
        self.held: set[str] = set()

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        """One that SLURM would hold for ever, since a node could not start it, is ended."""
        reasons = _queue()
        if reasons is None:
            return None
        queued = set(jobs) & reasons.keys()
        held = {job for job in queued if reasons[job] == HELD} - self.held
        with suppress(UserError):  # or at the next question
            self.end(sorted(held))
            self.held |= held
        return queued

    def end_of(self, job: str) -> Ending:
        state, code = self._state_of(job)
        words = f"ended as {state}" + (f" (exit code {code})" if code else "")
        return Ending(words=words, again=state not in ENDED_BY_HAND or job in self.held)

    def _state_of(self, job: str) -> tuple[str, str]:
        """As SLURM calls it, and the exit code."""
        out = _call(["scontrol", "show", "job", "-o", job]) or ""
        words = dict(word.partition("=")[::2] for word in out.split() if "=" in word)
        if "JobState" in words:
            return words["JobState"], words.get("ExitCode", "")
        for more in ([], ["-c"]):  # the second reads a log of finished jobs, where one is kept
            out = _call(["sacct", *more, "-n", "-P", "-X", "-o", "State,ExitCode", "-j", job]) or ""
            if out.strip():
                state, _, code = out.strip().splitlines()[-1].partition("|")
                return state.split()[0], code
        return "UNKNOWN", ""

    def most(self) -> int:
        """Tasks that an array may have here; SLURM's own default where it does not say."""
        for line in (_call(["scontrol", "show", "config"]) or "").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "MaxArraySize" and value.strip().isdigit():
                return max(1, int(value) - 1)
        return 1000

    def warning(self, room: Room) -> str:
        return ""

    def end(self, jobs: Sequence[str]) -> None:
        for start in range(0, len(jobs), 200):
            if _call(["scancel", *jobs[start : start + 200]]) is None:
                raise UserError(
                    "scancel fails, and jobs may still be in the queue (see castlewalls status)"
                )

    def begin(self, tasks: Sequence[Sequence[str]], folder: Path, room: Room) -> list[str]:
        """Hands jobs to SLURM as one array."""
        try:
            import submitit
            from submitit.helpers import CommandFunction
        except ImportError:
            raise UserError(
                "--executor slurm needs submitit: pip install 'castlewalls[slurm]'"
            ) from None
        profile = self.profile
        given = {name: getattr(profile, name) for name in ("partition", "account", "qos")}
        more = {name: value for name, value in given.items() if value} | dict(profile.options)
        if "requeue" not in more:
            # SLURM waits two minutes before it begins a job again whose node died, and for ever
            # where a node could not start it; the run begins it again as soon as it is gone.
            more["no-requeue"] = True
        # The rest of its environment is the job's: what its setup exports, its GPUs.
        variables = [f"{name}={value}" for name, value in node.variables(search_path()).items()]
        try:
            executor = submitit.SlurmExecutor(folder=folder)
            executor.update_parameters(
                job_name="castlewalls",
                time=room.minutes,
                cpus_per_task=room.cpus,
                mem=f"{max(1, round(1024 * room.memory_gb))}M",  # sbatch takes no fraction
                array_parallelism=profile.at_once,
                setup=list(profile.setup),
                srun_args=[f"--cpus-per-task={room.cpus}"],  # else one, since SLURM 22.05
                signal_delay_s=min(60, 6 * room.minutes),
                **({"gpus_per_node": room.gpus} if room.gpus else {}),
                additional_parameters=more,
            )
            with executor.batch():
                commands = [["env", *variables, *node.COMMAND, *task] for task in tasks]
                jobs = [
                    executor.submit(CommandFunction(command, verbose=False)) for command in commands
                ]
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise JobsRefused(f"sbatch refuses the jobs: {one_line(str(error))}") from error
        return [str(job.job_id) for job in jobs]


def _queue() -> dict[str, str] | None:
    """The account's jobs in the queue, other projects' too, each task of an array by itself, and
    why they wait; ``None`` if nobody answers.
    """
    out = _call(["squeue", "--me", "-h", "-r", "-o", "%i|%r"])
    return None if out is None else dict(line.partition("|")[::2] for line in out.splitlines())


def _call(command: list[str]) -> str | None:
    """What one of SLURM's commands prints; ``None`` if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError(f"--executor slurm: there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def job_states(store: Path) -> list[dict[str, Any]]:
    """The jobs of all runs in a store: ``run``, ``job``, ``queued``, and ``left``, the stages that
    it has still to make.
    """
    if not store.is_dir():
        raise UserError(f"there is no store at {store}")
    here = Store(store, read_only=True)
    known = all_jobs(here)
    queue = _queue() if known else {}
    if queue is None:
        raise UserError("squeue does not answer")
    return [
        {"run": run, "job": job.id, "queued": job.id in queue}
        | {"left": sum(not here.finished(key) for key in job.keys)}
        for run, job in known
    ]


def cancel_jobs(store: Path) -> int:
    """Ends the jobs of all runs in a store that are still in the queue; how many they were. Raises
    :class:`UserError` if SLURM does not.
    """
    ids = [row["job"] for row in job_states(store) if row["queued"]]
    Slurm().end(ids)
    return len(ids)
