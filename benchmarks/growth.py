"""What a matrix costs as it grows: to plan its cells, to schedule its stages, and how long it takes
on more and more machines.

The last is simulated: the graph of a suite, the seconds that its stages took in a store (or that
its testbed declares), and workers that take ready stages in the order of the real scheduler. Beside
the time stand the two bounds that no order can beat: the work divided by the workers, and the
longest chain. A worker that is taken away loses what it was at, all of it, and is back after five
minutes; real stages of length go on from their saved progress, so that is the worst of it.
"""

from __future__ import annotations

import heapq
import itertools
import random
import resource
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.engine.executor import Executor
from bench.engine.graph import Plan, Stage
from bench.engine.progress import Reporter
from bench.engine.schedule import Durations, longest_chain, order, turns_of
from bench.engine.scheduler import Scheduler
from bench.engine.slots import make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.runner import prepare
from benchmarks.timing import Moment, Row, Settings

CELLS, STAGES = 10_000, 10_000
GOAL_PLANNING = 5.0
WORKERS = (1, 8, 64, 512)
#: Of a worker, an hour of work; how long it is away; simulated runs.
TAKEN_AWAY, AWAY_SECONDS, RUNS = 0.01, 300.0, 20
IDLE = str(Path(__file__).with_name("idle.py"))
#: What is simulated without a suite of one's own.
SUITE = "poison"


def growth(settings: Settings, suite: str | None = None, store: Path | None = None) -> list[Row]:
    """Planning, scheduling and growth over workers. ``suite``, ``store``: whose graph is simulated,
    and where its stages were timed.
    """
    return [
        *_scheduled(),
        *_planning(settings.repetitions),
        *_alone(settings.repetitions),
        *_grown(suite or SUITE, store),
    ]


def _below(quantity: str, unit: str, values: list[float], goal: float | None = None) -> Row:
    return Row(quantity=quantity, unit=unit, values=tuple(values), goal=goal, at_least=False)


