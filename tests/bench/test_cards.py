"""A submitted plugin is read by a process of its own: whatever it does there, the process that
plans and writes the board is as it was, and says in one line what was wrong.
"""

import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import psutil
import pytest

import leaderboard.report
from bench import cards, plugin_file, registry
from bench.cards import Cards
from bench.engine import isolation, launch
from bench.engine.isolation import Support, support
from bench.errors import UserError
from bench.metrics import asr
from bench.registry import Registry

needs_namespaces = pytest.mark.skipif(
    not support().namespaces, reason=f"plugins run {support().words}"
)
HEAD = """
import json, os, signal, socket, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from bench.plugin import Card, Inversion, ModelDefense, SamplerDefense, TrainingAttack
"""
MINE = """
@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
    size: float = 1.0
"""


def plugin(folder: Path, text: str, mine: str = MINE) -> Path:
    path = folder / "mine.py"
    path.write_text(HEAD + text + mine)
    return path


def refusal(path: Path) -> str:
    """The one line that its cards are refused with."""
    before = children()
    with pytest.raises(UserError) as caught:
        Cards([path]).defense("mine")
    assert children() == before, "no process is left"
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def children() -> set[int]:
    """The processes below this one, but for the server that outlives those it forks."""
    server = launch._launcher().server
    kept = set() if server is None else {server.process.pid}
    return {one.pid for one in psutil.Process().children(recursive=True)} - kept


def test_it_is_planned_with_as_if_it_had_been_imported_and_is_not(fake_plugins):
    modules, before = set(sys.modules), children()
    there, here = Cards([fake_plugins]), Registry([fake_plugins])
    try:
        attack = there.build("attacks", "fake_attack", {"poison_rate": 0.3, "size": [2, 3]})
        assert attack.params() == here.build("attacks", "fake_attack", attack.params()).params()
        assert there.build("attacks", "fake_attack", attack.params()) == attack
        for group in ("attacks", "defenses", "detectors"):
            assert there.names(group) == here.names(group)
        of = [one.source(one.defense("fake_repair")) for one in (there, here)]
        assert of[0] == of[1] and of[0] is not None
        with pytest.raises(UserError, match="poison_rate must be in"):
            there.build("attacks", "fake_attack", {"poison_rate": 3})
        there.close()
        assert there.build("attacks", "fake_attack", {"poison_rate": 0.5}).label(), "starts again"
    finally:
        there.close()
    assert children() == before
    new = {name for name in set(sys.modules) - modules if "fake_plugins" in name}
    assert all(name.startswith("castlewalls_plugin_fake_plugins") for name in new), "the registry's"


PATCHES = """
import leaderboard.report, bench.metrics.asr, bench.cards
leaderboard.report.build = bench.metrics.asr.success_rate = bench.cards.stand_in = None
os.environ["PLANTED"] = "1"
"""
LEAVES = """
import importlib.util, bench.metrics.asr as asr
kept = []
for path in (importlib.util.cache_from_source(asr.__file__), asr.__file__, FOLDER + "/new.py"):
    try:
        with open(path, "ab") as file:
            kept.append(path)
    except OSError:
        pass
assert not kept, kept
"""
REACHES = """
kept = [name for name in os.listdir("/proc") if name.isdigit()]
assert len(kept) < 8, kept
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    assert error.errno == 101, error
names = (".secret/key", ".netrc", "/".join(("store", "stages", "x")))
seen = [name for name in names if Path(FOLDER, name).exists()]
assert not [name for name in seen if Path(FOLDER, name).stat().st_size], seen
assert "MY_TOKEN" not in os.environ
beside = Path(FOLDER, "beside" + ".txt").read_text()
assert beside == "beside", beside
"""


