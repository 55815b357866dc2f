"""Finding plugins: a broken or doubled one is named, never hidden and never the winner by accident."""

import importlib.metadata
import shutil
import sys
from importlib.metadata import EntryPoint

import pytest

import attacks
from bench import registry
from bench.errors import UserError
from bench.registry import Registry, family_of, kind_of, source_of


def test_the_controls_are_ordinary_plugins():
    found = Registry()
    assert "none" in found.names("attacks") and "none" in found.names("defenses")
    assert family_of(found.defense("none")) == "control"
    assert found.attack("none").card.name == "none"


def test_a_plugin_file_brings_every_family(fake_plugins):
    found = Registry([fake_plugins])
    families = {name: family_of(found.defense(name)) for name in ("fake_sampler", "fake_repair", "fake_invert")}
    assert families == {"fake_sampler": "sampler", "fake_repair": "model", "fake_invert": "inversion"}
    assert source_of(found.build("attacks", "fake_attack")) == fake_plugins.resolve()
    assert kind_of(found.get("attacks", "fake_attack")) == "attacks"


def test_name_and_params_rebuild_a_plugin(fake_plugins):
    found = Registry([fake_plugins])
    attack = found.build("attacks", "fake_attack", {"poison_rate": 0.3, "size": [2, 3]})
    assert found.build("attacks", "fake_attack", attack.params()) == attack


def test_a_name_claimed_twice_is_an_error(fake_plugins, tmp_path):
    copy = tmp_path / "copy.py"
    shutil.copy(fake_plugins, copy)
    with pytest.raises(UserError, match=r"two attacks are named 'fake_\w+': .*fake_plugins\.py and .*copy\.py"):
        Registry([fake_plugins, copy])


def test_a_built_in_file_given_as_a_plugin_is_no_duplicate():
    found = Registry()
    assert Registry([source_of(found.get("defenses", "none"))]).names("defenses") == found.names("defenses")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
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
    with pytest.raises(UserError, match=r"attacks/broken_attack\.py cannot be imported: ZeroDivisionError: division by zero"):
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
        ("json:dumps", "must be an attack class with a card"),
    ],
)
def test_a_broken_installed_package_is_named(monkeypatch, value, message):
    entry_point(monkeypatch, value)
    with pytest.raises(UserError, match=r"the plugin of their-package \(entry point castlewalls\.attacks: theirs\)") as caught:
        Registry()
    assert message in str(caught.value)


def test_use_chooses_the_registry_that_build_looks_in(fake_plugins):
    registry.use([fake_plugins])
    assert registry.build("attacks", "fake_attack").card.name == "fake_attack"
    registry.use()
    with pytest.raises(UserError, match="unknown attack 'fake_attack'"):
        registry.build("attacks", "fake_attack")
