"""What a run has still to make, what may begin and in which order, what is tried again, and what is
given up with what hangs on it: all that an executor needs to know that does not depend on where its
stages are made.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bench.engine.graph import Stage, Turn
from bench.engine.progress import Reporter
from bench.engine.schedule import Queued, order
from bench.engine.store import Store

#: How often a missing or damaged result is remade in one run.
REPAIRS = 2


@dataclass(frozen=True)
class Failure:
    """Why a stage has no result. ``stage``: the key of the one that failed first."""

    stage: str
    reason: str
    trace: str = ""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """``timeout``: seconds that a stage may take, ``None`` for the default; ``retries``: how often
    a failed one is tried again.
    """

    timeout: float | None = None
    retries: int = 0


def unfinished(stages: Mapping[str, Stage], targets: Iterable[str], store: Store) -> list[str]:
    """The keys that must be made for ``targets``: those not in the store, and their inputs, but
    no inputs of a finished one.
    """
    missing: set[str] = set()
    waiting = list(targets)
    while waiting:
        key = waiting.pop()
        if key not in missing and not store.finished(key):
            missing.add(key)
            waiting += stages[key].inputs.values()
    return [key for key in stages if key in missing]


class Scheduler:
    """``waiting``: the stages that have not ended, inputs before what needs them, those at work
    included; ``failures``, ``made``: those that have ended; ``queue``: in which order they come;
    ``third_party``: those that come after all others; ``begun``: set once these are known.

    Whoever makes stages says when one is at work and how it ended. Another thread may read.
    """

    def __init__(self, store: Store, reporter: Reporter, usual: Patience | None = None) -> None:
        self.store, self.reporter, self.usual = store, reporter, usual or Patience()
        self.stages: Mapping[str, Stage] = {}
        self.patience: Mapping[str, Patience] = {}
        self.failures: dict[str, Failure] = {}
        self.waiting: dict[str, None] = {}
        self.made: set[str] = set()
        self.queue: dict[str, Queued] = {}
        self.third_party: set[str] = set()
        self.running: dict[str, float] = {}
        self.begun = threading.Event()

    def begin(
        self,
        stages: Mapping[str, Stage],
        targets: Iterable[str],
        turns: Mapping[str, Turn] | None = None,
        patience: Mapping[str, Patience] | None = None,
    ) -> None:
        """Plans what ``targets`` need that is not in the store. ``turns``, ``patience``: of the
        stages, by key; a stage without patience has the usual one.
        """
        targets = list(dict.fromkeys(targets))
        self.stages, self.turns, self.patience = stages, turns or {}, patience or {}
        self.failures = {}
        self.tries: dict[str, int] = {}
        self.repairs: dict[str, int] = {}
        self.running = {}
        self.below: dict[str, list[str]] = {}
        self.waiting = dict.fromkeys(unfinished(stages, targets, self.store))
        self.third_party = self._with_plugins()
        for key, stage in stages.items():
            for above in set(stage.inputs.values()):
                self.below.setdefault(above, []).append(key)
        self._line_up()
        self.begun.set()
        self.reporter.begin(len(self.waiting), len(stages) - len(self.waiting))

    def _with_plugins(self) -> set[str]:
        """The stages that run a third-party plugin, or need the result of one. They come last, so
        that a plugin that hangs does not delay the other results.
        """
        keys: set[str] = set()
        for key, stage in self.stages.items():  # inputs stand before what needs them
            if stage.plugins or not keys.isdisjoint(stage.inputs.values()):
                keys.add(key)
        return keys

    def _line_up(self) -> None:
        self.queue = order(self.stages, self.waiting, self.turns)
        line = sorted(self.waiting, key=lambda key: (key in self.third_party, self.queue[key]))
        self._names, self._position = line, {key: number for number, key in enumerate(line)}
        self._lacks = {
            key: len({one for one in self.stages[key].inputs.values() if one in self.waiting})
            for key in self.waiting
        }
        self._ready = [
            number
            for number, key in enumerate(line)
            if not self._lacks[key] and key not in self.running
        ]

    def ready(self) -> Iterator[str]:
        """The stages that may begin, the most urgent first, each as long as it still may when its
        turn comes.
        """
        number = -1
        while (at := bisect_right(self._ready, number)) < len(self._ready):
            number = self._ready[at]
            yield self._names[number]

    def is_ready(self, key: str) -> bool:
        """Whether a stage may begin now."""
        return key in self.waiting and key not in self.running and not self._lacks[key]

    def state(self) -> tuple[dict[str, None], dict[str, float]]:
        """The stages still to be made, and those at work with the seconds they have had."""
        now = time.monotonic()
        running = dict(self.running).items()
        return dict(self.waiting), {key: now - began for key, began in running}

    def started(self, key: str, where: str) -> None:
        """A stage is at work; ``where``: on what, in a word."""
        self._take(key)
        self.running[key] = time.monotonic()
        self.reporter.started(key, self.stages[key], where)

    def stopped(self, key: str) -> None:
        """A stage is at work no longer; if it has not ended, it may begin again."""
        if self.running.pop(key, None) is not None and self.is_ready(key):
            insort(self._ready, self._position[key])

    def done(self, key: str, *, ours: bool = True) -> None:
        """A stage's result is in the store. ``ours``: this run made it."""
        self.running.pop(key, None)
        self._drop(key)
        if ours:
            self.made.add(key)
        self.reporter.done(key, self.stages[key], self.store.seconds(key) if ours else 0.0)
        for below in self.below.get(key, ()):
            if below in self.waiting:
                self._lacks[below] -= 1
                if self.is_ready(below):
                    insort(self._ready, self._position[below])

    def failed(self, key: str, reason: str, trace: str = "", *, retry: bool = False) -> None:
        """An attempt at a stage has failed: it is tried again if that may help (``retry``) and its
        patience allows, or else given up.
        """
        self.tries[key] = self.tries.get(key, 0) + 1
        again = retry and self.tries[key] <= self.patience_of(key).retries
        self.reporter.failed(key, self.stages[key], reason, again)
        self.stopped(key)
        if not again:
            self.give_up(key, Failure(key, reason, trace))

    def patience_of(self, key: str) -> Patience:
        """What the run said of a stage, or the usual."""
        return self.patience.get(key, self.usual)

    def give_up(self, key: str, failure: Failure) -> None:
        """Marks a stage, and everything that depends on it and is not at work, as failed. One that
        has ended stays as it is.
        """
        lost = [key]
        while lost:
            one = lost.pop()
            if one in self.waiting and (one == key or one not in self.running):
                self.running.pop(one, None)
                self._drop(one)
                self.failures[one] = failure
                lost += self.below.get(one, ())

    def give_up_all(self, reason: str, among: Iterable[str] | None = None) -> bool:
        """Gives up all stages that are not at work, or those of ``among``. Whether there was
        one.
        """
        before = len(self.waiting)
        for key in list(self.waiting if among is None else among):
            if key in self.waiting and key not in self.running:
                self.give_up(key, Failure(key, reason))
        return len(self.waiting) < before

    def make_again(self, key: str, wrong: str) -> None:
        """Plans a stage again whose result is missing or damaged; gives up after :data:`REPAIRS`
        times.
        """
        self.repairs[key] = self.repairs.get(key, 0) + 1
        if self.repairs[key] > REPAIRS:
            self.waiting[key] = None
            self._line_up()
            self.give_up(key, Failure(key, f"{wrong}, and was made {REPAIRS} times already"))
            return
        if not self.put_aside(key):
            if self.store.folder(key).is_dir():  # another machine has made it meanwhile
                return
            self.reporter.note(f"{self.stages[key].describe()}: {wrong}; it is made again")
        more = set(unfinished(self.stages, [key], self.store)).difference(self.waiting)
        self.waiting = {one: None for one in self.stages if one in self.waiting or one in more}
        self._line_up()
        self.reporter.more(len(more))

    def put_aside(self, key: str) -> bool:
        """Moves an unusable result away, and says why and where. Whether there was one."""
        moved = self.store.put_aside(key)
        if moved is None:
            return False
        self.reporter.note(f"{self.stages[key].describe()}: {moved}")
        return True

    def _drop(self, key: str) -> None:
        self._take(key)
        self.waiting.pop(key, None)

    def _take(self, key: str) -> None:
        """Out of the line of those that may begin."""
        at = bisect_left(self._ready, self._position[key])
        if self._ready[at : at + 1] == [self._position[key]]:
            del self._ready[at]
