"""Slots: each runs one stage at a time, in a worker process. One per CPU core, or one per GPU or
group of GPUs.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.engine.environment import of_a_worker
from bench.engine.isolation import Isolation
from bench.engine.launch import Process, launch
from bench.errors import UserError
from bench.names import brief

#: The variable that marks all processes of a worker.
MARK = "CASTLEWALLS_WORKER"
#: The longest line a worker sends: a reason and the tail of a log are far below it.
MESSAGE_BYTES = 2**20
#: What an isolated worker may send: so many messages at first, and so many more each second.
ISOLATED_MESSAGES, ISOLATED_RATE = 2000, 50.0
#: More stages at once than any machine runs.
MOST_JOBS = 1024
#: Files that a run may have open: beside its slots', and of each.
FILES, FILES_OF_A_SLOT = 256, 8
#: CPU threads beside a GPU. A constant: the number of slots must never change a result.
GPU_THREADS = 4
#: Beyond so many a GPU's own scheduler only takes turns.
MOST_ON_A_GPU = 16
#: What of a GPU's memory stages may declare; the rest is each process's own context.
GPU_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Slot:
    """``device``: ``cpu`` or ``cuda``; ``environment``: variables that restrict the worker to its
    own devices; ``threads``: CPU threads per process; ``processes``: how many run a distributed
    stage together.
    """

    name: str
    device: str = "cpu"
    threads: int = 1
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def allow_files(slots: int) -> None:
    """Raises how many files this process may open, where the usual limit is too low for ``slots``:
    each holds the pipes, the errors and the locks of its worker.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES + FILES_OF_A_SLOT * slots
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has another limit beside
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The ids of the CUDA devices this process sees, as ``CUDA_VISIBLE_DEVICES`` would name
    them.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return listed[:count] if listed else [str(index) for index in range(count)]


def gpu_gigabytes() -> float:
    """The memory of the smallest CUDA device this process sees, in GB."""
    import torch

    devices = range(torch.cuda.device_count())
    return min(torch.cuda.get_device_properties(one).total_memory for one in devices) / 1e9


def stages_at_once(declared: float, total: float) -> int:
    """How many stages that take ``declared`` GB each run on one GPU of ``total`` GB. Raises
    :class:`UserError` for one that does not fit.
    """
    if not declared > 0:
        raise UserError(f"--gpu-memory must be above 0 GB, got {declared:g}")
    if (count := int(GPU_SHARE * total / declared)) < 1:
        raise UserError(
            f"--gpu-memory must be at most {GPU_SHARE * total:.1f} GB, {GPU_SHARE:.0%} of a GPU "
            f"here, got {declared:g}"
        )
    return min(count, MOST_ON_A_GPU)


def make_slots(
    device: str,
    jobs: int | None = None,
    gpus: Sequence[str] | None = None,
    gpus_per_stage: int = 1,
    gpu_memory: float | None = None,
    total_memory: float | None = None,
) -> list[Slot]:
    """``cpu``: ``jobs`` slots (default: one per core), each with a single thread, so that results
    never depend on ``jobs``. ``cuda``: one slot per ``gpus_per_stage`` GPUs, at most ``jobs``; with
    ``gpu_memory``, what a stage takes at most in GB, as many on each GPU as fit. ``gpus`` stands in
    for :func:`visible_gpus`, ``total_memory`` for :func:`gpu_gigabytes`.

    Raises :class:`UserError` if there is no such device, or if GPUs would be left over.
    """
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise UserError(f"--jobs must be from 1 to {MOST_JOBS:,}, got {brief(jobs)}")
    if gpus_per_stage < 1:
        raise UserError(f"--gpus-per-stage must be at least 1, got {gpus_per_stage}")
    if device == "cpu" and gpus_per_stage > 1:
        raise UserError(f"--gpus-per-stage {gpus_per_stage} needs --device cuda")
    if gpu_memory is not None and (device == "cpu" or gpus_per_stage > 1):
        raise UserError("--gpu-memory needs --device cuda, and one GPU a stage")
    if device == "cpu":
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        return [
            Slot(name=f"cpu{index}", environment=environment)
            for index in range(jobs or available_cores())
        ]
    if device != "cuda":
        raise UserError(f"--device must be cpu or cuda, got {device!r}")
    ids = visible_gpus() if gpus is None else list(gpus)
    names = {f"gpu{group}": group for group in _groups(ids, gpus_per_stage)}
    if gpu_memory is not None:
        count = stages_at_once(gpu_memory, total_memory or gpu_gigabytes())
        # One on each GPU first, if there are fewer jobs than there is room for.
        names = {f"gpu{one}.{number}": one for number in range(count) for one in ids}
    return [
        Slot(
            name=name,
            device="cuda",
            threads=GPU_THREADS,
            processes=gpus_per_stage,
            environment={"CUDA_VISIBLE_DEVICES": group},
        )
        for name, group in list(names.items())[:jobs]
    ]


