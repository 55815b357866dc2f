"""A tiny suite's stages, run in this process in the plan's order: what the tests of stages and of
measurements look at.
"""

import ast
import cProfile
import gc
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import CodeType

import pytest

from bench import measurements, registry
from bench.artefacts.roles import MEASURED_BY
from bench.cells import Cell
from bench.engine.closure import DISPATCH, Symbol
from bench.engine.context import StageContext
from bench.engine.fingerprint import ROOT
from bench.engine.graph import Plan
from bench.measurements.measurement import Materials, Measured
from bench.planner import make_plan
from bench.record import Record
from bench.stages.building import testbed_of
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds.testbed import Testbed


@contextmanager
def watched(executed: set[CodeType]) -> Iterator[None]:
    """Notes the code of every Python function of ours that is called.

    By the profiler that is written in C: a function of Python's, called at each call and return,
    took longer than what it watched.
    """
    prefix, profiler = str(ROOT), cProfile.Profile(subcalls=False, builtins=False)
    profiler.enable()
    try:
        yield
    finally:
        profiler.disable()
        codes = (entry.code for entry in profiler.getstats())
        executed.update(
            code
            for code in codes
            if isinstance(code, CodeType) and code.co_filename.startswith(prefix)
        )


@cache
def symbol_of(code: CodeType) -> Symbol | None:
    """The module and the top-level definition that ``code`` is in; ``None`` for what runs while a
    module is imported, and for tests.
    """
    path = Path(code.co_filename).relative_to(ROOT)
    if (
        path.parts[0] not in ("bench", "attacks", "defenses", "detectors")
        or code.co_name == "<module>"
    ):
        return None
    for node in ast.parse((ROOT / path).read_text()).body:
        first = min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", []))])
        if first <= code.co_firstlineno <= (node.end_lineno or 0):
            names = (
                [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            )
            name = getattr(node, "name", "") or next(
                one.id for one in names if isinstance(one, ast.Name)
            )
            return ".".join(path.with_suffix("").parts).removesuffix(".__init__"), name
    return None


def import_all() -> None:
    """Every module of ours: what an import runs is no part of a stage."""
    for room in ("bench", "attacks", "defenses", "detectors"):
        for module in pkgutil.walk_packages([str(ROOT / room)], f"{room}."):
            if module.name != "bench.__main__" and not module.name.startswith("bench.cli"):
                importlib.import_module(module.name)


class Walk:
    """``plan``; ``folders``: key -> what its stage made. Classifiers learn for ``classifier_steps``
    only, everything in float32, which processors agree about. ``plugin_files``: with more plugins.
    ``whole``: every stage is run; else those that :meth:`make` is asked for.
    """

    plan: Plan

    def __init__(
        self,
        suite,
        folder: Path,
        classifier_steps: int | None = None,
        plugin_files=(),
        whole: bool = True,
    ) -> None:
        import_all()
        # A half-read generator of an earlier test's mistake would else be closed, and seen, here.
        gc.collect()
        plugins = registry.use(plugin_files)
        self.folder, self.folders = folder, {}
        self.executed: dict[str, set[CodeType]] = {}
        self.classifier_steps = classifier_steps
        with self.small():
            self.plan = make_plan(parse_suite(suite, plugins, "tiny.yaml"), plugins, STAGES)
        for key in self.plan.stages if whole else ():
            self.folders[key] = self.run(key)

    def make(self, key: str) -> Path:
        """The folder of a stage, which is run, and whatever it needs, unless it was."""
        for made in self.plan.stages[key].inputs.values():
            self.make(made)
        if key not in self.folders:
            self.folders[key] = self.run(key)
        return self.folders[key]

    @contextmanager
    def small(self) -> Iterator[None]:
        """The testbed's trainings as they are here."""
        training, classifying = Testbed.training_settings, Testbed.classifier_settings
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                Testbed,
                "training_settings",
                lambda testbed, scheme: replace(training(testbed, scheme), precision="float32"),
            )
            if self.classifier_steps is not None:
                short = {"steps": self.classifier_steps, "precision": "float32"}
                patched.setattr(
                    Testbed,
                    "classifier_settings",
                    lambda testbed: replace(classifying(testbed), **short),
                )
            yield

    def run(self, key: str, folder: Path | None = None, **replaced: Path) -> Path:
        """One stage once more, with other folders for some of its inputs; the folder it wrote."""
        stage = self.plan.stages[key]
        out = folder or self.folder / f"{len(list(self.folder.iterdir())):04}"
        out.mkdir(exist_ok=True)
        inputs = {
            role: replaced.get(role, self.folders.get(made)) for role, made in stage.inputs.items()
        }
        context = StageContext(key=key, provenance={"package": "test"})
        with self.small(), watched(self.executed.setdefault(key, set())):
            STAGES[stage.name].run(stage.params, inputs, out, context)
        return out

    def beyond_its_code(self, key: str) -> set[str]:
        """What a stage ran of ours that its key does not hold."""
        return {
            ":".join(symbol) for symbol in self.ran(key) - set(self.plan.stages[key].code.symbols)
        }

    def ran(self, key: str) -> set[Symbol]:
        """The definitions of ours that a stage ran."""
        return {
            symbol
            for symbol in map(symbol_of, self.executed[key])
            if symbol and symbol[0] not in DISPATCH
        }

    def cell(self, attack: str, defense: str, probe: str = "") -> Cell:
        return next(
            cell
            for cell in self.plan.cells
            if (cell.attack.name, cell.defense.name, cell.probe.name if cell.probe else "")
            == (attack, defense, probe)
        )

    def inputs(self, cell: Cell) -> dict[str, Path]:
        """The artefacts of a cell, role -> folder."""
        inputs = self.plan.stages[cell.stage].inputs
        return {
            role: self.folders[made]
            for role, made in inputs.items()
            if not role.startswith(MEASURED_BY)
        }

    def record(self, cell: Cell) -> Record:
        return Record.from_json((self.folders[cell.stage] / "record.json").read_text())

    def records(self) -> dict[tuple[str, str, str], Record]:
        """(attack, probe, defense) -> record."""
        return {
            (
                cell.attack.name,
                cell.probe.name if cell.probe else "",
                cell.defense.name,
            ): self.record(cell)
            for cell in self.plan.cells
            if cell.stage
        }

    def measured(self, name: str, cell: Cell, **replaced: Path) -> Measured:
        """A measurement of a cell, with other folders for some of its artefacts; ``call:`` roles
        without the colon.
        """
        planned = self.plan.stages[self.plan.stages[cell.stage].inputs[MEASURED_BY + name]]
        one = measurements.named(name)
        inputs = self.inputs(cell) | {
            role.replace("call_", "call:"): folder for role, folder in replaced.items()
        }
        testbed = testbed_of(planned.params)
        options = planned.params["options"]
        return one.measured(
            Materials(testbed=testbed, seed=cell.seed, inputs=one.taken(inputs), options=options)
        )
