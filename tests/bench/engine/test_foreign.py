"""Third parties' plugins, each with one mistake or trick of its own: it loses its own result, and
nothing else's.
"""

import json
import time
from pathlib import Path

import pytest

from bench.engine.executor import Executor
from bench.engine.graph import Stage
from bench.engine.slots import make_slots
from bench.engine.surroundings import Surroundings
from bench.registry import Registry

STAGES = str(Path(__file__).with_name("plugin_stages.py"))
TEXT = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import numpy, torch
from bench.contracts.card import Card
from bench.contracts.defense import SamplerDefense
WORKER, WORKING = os.environ.get("CASTLEWALLS_WORKER"), os.getcwd()

{above}
@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="{name}", summary="for tests")
    def stepped(self, x, timestep):
        {call}
        return x
"""
#: name -> what it does when it is called, and when a worker imports it.
CALLS = {
    "fine": "pass",
    "seeds": "torch.manual_seed(7); numpy.random.seed(7)",
    "moves": (
        "torch.set_default_dtype(torch.float64); torch.set_flush_denormal(True); os.chdir('/')"
    ),
    "breaks": "torch.set_default_device('meta')",
    "hooks": (
        "torch.nn.modules.module.register_module_forward_hook(lambda *given: None); "
        "torch.backends.mkldnn.deterministic = True"
    ),
    "reads": "open(Path(__file__).parent / ('un' + 'named.txt')).read()",
    # An editable installation has an entry that is no path; from here it would be below the file.
    "looks": (
        "import sys, contextlib; os.chdir(Path(__file__).parent); sys.path.append('no' + 'where')\n"
        "        with contextlib.suppress(OSError): open(sys.path[-1])\n"
        "        sys.path.pop(); os.chdir(WORKING)"
    ),
}
IMPORTS = {"imported": "if WORKER: torch.set_grad_enabled(False)"}


def source_text(name):
    return TEXT.format(name=name, call=CALLS.get(name, "pass"), above=IMPORTS.get(name, ""))


def stage(name, plugins=(), number=0):
    params = {
        "testbed": {"name": "tiny", "params": {}},
        "defense": {"name": name, "params": {}},
        "number": number,
    }
    return Stage(name="use", params=params, title=f"use tiny {name}", plugins=plugins, seconds=1.0)


def theirs(folder, name):
    path = folder / f"{name}.py"
    path.write_text(source_text(name))
    registry = Registry([path])
    source = registry.source(registry.defense(name))
    if name == "reads":
        (folder / "unnamed.txt").write_text("1")
    return stage(name, (source,))


def run(lab, stages, **options):
    lab.executor()  # for its reporter
    table = {made.key: made for made in stages}
    executor = Executor(
        lab.store, make_slots("cpu", options.pop("jobs", 2)), lab.reporter, stages=STAGES, **options
    )
    return executor.run(table, list(table))


def seen(lab, made):
    return json.loads((lab.store.folder(made.key) / "seen.json").read_text())


@pytest.fixture(scope="module")
def matrix(tmp_path_factory, new_lab):
    """Every plugin above in one run, beside stages of ours: stages by name, failures by name, and
    the store's lab.
    """
    folder = tmp_path_factory.mktemp("plugins")
    before = Surroundings()
    made = {name: theirs(folder, name) for name in [*CALLS, *IMPORTS]}
    before.restore()
    made |= {f"ours{number}": stage("none", number=number) for number in range(2)}
    lab = new_lab(tmp_path_factory.mktemp("store"))
    failures = run(lab, made.values(), timeout=150)
    by_key = {one.key: name for name, one in made.items()}
    return made, {by_key[key]: failure for key, failure in failures.items()}, lab


SHARED = "left changed what all code in its process shares: "
REASONS = {
    "moves": SHARED
    + (
        "default dtype (torch.float32 -> torch.float64), denormal numbers flushed (False -> True), "
        "working folder ("
    ),
    "breaks": SHARED
    + (
        "default device (cpu -> meta), torch's function modes (0 -> 1); what failed then: "
        "RuntimeError: Tensor.item()"
    ),
    "hooks": SHARED
    + "hooks on all modules (0 -> 1), oneDNN deterministic (False -> True); put it back",
    "reads": "unnamed.txt, which no result's key holds: list it in its card's files",
    "imported": (
        "imported.py changes, when it is imported, what all code in its process shares: "
        "grad mode (True -> False)"
    ),
}


def test_each_failure_names_its_own_cause(matrix):
    made, failures, lab = matrix
    for name, reason in REASONS.items():
        assert reason in failures[name].reason and "\n" not in failures[name].reason
        assert not lab.store.finished(made[name].key)


def test_nothing_else_fails(matrix):
    made, failures, lab = matrix
    assert set(failures) == set(REASONS)
    assert all(lab.store.finished(one.key) for name, one in made.items() if name not in REASONS)


def test_ours_run_first_and_never_with_a_plugin_file(matrix):
    """What third parties leave behind in a process would be in everybody's numbers, and one that
    hangs before all of ours.
    """
    made, _, lab = matrix
    ours = [made[f"ours{number}"] for number in range(2)]
    assert set(lab.reporter.keys("started")[:2]) == {one.key for one in ours}
    assert all(seen(lab, one)["foreign"] == [] for one in ours)
    (loaded,) = seen(lab, made["fine"])["foreign"]
    assert loaded.startswith("castlewalls_plugin_fine")


def test_each_of_theirs_has_a_worker_of_its_own(matrix):
    made, _, lab = matrix
    theirs = [tuple(seen(lab, made[name])["pid"]) for name in ("fine", "seeds")]
    ours = {tuple(seen(lab, made[f"ours{number}"])["pid"]) for number in range(2)}
    assert len(set(theirs)) == 2 and ours.isdisjoint(theirs) and len(ours) <= 2


def test_the_global_generators_begin_alike_in_every_stage(matrix):
    """Whoever draws from them has at least the same numbers again, with any number of workers."""
    made, _, lab = matrix
    assert len({seen(lab, made[name])["drawn"] for name in ("fine", "ours0", "ours1")}) == 1
    assert seen(lab, made["seeds"])["drawn"] != seen(lab, made["fine"])["drawn"]


def test_a_changed_plugin_is_refused(lab, tmp_path):
    """Results of the new text would be kept under the old one's key."""
    one = theirs(tmp_path, "fine")
    path = tmp_path / "fine.py"
    path.write_text(path.read_text() + "\n# edited\n")
    (failure,) = run(lab, [one]).values()
    assert (
        failure.reason
        == f"{path} was changed after this run was planned; run the same command again"
    )


def test_a_plugin_whose_import_hangs_runs_out_of_time(lab, tmp_path):
    """The clock began only when the import was over."""
    path = tmp_path / "slow.py"
    path.write_text(TEXT.format(name="slow", call="pass", above="if WORKER: time.sleep(600)"))
    registry = Registry([path])
    source = (registry.source(registry.defense("slow")),)
    stages = [stage("slow", source, number) for number in range(3)] + [stage("none")]
    began = time.monotonic()
    failures = run(lab, stages, timeout=40, jobs=1)
    assert time.monotonic() - began < 100, "its other stages would each have waited as long again"
    late, *others = sorted(failure.reason for failure in failures.values())[::-1]
    assert late == "timed out after 40 s" and lab.store.finished(stages[-1].key)
    assert others == ["not begun: its plugin had run out of time in use tiny slow"] * 2
