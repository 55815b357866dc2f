"""What may begin and what is given up: a stage that is left behind is a cell that never comes, and
one that begins too early is a wrong number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.engine.graph import Stage, Turn
from bench.engine.progress import Reporter
from bench.engine.schedule import order
from bench.engine.scheduler import Failure, Patience, Scheduler
from bench.engine.store import Store


class Empty(Store):
    """One that never has anything, and so needs no files."""

    def __init__(self) -> None:
        self.root = Path("nowhere")

    def finished(self, key: str) -> bool:
        return False

    def seconds(self, key: str) -> float:
        return 1.0


@given(data=st.data())
def test_whatever_happens_what_may_begin_is_what_has_all_it_needs(
    graphs: Any, data: st.DataObject
) -> None:
    """Against the definition, after every step of any course of a run; at its end everything was
    made or given up, and given up is only what fails or hangs on it.
    """
    stages: dict[str, Stage] = data.draw(graphs(most=20))
    turns: dict[str, Turn] = {key: (data.draw(st.integers(0, 1)), 0) for key in stages}
    scheduler = Scheduler(Empty(), Reporter())
    scheduler.begin(stages, list(stages), turns, dict.fromkeys(stages, Patience(retries=1)))
    broken: set[str] = set()
    while scheduler.waiting:
        positions = order(stages, scheduler.waiting, turns)
        whole = [
            key
            for key in scheduler.waiting
            if key not in scheduler.running
            and not any(above in scheduler.waiting for above in stages[key].inputs.values())
        ]
        assert sorted(scheduler.ready()) == sorted(whole)
        assert all(scheduler.is_ready(key) == (key in whole) for key in stages)
        places = [positions[key][0] for key in scheduler.ready()]
        assert places == sorted(places)
        running = list(scheduler.running)
        if whole and (not running or data.draw(st.booleans())):
            scheduler.started(next(scheduler.ready()), "slot")
            continue
        key = data.draw(st.sampled_from(running))
        match data.draw(st.sampled_from(["done", "retry", "fail", "stop"])):
            case "done":
                scheduler.done(key)
            case "stop":
                scheduler.stopped(key)
            case ending:
                scheduler.failed(key, "why", retry=ending == "retry")
                broken |= {key} if key not in scheduler.waiting else set()
    assert scheduler.made | scheduler.failures.keys() == set(stages)
    assert scheduler.made.isdisjoint(scheduler.failures) and not list(scheduler.ready())
    for key, failure in scheduler.failures.items():
        assert failure.stage in broken
        above = stages[key].inputs.values()
        assert key in broken or any(one in scheduler.failures for one in above)
    for key in scheduler.made:
        assert all(above in scheduler.made for above in stages[key].inputs.values())


def test_what_is_at_work_is_not_given_up_with_the_rest(tmp_path: Path) -> None:
    """A full disk or a late plugin ends what has not begun; a stage at work may still get done."""
    keys = [Stage(name="s", params={"number": number}) for number in range(3)]
    stages = {one.key: one for one in keys}
    scheduler = Scheduler(Store(tmp_path), Reporter())
    scheduler.begin(stages, list(stages))
    scheduler.started(keys[0].key, "slot")
    assert scheduler.give_up_all("the disk is full")
    assert list(scheduler.waiting) == [keys[0].key] and not scheduler.give_up_all("again")
    scheduler.done(keys[0].key)
    scheduler.give_up(keys[0].key, Failure(keys[0].key, "too late"))  # it has ended
    assert set(scheduler.failures) == {keys[1].key, keys[2].key}
