"""What a result depends on, read from the code: nothing that decides it is missed, nothing else
throws it away.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.engine import closure
from bench.engine.closure import closure_of, closure_of_class, closure_of_function
from bench.engine.fingerprint import ROOT
from bench.measurements import table
from bench.registry import Registry
from bench.stages.table import STAGES
from bench.testbeds import TESTBEDS, load


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package ``ours`` and gives the hash of a function in it; nothing is
    imported.
    """
    monkeypatch.setattr(closure, "ROOT", tmp_path)
    monkeypatch.setattr(closure, "OURS", (f"{tmp_path / 'ours'}/",))

    def write(**modules):
        for cached in (closure.closure_of, closure._reached, closure._module, closure._file):
            cached.cache_clear()
        for name, text in {"__init__": "", **modules}.items():
            path = tmp_path / "ours" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for cached in (closure.closure_of, closure._reached, closure._module, closure._file):
        cached.cache_clear()


STAGE = """
from ours.helper import double
from ours import tables
import ours.unused as unused

def run(x: "Hint") -> int:
    from ours.late import shift
    return double(x) + tables.OFFSET + shift(x)

def other():
    return unused.THING
"""
MODULES = {
    "stage": STAGE,
    "helper": (
        "FACTOR = 2\n\ndef double(x):\n    return FACTOR * x\n\ndef treble(x):\n    return 3 * x\n"
    ),
    "tables": "OFFSET = 5\nUNUSED = 6\nLEAST = 0\n",
    "late": "from typing import Annotated\nfrom annotated_types import Ge\n"
    "from ours import tables\nfrom ours.base import Base\n\nclass Shift(Base):\n"
    "    summary = 'words'\n    step: Annotated[int, Ge(tables.LEAST)] = 1\n"
    "\ndef shift(x):\n    return Shift().by(x)\n",
    "base": "class Base:\n    def by(self, x):\n        return x + self.step\n",
    "unused": "THING = 1\n",
}


@pytest.mark.parametrize(
    ("module", "old", "new", "matters"),
    [
        ("helper", "FACTOR = 2", "FACTOR = 4", True),
        ("helper", "3 * x", "4 * x", False),
        ("tables", "OFFSET = 5", "OFFSET = 7", True),
        ("tables", "UNUSED = 6", "UNUSED = 7", False),
        ("late", "] = 1", "] = 2", True),
        ("late", "[int,", "[float,", True),
        ("late", "Ge(tables.LEAST)", "Gt(7)", False),
        ("late", "Annotated[int, Ge(tables.LEAST)]", "int", False),
        ("tables", "LEAST = 0", "LEAST = 1", False),
        ("late", "'words'", "'other words'", False),
        ("base", "x + self", "x - self", True),
        ("unused", "THING = 1", "THING = 2", False),
        ("stage", '"Hint"', '"Other"', False),
        ("stage", "def other():", "def renamed():", False),
        ("stage", "double(x) +", "double(x) -", True),
        ("stage", "    from ours.late", '    """Words."""\n    # why\n    from ours.late', False),
    ],
)
def test_a_result_is_kept_or_thrown_away_for_what_decides_it(package, module, old, new, matters):
    """Too narrow, old and new numbers stand in one matrix; too wide, an edited word trains every
    model anew.
    """
    package(**MODULES)
    before = closure_of((("ours.stage", "run"),)).hash
    assert old in MODULES[module]
    package(**MODULES | {module: MODULES[module].replace(old, new)})
    assert (closure_of((("ours.stage", "run"),)).hash != before) is matters


def test_a_start_that_does_not_exist_is_an_error(package):
    package(**MODULES)
    with pytest.raises(LookupError, match="there is no walk in ours.stage"):
        closure_of((("ours.stage", "walk"),))


def test_what_is_installed_beside_us_is_not_ours(package, tmp_path):
    """From a wheel, torch lies in the same folder: all of it would be read, and its version would
    be in no key.
    """
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("def array(x):\n    return x\n")
    package(
        stage=(
            "import numpy as np\nfrom numpy import array\n\ndef run(x):\n    return "
            "np.array(array(x))\n"
        )
    )
    reached = closure_of((("ours.stage", "run"),))
    assert set(reached.symbols) == {("ours.stage", "run")} and reached.packages == {"numpy"}