def wide(cells: int) -> dict[str, Any]:
    """A suite of about so many cells: ten columns, forty attacks and the control of each seed."""
    rates = [round(0.01 + 0.02 * number, 2) for number in range(40)]
    row = 80 * 10  # an attack, and the honest model met by its call
    return {
        "name": "wide",
        "testbeds": ["digits-ddpm"],
        "attacks": [{"name": "baddiffusion", "grid": {"poison_rate": rates}}],
        "defenses": [
            "clip_x0",
            "clip_xt",
            {"name": "anp", "grid": {"samples": [16, 32, 48, 64, 80, 96]}},
        ],
        "detectors": ["noise_shift"],
        "seeds": list(range(max(1, cells // row))),
    }


def _planning(repetitions: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "wide.yaml"
        file.write_text(yaml.safe_dump(wide(CELLS)))
        seconds, count = [], 0
        for _ in range(repetitions):
            before = Moment.now()
            plan = prepare(str(file), device="cpu").plan
            seconds.append((Moment.now() - before).cpu)
            count = len(plan.cells)
    return [
        _below(f"planning {count:,} cells, CPU", "s", seconds, GOAL_PLANNING),
        _below("memory with such a plan", "MB", [_peak()]),
    ]


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def chains(count: int) -> dict[str, Stage]:
    """Stages like those of a matrix: one in ten is a model, the others hang on the last model and
    on one another, three by three.
    """
    stages: dict[str, Stage] = {}
    model, above = "", ""
    for number in range(count):
        inputs = {role: key for role, key in (("model", model), ("above", above)) if key}
        if number % 10 == 0:
            inputs = {}
        one = Stage(name="idle", params={"number": number}, inputs=inputs)
        stages[one.key] = one
        model = one.key if number % 10 == 0 else model
        above = one.key if number % 10 and number % 3 else ""
    return stages


class _Nothing(Store):
    """A store that has nothing, without a disk."""

    def __init__(self) -> None:
        self.root = Path("nowhere")

    def finished(self, key: str) -> bool:
        return False

    def seconds(self, key: str) -> float:
        return 0.0


def _alone(repetitions: int) -> list[Row]:
    """The scheduler without workers and without a disk, for two sizes: does a stage of a larger
    matrix cost more?
    """
    rows = []
    for count in (STAGES, 10 * STAGES):
        stages, values = chains(count), []
        for _ in range(repetitions):
            before = Moment.now()
            scheduler = Scheduler(_Nothing(), Reporter())
            scheduler.begin(stages, list(stages))
            while scheduler.waiting:
                key = next(scheduler.ready())
                scheduler.started(key, "slot")
                scheduler.done(key)
            values.append(1e6 * (Moment.now() - before).cpu / count)
        rows.append(_below(f"deciding on each of {count:,} stages, CPU", "us", values))
    return rows


def _scheduled() -> list[Row]:
    """Stages that do nothing, in real workers and a real store."""
    stages = chains(STAGES)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        executor = Executor(
            store,
            make_slots("cpu", 2),
            Reporter(),
            stages=IDLE,
            kinds=dict(load_stages(IDLE)),
        )
        before = Moment.now()
        failures = executor.run(stages, list(stages))
        passed = Moment.now() - before
        assert not failures, next(iter(failures.values()))
    return [
        _below(
            f"each of {STAGES:,} stages of nothing, 2 workers", "ms", [1e3 * passed.wall / STAGES]
        ),
        _below("of which the executor's own CPU", "ms", [1e3 * passed.cpu / STAGES]),
        _below("memory of its process, with torch imported", "MB", [_peak()]),
    ]


def _grown(suite: str, folder: Path | None) -> list[Row]:
    plan = prepare(suite, device="cpu").plan
    durations = Durations(Store(folder, read_only=True).manifests() if folder else ())
    seconds = {key: durations.of(stage) or 0.0 for key, stage in plan.stages.items()}
    work, chain = sum(seconds.values()), longest_chain(plan.stages, seconds)
    rows = [
        _below(f"{suite}: work of {len(seconds):,} stages", "s", [work]),
        _below(f"{suite}: its longest chain", "s", [chain]),
    ]
    for workers in WORKERS:
        least = max(work / workers, chain)
        undisturbed = simulated(plan, seconds, workers)
        disturbed = [
            simulated(plan, seconds, workers, TAKEN_AWAY, random.Random(number))
            for number in range(RUNS)
        ]
        rows += [
            _below(f"{suite}: {workers} workers", "s", [undisturbed]),
            Row(
                quantity=f"{suite}: least possible / that, {workers} workers",
                unit="",
                values=(least / undisturbed,),
            ),
            _below(f"{suite}: {workers} workers, 1 % an hour taken away", "s", disturbed),
        ]
    return rows


def simulated(
    plan: Plan,
    seconds: Mapping[str, float],
    workers: int,
    rate: float = 0.0,
    draws: random.Random | None = None,
) -> float:
    """Seconds until all stages of ``plan`` are done. ``rate``: how often a worker is taken away, an
    hour of work.
    """
    queue = order(plan.stages, plan.stages, turns_of([plan]), lambda stage: seconds[stage.key])
    line = sorted(queue, key=queue.__getitem__)
    position = {key: number for number, key in enumerate(line)}
    lacks = {key: set(stage.inputs.values()) for key, stage in plan.stages.items()}
    below: dict[str, list[str]] = {}
    for key, above in lacks.items():
        for one in above:
            below.setdefault(one, []).append(key)
    ready = [position[key] for key in line if not lacks[key]]
    heapq.heapify(ready)
    free, now = workers, 0.0
    # When something ends: a stage (its number), one that is lost (-1 - number), an absence (None).
    events: list[tuple[float, int, int | None]] = []
    count = itertools.count()  # of two that end at once, the one that began first
    while ready or events:
        while ready and free:
            number = heapq.heappop(ready)
            needed = seconds[line[number]]
            lost = draws.expovariate(rate / 3600) if rate and draws else needed
            ending = number if lost >= needed else -1 - number
            heapq.heappush(events, (now + min(needed, lost), next(count), ending))
            free -= 1
        now, _, event = heapq.heappop(events)
        if event is None:
            free += 1
        elif event < 0:
            heapq.heappush(ready, -1 - event)
            heapq.heappush(events, (now + AWAY_SECONDS, next(count), None))
        else:
            free += 1
            for key in below.get(line[event], ()):
                lacks[key].discard(line[event])
                if not lacks[key]:
                    heapq.heappush(ready, position[key])
    return now
