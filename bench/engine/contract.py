"""What a run needs of whatever makes its stages: on this machine
(:class:`bench.engine.executor.Executor`) or on a cluster
(:class:`bench.engine.jobs.JobExecutor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Protocol

from bench.engine.graph import Stage, Turn
from bench.engine.progress import Reporter
from bench.engine.scheduler import Failure, Patience, Scheduler
from bench.engine.store import Store


class Engine(Protocol):
    """``slots``: as many as there may be stages at work; ``scheduler``: how the stages stand, also
    for another thread.
    """

    store: Store
    reporter: Reporter
    scheduler: Scheduler

    @property
    def slots(self) -> Sized: ...

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
        ``changed`` is called after stages ended; ``KeyboardInterrupt`` goes through.
        """