def test_where_a_strangers_files_lie_is_in_no_key(tmp_path):
    """The same plugin in another folder, or on another machine, is the same plugin; another text is
    not.
    """
    hashes = []
    for name, text in (("here", "X = 1\n"), ("there/below", "X = 1\n"), ("elsewhere", "X = 2\n")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "plugin.py").write_text(text)
        (folder / "helper.py").write_text("Y = 1\n")
        stranger = type("Stranger", (), {"__module__": "nowhere"})
        hashes.append(closure_of_class(stranger, [folder / "plugin.py", folder / "helper.py"]).hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_packages_are_those_the_code_imports():
    """A new scikit-learn may give other digits, a new transformers other texts: neither was in any
    key.
    """
    assert "scikit-learn" in closure_of_class(type(load("digits-ddpm").data)).packages
    assert "transformers" in closure_of_class(type(load("digits-sd").generator)).packages
    assert {"torch", "accelerate"} <= closure_of_function(STAGES["train"].run).packages
    assert "torch_fidelity" in closure_of_function(STAGES["features"].run).packages
    assert "scikit-learn" not in closure_of_function(STAGES["sample"].run).packages
    assert "annotated-types" not in closure_of_class(Registry().get("attacks", "wanet")).packages


def test_a_better_sentence_measures_nothing_again():
    """Words are for people, and would be worth an hour's run otherwise."""
    for one in table().values():
        symbols = closure_of_function(one.run).symbols
        assert symbols and not {name for module, name in symbols if name == "MEASUREMENT"}, one.name
        assert not {module for module, _ in symbols if module == "bench.words"}


def test_a_training_does_not_depend_on_how_it_is_judged():
    """A better metric, drawing or detector contract must not train anything again."""
    for name in ("train", "sample", "repair", "invert"):
        modules = {module for module, _ in closure_of_function(STAGES[name].run).symbols}
        assert not {
            m
            for m in modules
            if m.startswith(("bench.metrics", "bench.measurements", "bench.record", "leaderboard"))
        }
        assert not modules & {
            "bench.artwork.patterns",
            "bench.artwork.targets",
            "bench.artwork.triggers",
        }
    modules = {module for module, _ in closure_of_function(STAGES["train"].run).symbols}
    assert "bench.diffusion.sampling" not in modules


def test_what_is_measured_depends_on_the_rows_it_is_measured_on():
    """The key of a measurement held neither; TA and ASR of old rows stood beside those of new
    ones.
    """
    symbols = closure_of_function(table()["classifier_rates"].run).symbols
    assert {
        ("bench.artefacts.rows", "evaluation_sets"),
        ("bench.artefacts.classifiers", "load_classifier"),
    } <= set(symbols)


@pytest.mark.parametrize("name", TESTBEDS)
def test_a_part_of_a_testbed_is_no_other_part(name):
    """A better judge would train every generator anew, and so would a reader of other data."""
    testbed = load(name)
    symbols = {
        part_name: set(closure_of_class(type(part)).symbols)
        for part_name, part in testbed.parts().items()
    }
    for part_name, reached in symbols.items():
        cls = type(getattr(testbed, part_name))
        assert (cls.__module__, cls.__name__) in reached
    assert ("bench.diffusion.generator", "Generator") in symbols["generator"]
    assert ("bench.diffusion.generator", "Generator") not in symbols["data"]
    judging = {"bench.classification.classifier", "bench.classification.training"}
    for part_name in ("data", "generator", "sampler", "counts"):
        assert not {module for module, _ in symbols[part_name]} & judging


def test_the_same_code_has_the_same_closure_in_another_process():
    """Keys that follow the order of a set would throw everything away at random."""
    code = (
        "from bench.engine.closure import closure_of_function as f; from bench.stages.table "
        "import STAGES;"
        "print(f(STAGES['train'].run).hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True, timeout=120,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 1 and Path(ROOT / "bench").is_dir()