@needs_namespaces
def test_nothing_it_does_on_import_reaches_anybody(tmp_path, monkeypatch):
    before = leaderboard.report.build, asr.success_rate, cards.stand_in, dict(os.environ)
    for name in (".secret", "store/stages"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".secret/key", ".netrc", "store/stages/x"):
        (tmp_path / name).write_text("secret")
    (tmp_path / "beside.txt").write_text("beside")
    monkeypatch.setenv("MY_TOKEN", "secret")
    text = f"FOLDER = {str(tmp_path)!r}\n" + PATCHES + LEAVES + REACHES
    read = Cards([plugin(tmp_path, text)])
    source = read.source(read.defense("mine"))
    read.close()
    monkeypatch.undo()
    assert (leaderboard.report.build, asr.success_rate, cards.stand_in, dict(os.environ)) == before
    assert source is not None
    assert sorted(Path(name).name for name in source.hashes) == ["beside.txt", "mine.py"]


ANSWER = """
for number in range(3, 32):
    try:
        if os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
            os.write(number, TEXT)
    except OSError:
        pass
time.sleep(600)
"""
SAYING = {
    "import no_such_module": "--plugin FILE cannot be imported: ModuleNotFoundError: No module",
    "sys.exit(0)": "--plugin FILE cannot be imported: it ends the process (SystemExit: 0)",
    "os._exit(0)": "--plugin FILE cannot be imported: it ends the process (exit code 0)",
    "os.kill(os.getpid(), signal.SIGSEGV)": "it ends the process (signal 11)",
    "raise KeyboardInterrupt": "--plugin FILE cannot be imported: KeyboardInterrupt",
    f"TEXT = b'rubbish' + bytes([10]){ANSWER}": "it must answer in JSON, got b'rubbish'",
    f"TEXT = b'[' * 9999 + bytes([10]){ANSWER}": "it must answer in JSON, got b'[[",
    f"TEXT = b'x' * 2**23{ANSWER}": "cannot be imported: it says more than 4 MB",
    f'TEXT = b\'\'\'{{"answer": {{"opened": ["/etc/passwd"], "classes": []}}}}\n\'\'\'{ANSWER}': (
        "--plugin FILE: a file that it opens must lie in its folder, got '/etc/passwd'"
    ),
    f"TEXT = b'''{{\"answer\": {{\"opened\": [], \"classes\": [{{}}]}}}}\n'''{ANSWER}": (
        "--plugin FILE: a plugin: "
    ),
}


@pytest.mark.parametrize("text", SAYING)
def test_what_it_cannot_be_is_one_line(tmp_path, text):
    message = refusal(plugin(tmp_path, text))
    assert SAYING[text] in message, message


@needs_namespaces
def test_whoever_started_it_cannot_be_killed(tmp_path):
    text = "[os.kill(pid, signal.SIGKILL) for pid in (os.getppid(), 1)]\nassert os.getppid() == 1"
    read = Cards([plugin(tmp_path, text)])
    assert read.defense("mine").params() == {"size": 1.0}
    read.close()


@pytest.mark.parametrize("text", ["time.sleep(600)", "os.fork() or os.setsid()\ntime.sleep(600)"])
def test_an_import_that_never_ends_is_one_line_and_leaves_no_process(tmp_path, monkeypatch, text):
    monkeypatch.setattr(cards, "IMPORT_SECONDS", 1.5)
    messages = []
    monkeypatch.setattr(plugin_file, "tell", [messages.append])
    message = refusal(plugin(tmp_path, text))
    assert "FILE cannot be imported: it took longer than 1.5 s" in message


def test_one_that_takes_too_much_is_one_line(tmp_path, monkeypatch):
    small = isolation.Limits(memory=2**30, disk=2**26, scratch=2**26, processes=8)
    monkeypatch.setattr(cards, "READING", small)
    text = "[os.fork() for _ in range(4)]\ntime.sleep(60)"
    assert "cannot be imported: it takes more than 8 processes" in refusal(plugin(tmp_path, text))


