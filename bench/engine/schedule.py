"""The order of the work, and when what will be done: pure functions of a graph of stages.

A stage's turn is that of the first cell that needs it. Free slots take ready stages by turn, and
within a turn by the longest chain that hangs on it there: numbers come early, and nothing waits
that could run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.engine.graph import Plan, Stage, Turn

#: Seconds of a stage of which no duration is known.
UNKNOWN_SECONDS = 1.0
#: Declared seconds that count as having taken as long as declared, so that the first small stages,
#: which also start the workers, do not set the pace.
AS_DECLARED = 120.0
#: Sorts before all that come later: turn, then chains, longest first.
Queued = tuple[Turn, float, float]
FIRST: Turn = (0, 0)


#: Seconds; nothing took longer.
_LONGEST = 1e9


class Durations:
    """How long stages take here: the mean of those alike that were timed, or else what the testbed
    declares. ``manifests``: of finished stages.
    """

    def __init__(self, manifests: Iterable[Mapping[str, Any]] = ()) -> None:
        self.timed: dict[str, list[float]] = {}
        self.declared = self.measured = 0.0
        for manifest in manifests:
            cost, alike = manifest.get("cost"), manifest.get("alike", ())
            seconds = cost.get("seconds") if isinstance(cost, dict) else None
            # A store may be of another version, or mended by hand.
            if (
                isinstance(seconds, int | float)
                and 0 <= seconds < _LONGEST
                and isinstance(alike, list | tuple)
            ):
                self._add([one for one in alike if isinstance(one, str)], float(seconds))

    def _add(self, alike: Iterable[str], seconds: float) -> None:
        for group in alike:
            self.timed.setdefault(group, []).append(seconds)

    def took(self, stage: Stage, seconds: float) -> None:
        """``stage`` took so long; those that only a declaration is known of are scaled alike."""
        self._add(stage.alike, seconds)
        if stage.seconds:
            self.declared += stage.seconds
            self.measured += seconds

    def of(self, stage: Stage) -> float | None:
        """Seconds; ``None`` if nobody knows."""
        known = next((self.timed[group] for group in stage.alike if group in self.timed), None)
        if known:
            return sum(known) / len(known)
        if stage.seconds is None:
            return None
        pace = (self.measured + AS_DECLARED) / (self.declared + AS_DECLARED)
        return stage.seconds * pace


def turns_of(plans: Iterable[Plan]) -> dict[str, Turn]:
    """The turn of every stage of ``plans``, by key: that of the first cell that needs it."""
    turns: dict[str, Turn] = {}
    ends = [
        (plan.turns.get(cell.stage, FIRST), cell.stage, plan.stages)
        for plan in plans
        for cell in plan.cells
        if cell.stage
    ]
    for turn, end, stages in sorted(ends, key=lambda one: one[0]):
        waiting = [end]
        while waiting:
            key = waiting.pop()
            if key not in turns:
                turns[key] = turn
                waiting += stages[key].inputs.values()
    return turns


def order(
    stages: Mapping[str, Stage],
    waiting: Iterable[str],
    turns: Mapping[str, Turn],
    seconds: Callable[[Stage], float | None] = lambda stage: stage.seconds,
) -> dict[str, Queued]:
    """The position of each stage of ``waiting`` in the queue, by key. ``waiting``: inputs before
    what needs them; ``seconds``: a stage's duration, by default the declared one, with which the
    order depends on the plan alone.
    """
    keys = list(waiting)
    own = {key: seconds(stages[key]) or UNKNOWN_SECONDS for key in keys}
    # From each stage to the end of the longest chain that hangs on it: in its turn, and in all.
    within, whole = dict(own), dict(own)
    for key in reversed(keys):
        for above in stages[key].inputs.values():
            if above in own:
                whole[above] = max(whole[above], own[above] + whole[key])
                if turns.get(above, FIRST) == turns.get(key, FIRST):
                    within[above] = max(within[above], own[above] + within[key])
    return {key: (turns.get(key, FIRST), -within[key], -whole[key]) for key in keys}


def forecast(
    stages: Mapping[str, Stage],
    queue: Mapping[str, Any],
    seconds: Callable[[Stage], float | None],
    slots: int,
    running: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Seconds from now until each stage is done, by key, if ``slots`` slots work through them in
    the order of ``queue``, whose keys are all that is still to be made. ``running``: those at
    work, with the seconds they have had; one that takes longer than expected is due at once.
    """
    begun = running or {}
    inputs = {
        key: {above for above in stages[key].inputs.values() if above in queue} for key in queue
    }
    below: dict[str, list[str]] = {}
    for key, those in inputs.items():
        for above in those:
            below.setdefault(above, []).append(key)
    position = {key: number for number, key in enumerate(sorted(queue, key=queue.__getitem__))}
    names = list(position)
    ready = [position[key] for key in queue if not inputs[key] and key not in begun]
    heapq.heapify(ready)
    left = {key: max(0.0, (seconds(stages[key]) or 0.0) - had) for key, had in begun.items()}
    busy = [(after, position[key]) for key, after in left.items() if key in queue]
    heapq.heapify(busy)
    done: dict[str, float] = {}
    now = 0.0
    while ready or busy:
        while ready and len(busy) < slots:
            number = heapq.heappop(ready)
            heapq.heappush(busy, (now + (seconds(stages[names[number]]) or 0.0), number))
        now, number = heapq.heappop(busy)
        done[names[number]] = now
        for key in below.get(names[number], ()):
            inputs[key].discard(names[number])
            if not inputs[key]:
                heapq.heappush(ready, position[key])
    return done


def longest_chain(stages: Mapping[str, Stage], seconds: Mapping[str, float]) -> float:
    """The seconds of the longest chain of stages: a lower bound for any number of slots."""
    ends: dict[str, float] = {}
    for key, stage in stages.items():  # inputs stand before what needs them
        if key in seconds:
            ends[key] = seconds[key] + max(
                (ends.get(above, 0.0) for above in stage.inputs.values()), default=0.0
            )
    return max(ends.values(), default=0.0)
