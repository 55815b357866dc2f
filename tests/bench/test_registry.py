"""Finding plugins: a broken or doubled one is named, never hidden and never the winner by
accident.
"""

import importlib.metadata
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import attacks
from bench import plugin_file, registry
from bench.cards import Cards
from bench.errors import UserError
from bench.registry import Registry, family_of, group_of, source_of


def test_the_controls_are_ordinary_plugins():
    plugins = Registry()
    assert "none" in plugins.names("attacks") and "none" in plugins.names("defenses")
    assert family_of(plugins.defense("none")) == "control"
    assert plugins.attack("none").card.name == "none"


def test_a_plugin_file_brings_every_family(fake_plugins):
    plugins = Registry([fake_plugins])
    families = {
        name: family_of(plugins.defense(name))
        for name in ("fake_sampler", "fake_repair", "fake_invert")
    }
    assert families == {
        "fake_sampler": "sampler",
        "fake_repair": "model",
        "fake_invert": "inversion",
    }
    assert source_of(plugins.build("attacks", "fake_attack")) == fake_plugins.resolve()
    assert group_of(plugins.get("attacks", "fake_attack")) == "attacks"


def test_name_and_params_rebuild_a_plugin(fake_plugins):
    plugins = Registry([fake_plugins])
    attack = plugins.build("attacks", "fake_attack", {"poison_rate": 0.3, "size": [2, 3]})
    assert plugins.build("attacks", "fake_attack", attack.params()) == attack


def test_a_name_claimed_twice_is_an_error(fake_plugins, tmp_path):
    copy = tmp_path / "copy.py"
    shutil.copy(fake_plugins, copy)
    with pytest.raises(
        UserError, match=r"two attacks are named 'fake_\w+': .*fake_plugins\.py and .*copy\.py"
    ):
        Registry([fake_plugins, copy])


def test_a_built_in_file_given_as_a_plugin_is_no_duplicate():
    plugins = Registry()
    assert Registry([source_of(plugins.get("defenses", "none"))]).names(
        "defenses"
    ) == plugins.names("defenses")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_module",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("X = 1", "no class with a card in this file"),
        (None, "there is no such file"),
    ],
)
def test_a_plugin_file_that_does_not_work_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        Registry([path])
    assert str(caught.value).startswith(f"--plugin {path}") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_built_in_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_attack.py").write_text("1 / 0")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    with pytest.raises(
        UserError,
        match=r"attacks/broken_attack\.py cannot be imported: ZeroDivisionError: division by zero",
    ):
        Registry()


def test_a_plugin_in_the_wrong_folder_is_named(tmp_path, monkeypatch, fake_plugins):
    shutil.copy(fake_plugins, tmp_path / "misplaced.py")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    with pytest.raises(UserError, match=r"attacks/misplaced\.py: Fake\w+ belongs in defenses/"):
        Registry()
    sys.modules.pop("attacks.misplaced", None)


class Dist:
    name = "their-package"


def entry_point(monkeypatch, value, group="castlewalls.attacks"):
    entry = EntryPoint(name="theirs", value=value, group=group)
    vars(entry).update(dist=Dist())

    def entry_points(group):
        return [entry] if group == entry.group else []

    assert importlib.metadata.entry_points  # the function the registry uses
    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_an_installed_package_brings_plugins(monkeypatch, fake_plugins):
    Registry([fake_plugins])
    name = next(name for name in sys.modules if name.startswith("castlewalls_plugin_fake_plugins"))
    entry_point(monkeypatch, f"{name}:FakeAttack")
    assert "fake_attack" in Registry().names("attacks")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package:Attack", "cannot be imported: ModuleNotFoundError"),
        ("json:dumps", "it must be a plugin's class with a card"),
    ],
)
def test_a_broken_installed_package_is_named(monkeypatch, value, message):
    """Every run, list and show used to end, for suites that have nothing to do with it too."""
    entry_point(monkeypatch, value)
    plugins = Registry()
    assert plugins.attack("none").card.name == "none"
    with pytest.raises(
        UserError, match=r"the plugin of their-package \(entry point castlewalls\.attacks: theirs\)"
    ) as caught:
        plugins.attack("their_attack")
    assert message in str(caught.value) and "unknown attack 'their_attack'" in str(caught.value)


