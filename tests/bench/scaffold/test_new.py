"""``castlewalls new``: what it writes is real, clean and passes; what cannot be is refused."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import UserError
from bench.registry import DETECTORS, FAMILIES, GROUPS, SINGULAR, Registry, family_of
from bench.scaffold.new import check_name, write
from bench.scaffold.sorts import SORTS
from bench.testing import Check, checks_for

ROOT = Path(__file__).resolve().parents[3]
EVERY = [(group, sort) for group, sorts in SORTS.items() for sort in sorts]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each, as a package; the folder is named ``<group>_<sort>``."""
    folder = tmp_path_factory.mktemp("new")
    for group, sort in EVERY:
        write(group, f"{group}_{sort}", sort, folder)
    return folder


@pytest.fixture(scope="module")
def known(written: Path) -> Registry:
    return Registry(sorted(written.glob("*/castlewalls_*.py")))


def test_every_family_and_subject_can_be_written() -> None:
    """A family without a template is one whose author starts from a blank page."""
    assert set(SORTS) == set(SINGULAR.values())
    assert set(SORTS["defense"]) == set(FAMILIES.values())
    assert set(SORTS["detector"]) == {*DETECTORS, "samples"}


@pytest.mark.parametrize(("group", "sort"), EVERY)
def test_what_is_written_passes_its_own_checks(known: Registry, group: str, sort: str) -> None:
    plugin = known.build(GROUPS[[*SORTS].index(group)], f"{group}_{sort}")
    for check in checks_for(plugin):
        assert isinstance(check, Check)
        check(plugin)
    if group == "defense":
        assert family_of(plugin) == sort
    if group == "detector":
        assert sort in (*type(plugin).subjects, "samples")  # type: ignore[attr-defined]


@pytest.mark.parametrize("tool", ["ruff", "mypy"])
def test_what_is_written_is_clean_and_typed(written: Path, tool: str) -> None:
    """What an author's own linter says of our text is no work of his."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is among the tools of `make lint`")
    modules = [str(path) for path in sorted(written.glob("*/castlewalls_*.py"))]
    select = "E4,E7,E9,F,I,B,UP,W,D100,D101,D102,D103,ANN"
    commands = {
        "ruff": [["check", "--select", select, "."], ["format", "--check", "."]],
        # By our settings: diffusers says that it is typed, and is not.
        "mypy": [["--config-file", str(ROOT / "setup.cfg"), *modules]],
    }
    for arguments in commands[tool]:
        done = subprocess.run(
            [sys.executable, "-m", tool, *arguments],
            cwd=written,
            # What is known of torch is kept: half a minute, where `make lint` went before.
            env=os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_installs_and_its_own_test_passes(written: Path, tmp_path: Path) -> None:
    """As its README says: install, check by name, run the test."""
    folder, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(written / "detector_noise", folder)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(target), str(folder)],
        check=True,
        timeout=300,
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(target)])}
    for module, *arguments in (
        ("bench", "check", "detector_noise", "--timeout", "300"),
        ("pytest", "-q", "-p", "no:cacheprovider", str(folder)),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_a_package_needs_is_there(tmp_path: Path) -> None:
    write("attack", "attack_training", "training", tmp_path)
    folder = tmp_path / "attack_training"
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        "castlewalls_attack_training.py",
        "pyproject.toml",
        "test_attack_training.py",
    ]
    assert "@inproceedings{key" in (folder / "README.md").read_text()
    assert (
        'attack_training = "castlewalls_attack_training:AttackTraining"'
        in (folder / "pyproject.toml").read_text()
    )


def test_no_line_of_a_template_is_wide(tmp_path: Path) -> None:
    written = [
        path for group, sort in EVERY for path in write(group, f"{group}_{sort}", sort, tmp_path)
    ]
    wide = [
        f"{path.name}: {line}"
        for path in written
        for line in path.read_text().splitlines()
        if len(line) > 100
    ]
    assert wide == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2fast", "must be a Python identifier of at most 64 ASCII letters, got '2fast'"),
        ("clip more", "must be a Python identifier"),
        ("../clip", "must be a Python identifier"),
        ("é", "must be a Python identifier"),
        ("a" * 65, "of at most 64 ASCII letters"),
        ("none", "reserved for the controls"),
        ("class", "no keyword of Python"),
        ("_hidden", "not begin with _"),
        ("strip", "is named 'strip' already"),
    ],
)
def test_a_name_that_no_plugin_may_have_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_name(name, ["strip"])


@pytest.mark.parametrize("name", ["card", "sampler_defense", "tensor", "true", "paper"])
def test_a_class_does_not_hide_what_its_module_imports(name: str, tmp_path: Path) -> None:
    (path,) = write("defense", name, "sampler", tmp_path, single_file=True)
    assert Registry([path]).defense(name).card.name == name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="mine is there already"):
        write("defense", "mine", "sampler", tmp_path)
    with pytest.raises(UserError, match=r"other.py is there already"):
        write("defense", "other", "sampler", tmp_path, single_file=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other.py"]
    assert not any((tmp_path / "mine").iterdir())


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    arguments = ["new", "detector", "far_away", "--subject", "rows", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli, [*arguments, "--single-file"])
    path = tmp_path / "far_away.py"
    assert result.exit_code == 0 and result.stdout == f"{path}\n"
    assert result.stderr == f"next: castlewalls check {path}\n"
    again = CliRunner().invoke(cli, [*arguments, "--single-file"])
    assert again.exit_code == 2 and "nothing is overwritten" in again.stderr
    arguments[2] = "strip"
    assert "already" in CliRunner().invoke(cli, arguments).stderr


def test_an_unknown_family_is_told_with_those_there_are() -> None:
    result = CliRunner().invoke(cli, ["new", "defense", "mine", "--family", "smapler"])
    assert result.exit_code == 2 and "sampler" in result.stderr


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        write("defense", "mine", "sampler", tmp_path / "file" / "below")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
@pytest.mark.parametrize("options", [(), ("--single-file",)])
def test_a_full_disk_leaves_no_half_of_a_plugin(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Here the system lets no file grow beyond a kilobyte; the next try met its own remains."""
    command = ["new", "detector", "mine", "--subject", "rows", "--output", str(tmp_path), *options]
    full = ["bash", "-c", 'ulimit -f 1; exec "$@"', "-", sys.executable, "-m", "bench", *command]
    ended = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2 and "cannot be written: File too large" in ended.stderr
    assert "Traceback" not in ended.stderr and list(tmp_path.iterdir()) == []
    assert CliRunner().invoke(cli, command).exit_code == 0


@pytest.mark.parametrize("group", ["attack", "defense", "detector"])
def test_each_kind_has_help_with_examples(group: str) -> None:
    result = CliRunner().invoke(cli, ["new", group, "--help"])
    assert result.exit_code == 0 and f"castlewalls new {group}" in result.stdout
