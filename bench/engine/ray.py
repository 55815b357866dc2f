"""Jobs of a Ray cluster: for machines without a batch system, and for clouds.

A job is a task of Ray that starts :mod:`bench.engine.node` in a process of its own and waits for
it; all that comes back is how that process ended. Ray itself sends both as pickles; nothing that a
stage made is among them. Jobs end with the run that began them: to leave one alone, hand the whole
command to ``ray job submit``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt, MinLen

from bench.engine import node
from bench.engine.environment import search_path
from bench.engine.jobs import Ending, Profile, Room
from bench.errors import UserError
from bench.text import one_line

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RayProfile(Profile):
    """``address``: of the cluster; ``auto`` is the one that this machine belongs to."""

    poll_seconds: Annotated[float, Gt(0)] = 1.0
    address: Annotated[str, MinLen(1)] = "auto"

    name: ClassVar[str] = "ray"

    def backend(self) -> Ray:
        return Ray(self)


class Ray:
    """See :class:`bench.engine.jobs.Backend`."""

    def __init__(self, profile: RayProfile) -> None:
        self.profile = profile
        self.tasks: dict[str, Any] = {}
        self.ray: Any = None

    def most(self) -> int:
        return 1000

    def warning(self, room: Room) -> str:
        wanted = {"CPU": room.cpus, "GPU": room.gpus, "memory": room.memory_gb * 1e9}
        nodes = [one["Resources"] for one in self._connected().nodes() if one["Alive"]]
        if any(all(has.get(name, 0) >= least for name, least in wanted.items()) for has in nodes):
            return ""
        return (
            f"no machine of the Ray cluster has {room.cpus} CPUs, {room.gpus} GPUs and "
            f"{room.memory_gb:g} GB, so jobs wait until one joins (--profile)"
        )

    def begin(self, tasks: Sequence[Sequence[str]], folder: Path, room: Room) -> list[str]:
        ray = self._connected()
        remote = ray.remote(_node).options(
            name="castlewalls",
            num_cpus=room.cpus,
            num_gpus=room.gpus,
            memory=int(room.memory_gb * 1e9),
            max_retries=0,  # what was lost is begun again here, without what it had made
        )
        paths = search_path()
        begun = {one.hex(): one for one in [remote.remote(list(task), paths) for task in tasks]}
        self.tasks |= begun
        return list(begun)

    def alive(self, jobs: Collection[str]) -> set[str] | None:
        refs = [self.tasks[job] for job in jobs if job in self.tasks]
        if not refs:
            return set()
        _, left = self._connected().wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        return {one.hex() for one in left}

    def end_of(self, job: str) -> Ending:
        ray = self._connected()
        try:
            code = ray.get(self.tasks.pop(job), timeout=60)
        except ray.exceptions.TaskCancelledError:
            return Ending(words="was cancelled", again=False)
        except ray.exceptions.RayError as error:
            return Ending(words=f"was lost ({type(error).__name__}: {_first(error)})")
        return Ending(words=f"ended (exit code {code})")

    def end(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            if job in self.tasks:
                self._connected().cancel(self.tasks.pop(job), force=True)

    def _connected(self) -> Any:
        if self.ray is None:
            try:
                import ray
            except ImportError:
                raise UserError(
                    "--executor ray needs Ray: pip install 'castlewalls[ray]'"
                ) from None
            self._join(ray)
            self.ray = ray
        return self.ray

    def _join(self, ray: Any) -> None:
        address = self.profile.address
        host, _, port = address.rpartition(":")
        before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            if host and port.isdigit() and "://" not in address:  # Ray would try for minutes
                socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"there is no Ray cluster at {address}: {_first(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray sets its own
                for one, handler in before.items():
                    signal.signal(one, handler)


def _first(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0], 160)


def _node(arguments: list[str], paths: list[str]) -> int:
    """Runs in a worker of Ray. The process ends when this one does, however that comes about: its
    standard input closes then.
    """
    command = [*node.COMMAND, *arguments, "--attached"]
    environment = {**os.environ, **node.variables(paths)}
    spec, task = arguments
    with (
        Path(spec).with_name(f"{task}.log").open("ab") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
        ) as process,
    ):
        return process.wait()
