"""What the engine's tests share: a graph of fake stages, and a reporter that remembers what it was
told.
"""

import functools
import json
import threading
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from bench import runner
from bench.cells import Cell
from bench.cli import cli
from bench.engine.executor import Executor
from bench.engine.graph import Plan, Stage
from bench.engine.progress import Reporter
from bench.engine.slots import make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.planner import alike, title
from bench.record import PluginSpec, read_runs

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
        self.gate = Path(f"{folder}-gate")  # stages with ``gate=str(lab.gate)`` wait for it

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

    def values(self):
        """The bytes of every stage's number."""
        return [(self.store.folder(key) / "value.json").read_bytes() for key in self.stages]

    def begun(self, executor):
        """A run on a cluster in a thread, as soon as its first job works."""
        thread = threading.Thread(target=executor.run, args=(self.stages, list(self.stages)))
        thread.start()
        self.wait_for(lambda: bool(executor.scheduler.running))
        return thread

    def wait_for_note(self, *words):
        """Until the run has told all of ``words`` in one note."""
        self.wait_for(
            lambda: any(all(word in note for word in words) for note in self.reporter.keys("note"))
        )

    def wait_for(self, what, seconds=300):
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.1)

    def working(self, keys):
        """Whether each of these stages is being made by now."""
        return all(list((self.store.root / "tmp").glob(f"{key}.*")) for key in keys)

    def tasks(self):
        """The processes that a cluster runs for this store."""
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if "bench.engine.node" in (one.info["cmdline"] or ())
            and any(str(self.store.root) in word for word in one.info["cmdline"])
        ]


class SmallSuite:
    """A suite of fake stages in the current folder. ``options``: of a command that asks for it."""

    def __init__(self, plugins):
        Path("small.yaml").write_text(
            "name: small\ntestbeds: [tiny]\nattacks: [fake_attack]\ndefenses: [fake_sampler]\n"
        )
        self.options = ["small.yaml", "--plugin", str(plugins)]

    def made(self, store, *more):
        """What ``run`` says of it."""
        options = [*self.options, "--no-report", "--json", "--store", store, *more]
        done = CliRunner().invoke(cli, ["run", *options])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def assert_as_here(self, store):
        """The account and the numbers in ``store`` are those of a run on this machine."""
        self.made("near")
        far, near = (read_runs(Path(one))[0] for one in (store, "near"))
        assert far.counts == near.counts and far.counts["ok"] > 2
        assert [one.metrics for _, one in far.records] == [one.metrics for _, one in near.records]


@pytest.fixture
def small_suite(tiny, fake_plugins, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "prepare", functools.partial(runner.prepare, stages=STAGES))
    monkeypatch.chdir(tmp_path)
    return SmallSuite(fake_plugins)


@pytest.fixture(scope="session")
def graphs():
    """A strategy of stages by key, inputs before what needs them."""

    @st.composite
    def drawn(draw, most=30):
        stages = {}
        for number in range(draw(st.integers(1, most))):
            above = draw(st.lists(st.sampled_from(sorted(stages)), max_size=3)) if stages else []
            inputs = {str(role): key for role, key in enumerate(above)}
            seconds = draw(st.none() | st.floats(0, 100))
            one = Stage(name="s", params={"number": number}, inputs=inputs, seconds=seconds)
            stages[one.key] = one
        return stages

    return drawn


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "store")


@pytest.fixture(scope="session")
def new_lab():
    """Makes more of them, for fixtures that live longer than a test."""
    return Lab
