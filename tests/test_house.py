"""The walls of the house (docs/design.md): what may import what, what no file may call, how long a
function may get, and which names say nothing.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import grimp
import pytest

from bench import measurements
from bench.artefacts.roles import CALL, GENERATED, MEASURED_BY, UNDEFENDED
from bench.contracts.attack import TrainingAttack
from bench.planner import FREE
from bench.registry import DETECTORS, FAMILIES, GROUPS, Registry
from bench.stages.table import STAGES
from science.pages import PAGES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("attacks", "bench", "defenses", "detectors", "leaderboard")
#: Run from a checkout alone.
UNINSTALLED = ("benchmarks", "science")
SOURCES = sorted(path for room in (*ROOMS, *UNINSTALLED) for path in (ROOT / room).rglob("*.py"))

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BANNED_CALLS = {"torch.load", "torch.save", "torch.hub.load", "pandas.read_pickle", "eval", "exec"}
BANNED_OPTIONS = {"allow_pickle", "trust_remote_code"}

#: Names that fit anything and say nothing.
DIALECT = {"found", "said", "told", "shown", "place"}
#: Where no name is one of them.
PLAIN = (
    *("bench", "leaderboard", "attacks", "defenses", "detectors"),
    *(*UNINSTALLED, "tests"),
)


def _python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _lint_imports(cwd: Path) -> subprocess.CompletedProcess[str]:
    return _python(
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))",
        cwd,
    )


def unsafe(code: str) -> Iterator[str]:
    """Everything in ``code`` that can run what it reads, as ``line: what``, whatever it was
    imported as.
    """
    tree = ast.parse(code)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            aliases |= {
                name.asname or name.name: f"{node.module}.{name.name}" for name in node.names
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [name.name for name in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            yield from (
                f"{node.lineno}: import {module}"
                for module in modules
                if module.partition(".")[0] in UNPICKLERS
            )
        elif isinstance(node, ast.Call):
            head, _, rest = ast.unparse(node.func).partition(".")
            called = ".".join(filter(None, (aliases.get(head, head), rest)))
            if called in BANNED_CALLS:
                yield f"{node.lineno}: {called}()"
            for option in node.keywords:
                if option.arg in BANNED_OPTIONS and ast.unparse(option.value) != "False":
                    yield f"{node.lineno}: {option.arg}={ast.unparse(option.value)}"


def test_imports_run_one_way() -> None:
    """A plugin could fit the metrics it can read; a board that needs torch could not be built where
    the records are read.
    """
    linted = _lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "0 broken" in linted.stdout


def test_no_two_modules_need_each_other() -> None:
    """A circle is one module in two files, and its lazy import hides which half works without the
    other.
    """
    graph = grimp.build_graph(*ROOMS, cache_dir=None)
    circles = [
        (module, other)
        for module in sorted(graph.modules)
        for other in sorted(graph.find_modules_directly_imported_by(module))
        if graph.chain_exists(importer=other, imported=module)
    ]
    assert circles == []


def test_every_wall_stops_somebody(tmp_path: Path) -> None:
    """A contract that nothing can break holds nothing: one trespass for each, and the linter names
    them all.
    """
    for path in SOURCES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    trespasses = {
        "bench/diffusion/schedule.py": "import bench.metrics",  # floors
        "attacks/baddiffusion.py": "import defenses.anp",  # rooms
        "defenses/anp.py": "import bench.testbeds.digits",  # plugins
        "bench/registry.py": "import attacks.baddiffusion",  # engine
        "leaderboard/aggregate.py": "import torch",  # board
        "leaderboard/names.py": "import science.findings",  # science
    }
    for file, line in trespasses.items():
        path = tmp_path / file
        path.write_text(f"{path.read_text()}\n{line}\n")
    linted = _lint_imports(tmp_path)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert "0 kept, 6 broken" in linted.stdout


@pytest.mark.parametrize("module", ["bench", "bench.record", "leaderboard.report"])
def test_the_board_is_built_without_torch(module: str) -> None:
    """A reader who has only the records would have to install 3 GB to see them; and every
    ``--help`` would take seconds.
    """
    imported = _python(
        f"import sys, {module}; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    assert imported.stdout.split() == ["False", "False"], imported.stdout + imported.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    """Some checkpoints here are hostile on purpose: reading one must not execute it. One file opens
    pickles: restricted to tensors, and in a process of its own, which is isolated.
    """
    code = path.read_text()
    if path != ROOT / "bench/importing/pickles_child.py":
        assert list(unsafe(code)) == []
        return
    (only,) = unsafe(code)
    assert only.endswith(": torch.load()")
    assert code.count("weights_only=True") == code.count("torch.load(") == 1


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.save(1, 'x')",
        "from torch import load as read\nread('x')",
        "import torch.hub\ntorch.hub.load('x', 'y')",
        "import pandas as pd\npd.read_pickle('x')",
        "eval('1')",
        "numpy.load('x', allow_pickle=True)",
        "numpy.load('x', allow_pickle=flag)",
        "Model.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_the_scan_sees_through_aliases(code: str) -> None:
    """A renamed import would carry an unpickler past the scan."""
    assert len(list(unsafe(code))) == 1


@pytest.mark.parametrize(
    "code",
    ["network.eval()", "safetensors.torch.load_file('x')", "numpy.load('x', allow_pickle=False)"],
)
def test_the_scan_leaves_safe_calls_alone(code: str) -> None:
    """``network.eval()`` switches dropout off and is everywhere."""
    assert list(unsafe(code)) == []


def test_the_engine_names_no_plugin() -> None:
    """With a method's name in the engine or the board there would be two ways to add one; a third
    party has only the first.
    """
    registry = Registry()
    plugins = {name for kind in GROUPS for name in registry.names(kind)} - {"none"}
    plugins -= set(get_args(get_type_hints(TrainingAttack)["scheme"]))  # a training's word, too
    assert {"baddiffusion", "anp"} <= plugins
    named = []
    rooms = [
        path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("bench", "leaderboard")
    ]
    for path in rooms:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value in plugins
            ):
                named.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert named == []


def test_the_engine_knows_nothing_of_what_it_runs() -> None:
    """A job engine that names a stage, an artefact or a family of defenses has a part in every
    change of them.
    """
    words = {
        *STAGES,
        *measurements.table(),
        *FAMILIES.values(),
        *DETECTORS.values(),
        *FREE,
        GENERATED,
        CALL,
        UNDEFENDED,
        MEASURED_BY,
    }
    words |= {"testbed", "attack", "probe", "defense", "detector", "control", "anchor", "what"}
    words -= {"record"}  # of an account: where the record of a cell lies
    named = []
    for path in sorted((ROOT / "bench" / "engine").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            word = (
                node.value
                if isinstance(node, ast.Constant)
                else node.attr
                if isinstance(node, ast.Attribute)
                else None
            )
            if isinstance(word, str) and word in words:
                named.append(f"{path.name}:{node.lineno}: {word}")
    assert named == []


def test_every_package_is_installed() -> None:
    """A folder missing from setup.cfg works in a checkout and fails for everyone who installs a
    wheel.
    """
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    packages = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for path in SOURCES
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] not in UNINSTALLED
    }
    assert listed == packages | {"bench.published", "bench.suites"}
    assert {path.parent for path in SOURCES} == {
        path.parent for path in SOURCES if path.name == "__init__.py"
    }


def test_prose_stays_narrow() -> None:
    """Two panes on a laptop hold 100 columns; only tables and what is generated are wider."""
    generated = {f"{page.name}.md" for page in PAGES}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    wide = [
        f"{page.name}:{number}"
        for page in pages
        if page.name not in generated
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100 and not line.lstrip().startswith("|")
    ]
    assert wide == []


def test_functions_stay_short() -> None:
    """Beyond 60 lines a function is two things, and nobody sees both at once."""
    long = {
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert sorted(long) == []


def dialect(tree: ast.AST) -> Iterator[str]:
    """Everything in ``tree`` that binds one of :data:`DIALECT`, as ``line: name``: variables and
    fields, parameters, functions, classes and what an import or a handler calls its own.
    """
    for node in ast.walk(tree):
        name: str | None = ""
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, (ast.arg, ast.alias)):
            name = node.arg if isinstance(node, ast.arg) else node.asname
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            name = node.name
        if (name or "").strip("_").lower() in DIALECT:
            yield f"{getattr(node, 'lineno', 0)}: {name}"


def test_no_name_is_dialect() -> None:
    """A reader cannot tell what ``found`` holds: a path, numbers by seed, flags or a plugin."""
    paths = [path for room in PLAIN for path in sorted((ROOT / room).rglob("*.py"))]
    named = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in dialect(ast.parse(path.read_text()))
    ]
    templates = (ROOT / "leaderboard" / "templates").glob("*.j2")
    bound = re.compile(r"{%-? *(?:for|set|macro) +([^%=]*?) *(?:in |=|%)")
    named += [
        f"{path.name}: {name}"
        for path in templates
        for names in bound.findall(path.read_text(encoding="utf-8"))
        for name in re.findall(r"\w+", names)
        if name in DIALECT
    ]
    assert len(paths) > 150 and named == []


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "x, (found, *y) = z",
        "self.told: int = 1",
        "[place for place in x]",
        "if (said := x): pass",
        "def f(*, shown=1): pass",
        "lambda *told: 0",
        "async def _said(): pass",
        "class Place: pass",
        "import x as found",
        "try: pass\nexcept E as found: pass",
        "match x:\n    case [*found]: pass",
    ],
)
def test_the_scan_of_names_sees_every_binding(code: str) -> None:
    assert len(list(dialect(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["held_out = 1", "f(place=1)", "x.found", "import found", "'said'"]
)
def test_the_scan_of_names_leaves_others_alone(code: str) -> None:
    """What another package calls its own is not ours to name."""
    assert list(dialect(ast.parse(code))) == []


def test_shipped_weights_stay_small() -> None:
    """A clone should not cost more than the code: 4 MiB for a testbed's weights, 12 MB for the
    Stable Diffusion, which has four parts.
    """
    folder = ROOT / "bench" / "testbeds" / "assets"
    assets = [path for path in folder.rglob("*") if path.is_file()]
    assert [
        path.name for path in assets if path.parent == folder and path.stat().st_size > 4 * 2**20
    ] == []
    assert sum(path.stat().st_size for path in assets if path.parent != folder) <= 12e6
    assert {path.suffix for path in assets} <= {
        ".safetensors",
        ".json",
        ".md",
        ".png",
        ".npz",
        ".txt",
        "",
    }