def _groups(ids: list[str], size: int) -> list[str]:
    """GPUs by so many, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if not ids:
        raise UserError(
            "--device cuda: torch sees no CUDA device here (castlewalls doctor says more)"
        )
    if len(ids) % size:
        raise UserError(
            f"--gpus-per-stage {size} must divide the number of GPUs, and torch sees {len(ids)} "
            f"({','.join(ids)}): name the ones to use in CUDA_VISIBLE_DEVICES"
        )
    return [",".join(ids[first : first + size]) for first in range(0, len(ids), size)]


class Worker:
    """A running :mod:`bench.engine.worker`, and a thread that puts its messages into ``events`` as
    ``(worker, message)``.

    ``(worker, None)`` means that it has ended; a message that is not JSON arrives as text.
    ``leads``: whether it leads a process group that is killed as one; else it belongs to the worker
    that starts it, and shares its log (:mod:`bench.engine.ranks`). ``isolation``: what it may see
    and use, if it runs a third party's plugin; it is then one stage's, and ends with it.
    """

    def __init__(
        self,
        slot: Slot,
        events: queue.SimpleQueue[tuple[Worker, Any]],
        *,
        leads: bool = True,
        isolation: Isolation | None = None,
    ) -> None:
        self.slot, self.leads, self.over, self.isolation = slot, leads, False, isolation
        self.errors = tempfile.TemporaryFile()
        # Every process it starts inherits the mark, even in a session of its own, and can be found
        # by it. It holds the run's process id, so that one run's leftovers are told from another's.
        self.mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        mark = {MARK: self.mark} if leads else {}
        environment = of_a_worker(slot.threads) | mark | dict(slot.environment)
        command, errors = ["-m", "bench.engine.worker"], self.errors if leads else None
        self.process: Process
        if isolation is not None:
            self.process = launch(isolation.start(command, environment), environment, stderr=errors)
        else:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=leads,  # Ctrl-C reaches the run, which then ends its workers
            )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def _listen(self, events: queue.SimpleQueue[tuple[Worker, Any]]) -> None:
        assert self.process.stdout is not None
        started, count = time.monotonic(), 0
        with suppress(OSError, ValueError):  # ValueError: closed by end()
            while line := self.process.stdout.readline(MESSAGE_BYTES):
                count += 1
                allowed = ISOLATED_MESSAGES + ISOLATED_RATE * (time.monotonic() - started)
                if self.isolation is not None and count > allowed:
                    events.put((self, "more messages than a stage has to send"))
                    break
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    if not line.endswith(b"\n") and len(line) < MESSAGE_BYTES:
                        break  # the last words of a worker that was killed
                    message = line[:80].decode(errors="replace")
                events.put((self, "null" if message is None else message))
        events.put((self, None))

    def send(self, task: Mapping[str, Any]) -> None:
        """Sends a task. If the worker has just died, its thread notices."""
        handed = task if self.isolation is None else self.isolation.task(task)
        self._write(json.dumps(handed).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def kill(self) -> None:
        """Kills it and its process group; does not wait."""
        if self.leads:
            with suppress(ProcessLookupError, PermissionError):  # gone; macOS says the second
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def end(self) -> None:
        """Kills it and every process it has started, including those in sessions of their own, and
        waits until it is gone.
        """
        if self.over:
            return
        self.over = True
        self.kill()
        if self.leads:
            kill_marked(self.mark)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        if self.isolation is not None:
            self.isolation.end()

    def ended(self) -> str:
        """How it ended, in words. Also ends every process it had started."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)  # it closed its pipe, and may still be there
        code = self.process.poll()
        self.end()
        if code is None:
            return "the worker process closed its pipe, and was ended"
        if code == -9:
            return "the worker process was killed (out of memory?)"
        return f"the worker process died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def last_words(self) -> str:
        """The tail of its standard error from outside any stage."""
        self.errors.seek(0)
        return self.errors.read()[-4000:].decode(errors="replace")


def kill_marked(mark: str) -> None:
    """Kills every process started, directly or indirectly, by the worker with this mark."""
    import psutil  # only needed where something ends

    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()
