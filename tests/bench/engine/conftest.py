"""What the engine's tests share: a graph of fake stages, and a reporter that remembers what it was
told.
"""

from pathlib import Path

import pytest

from bench.cells import Cell
from bench.engine.executor import Executor
from bench.engine.graph import Plan, Stage
from bench.engine.progress import Reporter
from bench.engine.slots import make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.planner import alike, title
from bench.record import PluginSpec

STAGES = str(Path(__file__).with_name("fake_stages.py"))


class Remembering(Reporter):
    def __init__(self):
        self.events = []

    def begin(self, total, cached):
        self.events.append(("begin", total, cached))

    def started(self, key, stage, slot):
        self.events.append(("started", key))

    def done(self, key, stage, seconds):
        self.events.append(("done", key))

    def failed(self, key, stage, reason, again):
        self.events.append(("failed", key, reason, again))

    def elsewhere(self, key, stage):
        self.events.append(("elsewhere", key))

    def note(self, text):
        self.events.append(("note", text))

    def still(self, running):
        self.events.append(("still", [(stage.name, seconds) for stage, seconds in running]))

    def keys(self, what):
        return [event[1] for event in self.events if event[0] == what]


class Lab:
    """Builds graphs, and runs them with fake stages."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.stages = {}
        self.cells = []

    def stage(self, name, inputs=None, seconds=None, charged=(), **params):
        params = {"testbed": {"name": "tiny", "params": {}}} | params
        about = {"title": title(name, params), "alike": alike(name, params)}
        made = Stage(
            name=name,
            params=params,
            inputs=inputs or {},
            seconds=seconds,
            charged=frozenset(charged),
            **about,
        )
        self.stages[made.key] = made
        return made.key

    def cell(self, inputs, attack="one", seed=0, charged=(), **params):
        specs = {
            "testbed": {"name": "tiny", "params": {}, "label": "tiny"},
            "attack": {"name": attack, "params": {}, "label": attack},
            "defense": {"name": "none", "params": {}, "label": "none"},
        }
        key = self.stage(
            "record", inputs, charged=charged, **specs, seed=seed, kind="control", **params
        )
        named = {role: PluginSpec(**spec) for role, spec in specs.items()}
        self.cells.append(Cell(**named, seed=seed, kind="control", stage=key))
        return key

    def plan(self, **options):
        return Plan(suite="fake", cells=tuple(self.cells), stages=self.stages, **options)

    def executor(self, jobs=2, slots=None, **options):
        self.reporter = Remembering()
        kinds = load_stages(STAGES)
        return Executor(
            self.store,
            slots or make_slots("cpu", jobs),
            self.reporter,
            stages=STAGES,
            kinds=kinds,
            **options,
        )

    def run(self, targets=None, **options):
        return self.executor(**options).run(
            self.stages, list(self.stages) if targets is None else targets
        )


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "store")


@pytest.fixture(scope="session")
def new_lab():
    """Makes more of them, for fixtures that live longer than a test."""
    return Lab
