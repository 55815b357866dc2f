"""What a run needs of whatever makes its stages: on this machine
(:class:`bench.engine.executor.Executor`) or on a cluster
(:class:`bench.engine.slurm.SlurmExecutor`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Protocol

from bench.engine.executor import Failure, Patience
from bench.engine.graph import Stage, Turn
from bench.engine.progress import Reporter
from bench.engine.schedule import Queued
from bench.engine.store import Store


class Engine(Protocol):
    """``slots``: as many as there may be stages at work; ``failures``, ``waiting``, ``made``: how
    the stages stand, by key; ``queue``: in which order they come; ``third_party``: those that come
    after all others; ``begun``: set once these are known.
    """

    store: Store
    reporter: Reporter
    failures: dict[str, Failure]
    waiting: dict[str, None]
    made: set[str]
    queue: dict[str, Queued]
    third_party: set[str]
    begun: threading.Event

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

    def state(self) -> tuple[dict[str, None], dict[str, float]]:
        """The stages still to be made, and those at work with the seconds they have had. Another
        thread may ask.
        """
