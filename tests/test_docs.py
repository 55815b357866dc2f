"""The documents against the code: their commands parse, their example plugin runs, their links and
names lead somewhere.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import UNet2DModel

import bench
from bench import testbeds
from bench.checking import process
from bench.cli import cli
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample
from bench.errors import UserError
from bench.measurements.numbers import NOT_MEASURED
from bench.record import NOTE, REMARK
from bench.registry import GROUPS, Registry
from bench.results import read_results
from bench.runner import prepare
from bench.suite import load_suite, shipped_suites
from leaderboard.export import COLUMNS, to_json

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path: path.read_text() for path in DOCUMENTS}
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {
        line.partition("  #")[0].strip()
        for text in TEXTS.values()
        for block in CONSOLE.findall(text)
        for line in block.splitlines()
        if line.startswith("castlewalls ")
    }
)


def parse(arguments: list[str]) -> click.Context:
    """The context of ``castlewalls ARGUMENTS``: verb, options and arguments are checked, nothing is
    run.
    """
    command: click.Command = cli
    name = "castlewalls"
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_documented_command_parses(command: str) -> None:
    """A reader who pastes it would get "no such option"."""
    parse(shlex.split(command)[1:])


def test_a_misspelt_option_would_be_noticed() -> None:
    """Guards the check above: parsing must really look at the options."""
    assert len(COMMANDS) >= 10
    with pytest.raises(click.UsageError, match="defences"):
        parse(["run", "digits", "--defences", "none"])


def test_every_verb_is_documented() -> None:
    """A verb that the README leaves out is found by nobody."""
    assert isinstance(cli, click.Group)
    documented = {shlex.split(command)[1] for command in COMMANDS}
    assert set(cli.commands) <= documented


def test_every_plugin_testbed_and_suite_is_named() -> None:
    """The README says what is in the box; something added without a word is not found."""
    registry = Registry()
    names = (
        {name for kind in GROUPS for name in registry.names(kind)}
        | set(testbeds.names())
        | set(shipped_suites())
    )
    text = "\n".join(TEXTS.values())
    assert sorted(name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Relative links and pictures exist; anchors are headings of the page they point to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[document]):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (document.parent / file).resolve() if file else document
        assert linked.exists(), f"{document.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in slugs, f"{document.name} links to {target}, which has no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    """``make NAME`` in a document is a rule of the Makefile."""
    rules = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    rules |= {path.stem for path in (ROOT / "suites").glob("science-*.yaml")}
    for words in re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", TEXTS[document], re.MULTILINE):
        assert set(words.split()) <= rules, f"{document.name}: make {words}"


def test_one_version_everywhere() -> None:
    """A citation or a changelog of another version misleads."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == bench.__version__
    assert f"\n## {bench.__version__}" in TEXTS[ROOT / "CHANGELOG.md"]


def test_the_example_suite_loads(tmp_path: Path) -> None:
    """The README's YAML is what a reader starts from: every field and name in it is accepted, and
    its grid is expanded.
    """
    text, kinds = re.findall(
        r"^```yaml\n(.*?)^```", TEXTS[ROOT / "README.md"], re.MULTILINE | re.DOTALL
    )
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    suite = load_suite(str(path), Registry())
    assert [attack.params()["poison_rate"] for attack in suite.attacks] == [0.05, 0.1, 0.3]
    path.write_text(f"name: kinds\n{kinds}")
    both = load_suite(str(path), Registry())
    assert [
        [entry.card.name for entry in (*both.attacks, *both.defenses) if both.meets(entry, testbed)]  # type: ignore[union-attr]
        for testbed in ("digits-ddpm", "digits-cfg")
    ] == [["baddiffusion", "clip_x0", "anp"], ["badnets", "clip_x0"]]


@pytest.fixture(scope="module")
def tiny_generator() -> Generator:
    """A real diffusers network of a few hundred weights, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=2,
            add_attention=False,
        )
    return Generator(
        unet.eval(),
        {
            "num_train_timesteps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "beta_schedule": "linear",
        },
    )


WALKTHROUGH = (
    TEXTS[ROOT / "CONTRIBUTING.md"].partition("## Write a defense")[2].partition("\n## ")[0]
)


def blocks(language: str) -> list[str]:
    """Of CONTRIBUTING's walkthrough, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", WALKTHROUGH, re.MULTILINE | re.DOTALL)


