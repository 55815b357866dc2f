"""Slots: where a stage can run at one time. One per CPU core, or one per GPU or group of GPUs; each has a worker process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UserError

#: glibc gives every large tensor fresh pages and takes them back at once; keeping them saves thousands of page faults a step. Bytes.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
#: CPU threads beside a GPU. A constant: the number of slots must never change a result.
GPU_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Slot:
    """``device``: ``cpu`` or ``cuda``; ``environment``: what makes the worker see its devices alone; ``threads``: CPU threads
    of a process; ``processes``: how many make a distributed stage together."""

    name: str
    device: str = "cpu"
    threads: int = 1
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The ids of the CUDA devices this process sees, as ``CUDA_VISIBLE_DEVICES`` would name them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def make_slots(device: str, jobs: int | None = None, gpus: Sequence[str] | None = None, gpus_per_stage: int = 1) -> list[Slot]:
    """``cpu``: ``jobs`` slots (default: one per core), each with a single thread, so that results never depend on ``jobs``.
    ``cuda``: one slot per ``gpus_per_stage`` GPUs, at most ``jobs``. ``gpus`` stands in for :func:`visible_gpus`.

    Raises :class:`UserError` if there is no such device, or if GPUs would be left over.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    if gpus_per_stage < 1:
        raise UserError(f"--gpus-per-stage must be at least 1, got {gpus_per_stage}")
    if device == "cpu" and gpus_per_stage > 1:
        raise UserError(f"--gpus-per-stage {gpus_per_stage} needs --device cuda")
    if device == "cpu":
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        return [Slot(name=f"cpu{index}", environment=environment) for index in range(jobs or available_cores())]
    if device != "cuda":
        raise UserError(f"--device must be cpu or cuda, got {device!r}")
    found = visible_gpus() if gpus is None else list(gpus)
    if not found:
        raise UserError("--device cuda: torch sees no CUDA device here (castlewalls doctor says more)")
    if len(found) % gpus_per_stage:
        raise UserError(
            f"--gpus-per-stage {gpus_per_stage} must divide the number of GPUs, and torch sees {len(found)} "
            f"({','.join(found)}): name the ones to use in CUDA_VISIBLE_DEVICES"
        )
    groups = [",".join(found[first : first + gpus_per_stage]) for first in range(0, len(found), gpus_per_stage)]
    return [
        Slot(
            name=f"gpu{group}",
            device="cuda",
            threads=GPU_THREADS,
            processes=gpus_per_stage,
            environment={"CUDA_VISIBLE_DEVICES": group},
        )
        for group in groups[:jobs]
    ]


class Worker:
    """A running :mod:`bench.engine.worker`, and a thread that puts what it says into ``events`` as ``(worker, message)``.

    ``(worker, None)`` says that it has ended. ``ended()`` then tells how. ``leads``: whether it ends alone, with all it has
    started; else it is a part of the worker that starts it, and shares its log (:mod:`bench.engine.ranks`).
    """

    def __init__(
        self, slot: Slot, events: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]], *, leads: bool = True
    ) -> None:
        self.slot, self.leads = slot, leads
        self.errors = tempfile.TemporaryFile()
        count = str(slot.threads)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
        fixed = {"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        path = {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors if leads else None,
            text=True,
            env={**ALLOCATOR, **os.environ, **threads, **fixed, **path, **slot.environment},
            start_new_session=leads,  # Ctrl-C is for the run, which then ends its workers
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def _listen(self, events: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # the last words of a worker that was killed
                break
            events.put((self, message))
        events.put((self, None))

    def send(self, task: Mapping[str, Any]) -> None:
        """Hands over a task. A worker that has just died is noticed by its thread."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass

    def kill(self) -> None:
        """Ends it now, with all it has started; does not wait."""
        if self.leads:
            with suppress(ProcessLookupError, PermissionError):  # gone; macOS says the second
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def ended(self) -> str:
        """How it ended, in words. What it had started ends too."""
        code = self.process.wait()
        self.kill()
        if code == -9:
            return "the worker process was killed (out of memory?)"
        return f"the worker process died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    def last_words(self) -> str:
        """The end of what it wrote to standard error outside any stage."""
        self.errors.seek(0)
        return self.errors.read()[-4000:].decode(errors="replace")