HEAD = """
from dataclasses import dataclass, field
from typing import Any, ClassVar
from bench.contracts.card import Card
from bench.contracts.defense import SamplerDefense

@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(0)", "cannot be imported: it ends the process (SystemExit: 0)"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "cannot be imported: Odd: x"),
        (
            "class Odd(Exception):\n    def __str__(self): raise RuntimeError\nraise Odd",
            "cannot be imported: Odd",
        ),
        (
            HEAD.replace('Card(name="mine", summary="for tests")', "dict(name='mine')"),
            "card must be a Card, got dict",
        ),
        (HEAD.replace('"mine"', '"none"'), "'none' is reserved for the controls"),
        (HEAD + "    size: float = float('nan')", "the default of size is nan"),
        (HEAD + "    size: Any = field(default=b'x')", "the default of size is b'x'"),
        (HEAD.replace("@dataclass(frozen=True, kw_only=True)", ""), "Mine must be a @dataclass"),
    ],
)
def test_a_plugin_file_that_breaks_the_contract_is_one_line(tmp_path, text, message):
    """Each of these was a traceback, or an exit code 0 with nothing done."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Registry([path])
    assert str(caught.value).startswith(f"--plugin {path}") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "    size: Any = field(default_factory=object)",
            "mine: parameters must be JSON values, and finite: size is <object object",
        ),
        ("    size: int = 1\n    def params(self): return {}", "must not define params()"),
    ],
)
def test_parameters_that_do_not_survive_json_are_refused(tmp_path, text, message):
    """A hidden parameter would give two columns the same numbers."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + text)
    with pytest.raises(UserError) as caught:
        Registry([path]).defense("mine")
    assert message in str(caught.value)


def test_a_slow_import_says_what_it_waits_for(tmp_path, monkeypatch):
    """A minute of silence looks like a run that hangs."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "import time; time.sleep(0.3)")
    messages = []
    monkeypatch.setattr(plugin_file, "tell", [messages.append])
    with plugin_file.saying("importing it", seconds=0.05):
        Registry([path])
    assert messages == ["importing it"]


def names(files):
    return sorted(Path(name).name for name in files)


def test_what_a_plugin_reads_belongs_to_it(tmp_path):
    """A package beside it, a table its text names, what it opens on import, what its card lists:
    else old numbers stand for new code.
    """
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").write_text("from helpers.inner import SCALE")
    (tmp_path / "helpers" / "inner.py").write_text("SCALE = 1")
    (tmp_path / "beside.py").write_text("import json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.npz").touch()
    (tmp_path / "w_opened.txt").write_text("1")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "w.bin").touch()
    (tmp_path / "scale.txt").touch()
    (tmp_path / "unrelated.txt").touch()
    path = tmp_path / "mine.py"
    path.write_text(
        "import sys; from pathlib import Path\nsys.path.insert(0, "
        "str(Path(__file__).parent))\nimport helpers\n"
        + HEAD.replace('tests")', 'tests", files=("listed",))')
        + (
            "    def stepped(self, x, timestep):\n        import beside\n        return x * "
            "float(open('scale.txt').read())\n"
        )
        + (
            "open(Path(__file__).parent / ('w_' + 'opened.txt')).read()\nTABLE = Path('data') / "
            "'table.npz'\n"
        )
    )
    plugins = Registry([path])
    source = plugins.source(plugins.defense("mine"))
    wanted = [
        "__init__.py",
        "beside.py",
        "inner.py",
        "mine.py",
        "scale.txt",
        "table.npz",
        "w.bin",
        "w_opened.txt",
    ]
    assert names(source.hashes) == wanted
    plugin_file.check(source.hashes)
    (tmp_path / "helpers" / "inner.py").write_text("SCALE = 2")
    with pytest.raises(UserError, match=r"inner\.py was changed after this run was planned"):
        plugin_file.check(source.hashes)
    sys.modules.pop("helpers"), sys.modules.pop("helpers.inner"), sys.path.remove(str(tmp_path))


def test_a_listed_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HEAD.replace('tests")', 'tests", files=("weights.bin",))'))
    plugins = Registry([path])
    with pytest.raises(
        UserError, match=r"its card's files must be there, and .*weights\.bin is not"
    ):
        plugins.source(plugins.defense("mine"))


@pytest.mark.parametrize("named", ["../secret.txt", "/", "~", "link", "links"])
def test_a_listed_file_elsewhere_is_refused(tmp_path, named):
    """It would travel with a bundle, and a stage would be shown it."""
    (tmp_path / "secret.txt").write_text("of somebody")
    own = tmp_path / "own"
    (own / "links").mkdir(parents=True)
    (own / "~").symlink_to(Path.home())
    (own / "link").symlink_to(tmp_path / "secret.txt")
    (own / "links" / "deep").symlink_to(tmp_path / "secret.txt")
    path = own / "mine.py"
    path.write_text(HEAD.replace('tests")', f'tests", files=({named!r},))'))
    plugins = Registry([path])
    with pytest.raises(
        UserError, match=r"mine\.py: its card's files must lie below its own folder"
    ):
        plugins.source(plugins.defense("mine"))


def test_a_link_out_of_the_folder_that_a_program_names_is_refused(tmp_path):
    """Its card was read with the file in sight, whatever it is and whoever's."""
    (tmp_path / "secret.txt").write_text("of somebody")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "table.txt").symlink_to(tmp_path / "secret.txt")
    path = tmp_path / "own" / "mine.py"
    path.write_text(f"{HEAD}TABLE = 'table.txt'\n")
    with pytest.raises(UserError, match=r"^table\.txt is a link that leads out of the plugin's"):
        plugin_file.belongings(path)
    with pytest.raises(UserError, match=r"table\.txt is a link that leads out"):
        Cards([path]).defense("mine")


def test_ours_have_no_source():
    plugins = Registry()
    assert plugins.source(plugins.defense("none")) is None


def test_use_chooses_the_registry_that_build_looks_in(fake_plugins):
    registry.use([fake_plugins])
    assert registry.build("attacks", "fake_attack").card.name == "fake_attack"
    registry.use()
    with pytest.raises(UserError, match="unknown attack 'fake_attack'"):
        registry.build("attacks", "fake_attack")
