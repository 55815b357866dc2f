"""A distributed stage: one process per GPU of its slot, all running the same stage function.

Each rank is a worker of its own; accelerate reads its rank from the variables that torchrun sets.
The slot's own worker starts the ranks and watches them. It does so itself instead of using
``accelerate launch``: a user's saved accelerate configuration (of precision, for example) must not
change a result, and killing the worker would not reach ranks started by torchrun's agent.
"""

from __future__ import annotations

import queue
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.engine.slots import Slot, Worker
from bench.engine.store import LOG

#: How long to wait for the other ranks' reasons after one has failed: a rank that dies breaks its
#: peers' connections.
GRACE_SECONDS = 1.0


class RankFailed(Exception):
    """``result``: the stage's answer."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result["reason"])
        self.result = result


def run_ranks(task: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, float]:
    """Makes the stage of ``task`` in its folder with ``task["processes"]`` ranks, and returns its
    cost.

    Rank 0 writes into that folder and reports its progress through ``send``; what the others write
    is discarded. Cost figures are summed, except ``seconds``, which is the total wall time, and
    ``peak_gpu_memory_bytes``, which is the maximum over GPUs. Raises :class:`RankFailed`.
    """
    started, count, out = time.monotonic(), int(task["processes"]), Path(task["folder"])
    _make_room()
    events: queue.SimpleQueue[tuple[Worker, Any]] = queue.SimpleQueue()
    workers: list[Worker] = []
    with _reserved_port() as port, tempfile.TemporaryDirectory(dir=out, prefix="ranks-") as scratch:
        try:
            for rank in range(count):
                worker = Worker(_slot(rank, count, port, task["context"]), events, leads=False)
                workers.append(worker)
                folder = Path(scratch, str(rank)) if rank else out
                folder.mkdir(exist_ok=True)
                worker.send({**task, "rank": rank, "folder": str(folder)})
            costs = _costs(workers, events, send, out / LOG)
        finally:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.process.wait()
    total = {name: sum(cost.get(name, 0.0) for cost in costs) for name in costs[0]}
    if "peak_gpu_memory_bytes" in total:
        total["peak_gpu_memory_bytes"] = max(cost["peak_gpu_memory_bytes"] for cost in costs)
    return total | {"seconds": time.monotonic() - started}


def _slot(rank: int, count: int, port: int, context: Mapping[str, Any]) -> Slot:
    world = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_PORT": port,
    }
    environment = {name: str(value) for name, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"}
    return Slot(
        name=f"rank {rank}",
        device=context["device"],
        threads=context["threads"],
        environment=environment,
    )


def _costs(
    workers: list[Worker],
    events: queue.SimpleQueue[tuple[Worker, Any]],
    send: Callable[[dict[str, Any]], None],
    log: Path,
) -> list[dict[str, float]]:
    """Waits for every rank, or for the first failure. A rank that died is reported before one that
    lost its connection to it.
    """
    answers: dict[Worker, dict[str, Any]] = {}
    lost: list[dict[str, Any]] = []
    deadline: float | None = None
    while len(answers) < len(workers):
        try:
            worker, message = events.get(
                timeout=None if deadline is None else max(0.0, deadline - time.monotonic())
            )
        except queue.Empty:
            break
        if message is None and worker not in answers:
            reason = f"{worker.slot.name}: {worker.ended()}"
            trace = log.read_text(errors="replace")[-4000:]
            answers[worker] = {"ok": False, "reason": reason, "trace": trace, "retry": True}
            lost.append(answers[worker])
        elif isinstance(message, dict) and isinstance(message.get("ok"), bool):
            answers[worker] = message
        elif isinstance(message, dict) and "progress" in message and worker is workers[0]:
            send(message)
        failed = [answer for answer in answers.values() if not answer["ok"]]
        if failed and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
    failures = lost + [answer for answer in answers.values() if not answer["ok"]]
    if failures:
        raise RankFailed(failures[0])
    return [answers[worker]["cost"] for worker in workers]


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port for rank 0 to listen on. It is bound here without listening, so the system gives it to
    nobody else, while Linux lets another socket with SO_REUSEADDR bind it.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def _make_room() -> None:
    """Frees the GPU memory that this worker's earlier stages left cached, for rank 0."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
