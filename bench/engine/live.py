"""Reports how far a run is, again and again: in a thread, at a bounded cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bench.engine.contract import Engine
from bench.engine.graph import Cell, Plan
from bench.engine.schedule import Durations, forecast
from bench.engine.slots import available_cores
from bench.text import message_of, one_line

#: Seconds between two reports if there is news; without any a report says that the run goes on.
EVERY, QUIET = 10.0, 60.0
#: The largest share of the slots' time that reporting may take: what costs more comes less often.
SHARE = 0.1
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. ``written``: seconds since 1970, now; ``every``: seconds until the next
    report, if there is news by then; ``done``, ``left``: stages; ``seconds``: until all is there;
    ``coming``: the cells that are not, each with the seconds until it is expected, the next one
    first; ``running``: the stages at work, in words.
    """

    written: float
    every: float
    done: int
    left: int
    seconds: float
    coming: tuple[tuple[Cell, float], ...]
    running: tuple[str, ...]


@contextmanager
def reporting(
    plans: Sequence[Plan], executor: Engine, show: Callable[[Progress], None] | None
) -> Iterator[None]:
    """Calls ``show`` in a thread while the context lasts and stages are left to be made; an error
    of it is a line for the user and ends no run. After an ``OSError`` it is called again.
    """
    if show is None:
        yield
        return
    live = _Live(plans, executor, show)
    live.start()
    try:
        yield
    finally:
        live.over.set()
        live.join()


class _Live(threading.Thread):
    def __init__(
        self, plans: Sequence[Plan], executor: Engine, show: Callable[[Progress], None]
    ) -> None:
        super().__init__(name="live board", daemon=True)
        self.plans, self.executor, self.show = plans, executor, show
        self.over = threading.Event()
        self.stages = {key: stage for plan in plans for key, stage in plan.stages.items()}
        self.timed: set[str] = set()

    def run(self) -> None:
        while not self.executor.scheduler.begun.is_set():
            if self.over.wait(POLL_SECONDS):
                return
        try:
            self._report()
        except Exception as error:
            self._note("the board is written at the end only", error)

    def _note(self, what: str, error: Exception) -> None:
        words = one_line(message_of(error) or type(error).__name__)
        self.executor.reporter.note(f"{what}: {words}")

    def _report(self) -> None:
        waiting, _ = self.executor.scheduler.state()
        self.durations = Durations(self.executor.store.manifests() if waiting else ())
        every, last, before, noted = EVERY, float("-inf"), -1, False
        while waiting and not self.over.is_set():
            coming = sum(cell.stage in waiting for plan in self.plans for cell in plan.cells)
            age = time.monotonic() - last
            if (age >= every and coming != before) or age >= max(every, QUIET):
                began = time.thread_time()
                try:
                    self.show(self._progress(waiting, every))
                    before = coming
                except OSError as error:  # a disk may be full for a moment
                    if not noted:
                        self._note("the board could not be written, and is tried again", error)
                    noted, before = True, -1
                cost = time.thread_time() - began
                # The slots of a cluster are not this machine's.
                cores = min(len(self.executor.slots), available_cores())
                every = max(EVERY, cost / (SHARE * cores))
                last = time.monotonic()
            self.over.wait(POLL_SECONDS)
            waiting = self.executor.scheduler.state()[0]

    def _progress(self, waiting: Mapping[str, None], every: float) -> Progress:
        running = self.executor.scheduler.state()[1]
        for key in set(self.executor.scheduler.made) - self.timed:
            self.timed.add(key)
            with suppress(OSError, ValueError, KeyError, TypeError):
                seconds = float(self.executor.store.manifest(key)["cost"]["seconds"])
                self.durations.took(self.stages[key], seconds)
        queue = {
            key: (key in self.executor.scheduler.third_party, position)
            for key, position in dict(self.executor.scheduler.queue).items()
            if key in waiting
        }
        left = forecast(self.stages, queue, self.durations.of, len(self.executor.slots), running)
        coming = [
            (cell, left.get(cell.stage, 0.0))
            for plan in self.plans
            for cell in plan.cells
            if cell.stage and cell.stage in waiting
        ]
        return Progress(
            written=time.time(),
            every=every,
            done=len(self.timed),
            left=len(waiting),
            seconds=max(left.values(), default=0.0),
            coming=tuple(sorted(coming, key=lambda one: one[1])),
            running=tuple(self.stages[key].describe() for key in running),
        )