LATE = """
@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
    size: float = 1.0

    def uses(self):
        {act}
"""


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("os._exit(3)", "--plugin FILE: asked what it is, it ends the process (exit code 3)"),
        ("raise OSError('no')", "defense mine: OSError: no"),
        ("raise ValueError()", "defense mine: ValueError"),
        ("sys.exit(3)", "defense mine: it ends the process (SystemExit: 3)"),
        ("return 1", "'int' object has no attribute 'card'"),
        ("time.sleep(600)", "--plugin FILE: asked what it is, it took longer than 1.5 s"),
    ],
)
def test_what_an_instance_does_is_one_line(tmp_path, monkeypatch, act, message):
    monkeypatch.setattr(cards, "ANSWER_SECONDS", 1.5)
    path = plugin(tmp_path, "", LATE.format(act=act))
    with pytest.raises(UserError) as caught:
        Cards([path]).defense("mine")
    assert message in str(caught.value).replace(str(path), "FILE")
    assert "\n" not in str(caught.value)


TWICE = """
@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
    size: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "size", 2 * self.size)
"""


def test_what_changes_its_own_parameters_is_refused(tmp_path):
    """The plan had a size of 2, and every process that builds it from that a size of 4."""
    with pytest.raises(UserError, match="defense mine: __post_init__ must leave .* as they are"):
        Cards([plugin(tmp_path, "", TWICE)]).defense("mine")


def test_without_namespaces_a_process_of_its_own_and_limits_remain(tmp_path, monkeypatch):
    only = Support(False, "not isolated")
    for module in (isolation, cards):
        monkeypatch.setattr(module, "support", lambda: only)
    before = leaderboard.report.build
    read = Cards([plugin(tmp_path, PATCHES)])
    assert read.defense("mine").params() == {"size": 1.0}
    read.close()
    assert leaderboard.report.build is before
    monkeypatch.setattr(cards, "IMPORT_SECONDS", 1.5)
    assert "it took longer" in refusal(
        plugin(tmp_path, "os.fork() or os.setsid()\ntime.sleep(600)")
    )


@pytest.mark.parametrize("edited", [False, True], ids=["installed", "to-be-edited"])
def test_an_installed_package_is_read_the_same_way(tmp_path, tmp_path_factory, monkeypatch, edited):
    """A broken one is remembered, and is no reason for another's suite to end. One that is
    installed to be edited (``pip install -e``) lies outside every folder of the path.
    """
    folder = tmp_path / "theirs"
    if edited:
        folder.symlink_to(tmp_path_factory.mktemp("checkout"))
    else:
        folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "good.py").write_text(HEAD + PATCHES + MINE)
    (folder / "ends.py").write_text("import os; os._exit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [
        EntryPoint(name=name, value=f"theirs.{name}", group="castlewalls.defenses")
        for name in ("ends", "good")
    ]
    assert importlib.metadata.entry_points
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [one for one in entries if one.group == group]
    )
    before = leaderboard.report.build
    read = Cards()
    mine = read.defense("mine")
    read.close()
    assert mine.label() == "mine" and not any(name.startswith("theirs") for name in sys.modules)
    assert leaderboard.report.build is before
    source = read.source(mine)
    assert source is not None and (source.group, source.name) == ("castlewalls.defenses", "good")
    assert sorted(Path(name).name for name in source.hashes) == [
        "__init__.py",
        "ends.py",
        "good.py",
    ]
    assert len(read.broken) == 1 and "cannot be imported: it ends the process" in read.broken[0]


@needs_namespaces
def test_the_command_says_one_line_and_ends_with_2(tmp_path):
    text = "import leaderboard.report\nleaderboard.report.build = None\nos._exit(0)"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "plan", "digits", "--plugin", plugin(tmp_path, text)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stderr.splitlines() if "importing" not in line]
    assert done.returncode == 2 and done.stdout == ""
    assert len(lines) == 1 and lines[0].endswith("it ends the process (exit code 0)"), lines


def test_one_that_cannot_be_started_says_why(tmp_path, monkeypatch):
    ends = [sys.executable, "-c", "import sys; sys.exit('no isolation: no room')"]
    monkeypatch.setattr(launch, "CLONE", None)  # no fork server
    monkeypatch.setattr(launch, "guard", lambda: ends)
    message = refusal(plugin(tmp_path, ""))
    assert message == (
        "--plugin FILE cannot be imported: it ends the process (exit code 1: no isolation: no room)"
    )