@pytest.fixture
def walkthrough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CONTRIBUTING's example: begun by the command it begins with, and saved as it tells the reader
    to.
    """
    monkeypatch.chdir(tmp_path)
    begun = CliRunner().invoke(cli, shlex.split(blocks("console")[0])[1:])
    assert begun.exit_code == 0, begun.stderr
    path = tmp_path / "dynamic_threshold.py"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    path.write_text(blocks("python")[0])
    return path


def test_the_walkthrough_passes_the_check_it_tells_of(walkthrough: Path) -> None:
    """A newcomer whose first check fails blames himself."""
    assert "castlewalls check dynamic_threshold.py\n" in blocks("console")
    report = process.check(str(walkthrough), seconds=300)
    assert report.passed, report.to_json()


def test_the_walkthroughs_own_test_runs(walkthrough: Path) -> None:
    """The cases are those of both plugins; each is asked."""
    code, folder = blocks("python")[1], walkthrough.parent
    (folder / "test_it.py").write_text(f"from dynamic_threshold import DynamicThreshold\n{code}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and re.search(r"(2\d|1\d) passed", done.stdout), done.stdout


def test_the_walkthrough_is_found_and_rebuilt_from_json(walkthrough: Path) -> None:
    """The first thing a newcomer does is paste this file: it must register, and its parameters
    survive a record.
    """
    registry = Registry([walkthrough])
    plugin = registry.defense("dynamic_threshold", {"quantile": 0.8})
    assert registry.defense("dynamic_threshold", json.loads(json.dumps(plugin.params()))) == plugin
    with pytest.raises(UserError, match="quantile must be in .0, 1., got 1.5"):
        registry.defense("dynamic_threshold", {"quantile": 1.5})


def test_the_walkthrough_command_plans_its_column(walkthrough: Path) -> None:
    """`run digits --plugin FILE --defenses NAME`: the reader's defense meets every attack of the
    suite, beside the controls.
    """
    plan = prepare("digits", plugins=[walkthrough], defenses=["dynamic_threshold"], seeds=[0]).plan
    met = {(cell.attack.name, cell.defense.name) for cell in plan.cells if cell.probe is None}
    assert {("baddiffusion", "dynamic_threshold"), ("baddiffusion", "none")} <= met
    assert "clip_xt" not in {defense for _, defense in met}


def test_the_walkthrough_does_what_it_says(walkthrough: Path) -> None:
    """Clamps at the quantile of each image by itself and rescales; an image within [-1, 1] passes
    unchanged.
    """
    plugin = Registry([walkthrough]).defense("dynamic_threshold", {"quantile": 0.75})
    inside = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    outside = 4 * inside
    before = outside.clone()
    both = plugin.predicted_x0(torch.cat([inside, outside]), 10)
    torch.testing.assert_close(both[:1], inside)
    limit = outside.abs().flatten().quantile(0.75)
    torch.testing.assert_close(both[1:], outside.clamp(-limit, limit) / limit)
    assert both.abs().max() <= 1
    assert torch.equal(outside, before)


def test_the_walkthrough_runs_in_the_sampler(walkthrough: Path, tiny_generator: Generator) -> None:
    """It steps in at every step of the real sampler, whatever the batch size."""
    plugin = Registry([walkthrough]).defense("dynamic_threshold")
    settings = SamplerSettings(num_inference_steps=5)
    plain = sample(tiny_generator, 4, 0, settings)
    defended = sample(tiny_generator, 4, 0, settings, guards=[plugin])
    assert not torch.allclose(plain, defended)
    torch.testing.assert_close(
        sample(tiny_generator, 4, 0, settings, guards=[plugin], batch_size=3),
        defended,
        atol=1e-5,
        rtol=0,
    )


def test_the_measurement_that_is_shown_is_the_one_that_is_installed_and_run() -> None:
    """An example that nobody runs is wrong within a month."""
    text = TEXTS[ROOT / "CONTRIBUTING.md"]
    example = (
        text.partition("## Add a measurement")[2].partition("```python\n")[2].partition("```")[0]
    )
    assert example == (ROOT / "tests/guest/castlewalls_guest/measurement.py").read_text()


def first_column(text: str) -> list[str]:
    """The names in code in the first column of the tables of ``text``."""
    return re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE)))


def test_every_field_of_the_boards_files_is_explained() -> None:
    """Who reads the numbers by a program has this page and no other."""
    document = json.loads(to_json(read_results(ROOT / "results")))
    page = TEXTS[ROOT / "docs" / "data.md"]
    whole, _, csv_part = page.partition("## `report.csv`")
    explained = {
        title: set(first_column(text))
        for title, text in re.findall(
            r"^##+ (.*?)\n(.*?)(?=^##|\Z)", whole, re.MULTILINE | re.DOTALL
        )
    }
    records = [record for run in document["runs"] for record in run["records"]]
    written = {
        "`report.json`": [document],
        "A run": document["runs"],
        "A method": [method for run in document["runs"] for method in run["methods"]],
        "A record": records,
        "A metric": [metric for record in records for metric in record["metrics"].values()],
        "A published number": document["published"],
    }
    assert set(explained) == set(written)
    for title, objects in written.items():
        assert objects and explained[title] == {name for one in objects for name in one}, title
    assert f"`schema` is `{document['schema']}`." in whole
    assert sorted(first_column(csv_part)) == sorted(COLUMNS)


def test_every_code_of_a_flag_is_explained_once() -> None:
    """A reader selects by it; one that stands nowhere means what its writer thought of that day."""
    raised: set[str] = set()
    for path in [*(ROOT / "bench").rglob("*.py"), *(ROOT / "leaderboard").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        named = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        } | {"REMARK": REMARK, "NOTE": NOTE, "NOT_MEASURED": NOT_MEASURED}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Flag" and node.args:
                code = node.args[0]
                if isinstance(code, ast.Constant):
                    raised.add(str(code.value))
                elif isinstance(code, ast.Name):
                    raised.add(str(named[code.id]))
    section = TEXTS[ROOT / "docs" / "design.md"].split("| code | what it says |")[1]
    rows = re.findall(r"^  \| (`.*?) \|", section.split("- **Utility**")[0], re.MULTILINE)
    explained = [code for row in rows for code in re.findall(r"`([a-z-]+)`", row)]
    assert len(raised) > 20 and sorted(explained) == sorted(raised)
