"""``castlewalls check``: what a plugin does to its process is a verdict, and the command lives."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner

from bench.checking import process
from bench.checking.conduct import reaching_out
from bench.checking.inside import imported
from bench.checking.process import Report
from bench.checking.verdict import Verdict
from bench.cli import cli
from bench.engine.isolation import support
from bench.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
#: Generous: the machine that runs the tests is busy.
SECONDS = 300.0
PLUGIN = """
import os, signal, sys, time
from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import Card, SamplerDefense

{before}


@dataclass(frozen=True, kw_only=True)
class Tried(SamplerDefense):
    card: ClassVar[Card] = Card(name="tried", summary="for tests", tuned=())
    strength: float = 1.0

    def stepped(self, x, timestep):
        {does}
        return x
"""


def written(folder: Path, does: str = "pass", before: str = "") -> Path:
    path = folder / "tried.py"
    path.write_text(PLUGIN.format(does=does, before=before))
    return path


def ended(report: Report) -> Verdict:
    """The last verdict: how the process ended."""
    (plugin,) = report.plugins
    assert plugin.verdicts[-1].check == "runs_to_the_end"
    return plugin.verdicts[-1]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[Any]]:
    """A report of a plugin without faults, and what was called while it was made."""
    calls: list[Any] = []
    report = process.check(
        str(written(tmp_path_factory.mktemp("passed"))),
        seconds=SECONDS,
        on_plugin=calls.append,
        on_verdict=calls.append,
    )
    return report, calls


def test_a_plugin_that_keeps_its_contract_passes(passed: tuple[Report, list[Any]]) -> None:
    report, calls = passed
    assert report.passed, [verdict for verdict in report.plugins[0].verdicts if verdict.failed]
    (plugin,) = report.plugins
    assert (plugin.name, plugin.group, plugin.family) == ("tried", "defense", "sampler")
    names = [verdict.check for verdict in plugin.verdicts]
    assert names[:2] == ["imports", "constructs"] and names[-1] == "runs_to_the_end"
    assert {"parameters_survive_json", "sampling_is_repeatable", "effect_is_measured"} <= set(names)
    assert calls == [plugin, *plugin.verdicts]
    assert 0 < report.seconds < SECONDS and report.peak_memory > 2**27


FORGED = """
import json
frame = sys._getframe()
while "request" not in frame.f_locals:
    frame = frame.f_back
request = frame.f_locals["request"]
for message in {messages}:
    os.write(request["descriptor"], json.dumps({{"token": request["token"], **message}}).encode())
    os.write(request["descriptor"], b"\\n")
"""


def test_messages_of_its_own_that_make_no_sense_are_a_verdict(tmp_path: Path) -> None:
    """A plugin can find the token of its process: a traceback of ours was the answer."""
    forged = {"check": "x", "title": "x", "status": "great"}
    messages = [
        {"plugin": {"name": 3}}, {"plugin": {"name": "x", "colour": "red"}}, {"plugin": []},
        {"verdict": 7}, {"verdict": forged}, {"verdict": {"check": "x", "title": ["x"]}},
        {"check": "x"}, {"ended": "soon"}, {"finished": True, "seconds": "long", "peak": 1},
        {"finished": True, "seconds": 1, "peak": None}, {"ready": True},
    ]  # fmt: skip
    before = FORGED.format(messages=[*messages, {"finished": True, "seconds": 0.5, "peak": -1}])
    report = process.check(str(written(tmp_path, before=before)), seconds=SECONDS)
    assert ended(report).failed and "nothing on descriptors" in ended(report).message
    assert [verdict.check for verdict in report.plugins[0].verdicts][:2] == [
        "imports",
        "constructs",
    ]


def test_the_report_is_json(passed: tuple[Report, list[Any]]) -> None:
    values = json.loads(json.dumps(passed[0].to_json(), allow_nan=False))
    assert values["passed"] is values["plugins"][0]["passed"] is True
    assert Verdict.from_json(values["plugins"][0]["verdicts"][0]).check == "imports"


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("os._exit(0)", "a process that lives to the end, got exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "got signal 11"),
        ("os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)", "got signal 9"),
        ("os.closerange(0, 64)", "lives to the end"),
        ("[os.write(fd, b'{}\\n') for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')"
         " and 'pipe' in os.readlink(f'/proc/self/fd/{fd}')]", "nothing on descriptors"),
        ("print('x' * 2**20)", "at most 1 MB of output"),
    ],
    ids=["exit", "segfault", "kill-parent", "close", "forge", "print"],
)  # fmt: skip
def test_how_a_plugin_ends_its_process_is_a_verdict(
    tmp_path: Path, does: str, message: str
) -> None:
    """And this process, which is the plugin's grandparent, is still here to say so."""
    verdict = ended(process.check(str(written(tmp_path, does)), seconds=SECONDS))
    assert verdict.failed and message in verdict.message and verdict.mend, verdict
    if "lives" in message:
        assert "while this was checked: " in verdict.message


def test_results_that_are_not_as_declared_are_said_once(tmp_path: Path) -> None:
    """One mistake failed four checks, some with an error of the check's own."""
    (plugin,) = process.check(str(written(tmp_path, "return (x,)")), seconds=SECONDS).plugins
    failed = [one for one in plugin.verdicts if one.failed]
    assert [one.check for one in failed] == ["results_are_as_declared"]
    asked = {one.check: one.status for one in plugin.verdicts}
    assert asked["sampler_steps_are_of_their_row"] == asked["effect_is_measured"] == "not measured"
    assert asked["a_sampler_defense_steps_in"] == asked["it_keeps_to_itself"] == "ok"


def test_a_plugin_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """A child in a session of its own is not in the group that is killed."""
    word = tmp_path.name
    seen: list[int] = []
    with _watching(word, seen):
        report = process.check(str(written(tmp_path, _starts(word))), seconds=20)
    assert "an end within 20 s, got none while this was checked" in ended(report).message
    assert seen and not report.passed
    _assert_gone(word)


def test_what_a_busy_machine_took_is_not_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that would have passed alone must not fail beside other work; nor may a plugin get
    all the time it likes by keeping the machine busy.
    """
    now, waited = 0.0, 0.0
    monkeypatch.setattr(process.time, "monotonic", lambda: now)
    monkeypatch.setattr(process, "_waited", lambda pid: waited)
    monkeypatch.setattr(process, "_memory", lambda pid, enough: 0)
    child: Any = SimpleNamespace(process=SimpleNamespace(pid=1))
    talk = process._Conversation(child, 10.0, 100, lambda one: None, lambda one: None)
    talk._understand({"ready": True})
    now = 10.5
    assert talk._limit_reached() == "an end within 10 s, got none"
    waited = 1.0
    assert talk._limit_reached() == ""
    waited, now = 1000.0, 49.0
    assert talk._limit_reached() == ""
    now = 51.0
    assert talk._limit_reached() != ""


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="the system does not tell")
def test_waiting_for_a_core_is_told_from_waiting() -> None:
    """Two that share one core wait for it about half of the time; one that sleeps does not."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    asleep = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(4)
        assert process._waited(busy[0].pid) > 0.5 > process._waited(asleep.pid)
    finally:
        for one in (*busy, asleep):
            one.kill()
            one.wait()
    assert process._waited(busy[0].pid) == 0, "and of one that is gone nothing is known"


def _starts(word: str) -> str:
    """What starts a process that outlives its parent, and whose command holds ``word``."""
    return (
        f"import subprocess; subprocess.Popen([sys.executable, '-c', "
        f"'import time; time.sleep(600)  # {word}'], start_new_session=True); time.sleep(600)"
    )


def _called(word: str) -> list[int]:
    """The processes with ``word`` in their command; the check's own are in other namespaces."""
    return [
        one.pid
        for one in psutil.process_iter(["cmdline", "status"])
        if one.info["status"] != psutil.STATUS_ZOMBIE
        and any("time.sleep" in part and word in part for part in one.info["cmdline"] or ())
    ]


@contextmanager
def _watching(word: str, seen: list[int]) -> Iterator[None]:
    """Looks for such processes while the block runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            seen.extend(_called(word))

    looking = threading.Thread(target=look)
    looking.start()
    yield
    over.set()
    looking.join()


def _assert_gone(word: str) -> None:
    deadline = time.monotonic() + 200
    while _called(word) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _called(word)


@pytest.mark.skipif(not support().namespaces, reason="the system has no namespaces for a user")
def test_a_strangers_plugin_sees_no_file_of_its_users_and_no_network(tmp_path: Path) -> None:
    """To check a file is the first thing that one does with it."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = tmp_path / "theirs"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = written(folder, "pass")
        looks = f"""
import os, socket
SEEN = [os.path.exists({str(secret)!r}), os.path.exists({str(Path.home() / ".ssh")!r})]
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5)
    SEEN.append(True)
except OSError:
    SEEN.append(False)
raise ValueError(f"seen: {{SEEN}}")
"""
        path.write_text(looks + path.read_text())
        (verdict, *_) = process.check(str(path), seconds=SECONDS).plugins[0].verdicts
    assert verdict.failed and "seen: [False, False, False]" in verdict.message


def test_memory_without_end_is_refused(tmp_path: Path) -> None:
    does = "globals().setdefault('hold', []).extend(torch.ones(2**24) for _ in range(1000))"
    report = process.check(str(written(tmp_path, does)), seconds=SECONDS, memory_mb=2048)
    failed = [verdict for verdict in report.plugins[0].verdicts if verdict.failed]
    words = " ".join(verdict.message for verdict in failed)
    assert failed and ("memory" in words or "MemoryError" in words)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is shared")
def test_a_forked_childs_shared_memory_counts_once() -> None:
    """A plugin that forks was told that it takes too much memory, which it does not."""
    code = (
        "import os, time; hold = b'x' * 2**27\n"
        "for _ in range(8): os.fork() or time.sleep(600)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
        assert process._memory(parent, 2**40) > 2**30
        assert 2**27 < process._memory(parent, 2**28) < 2**28
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("sys.exit('usage: ...')", "it ends the process (SystemExit: usage: ...)"),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("torch.set_default_dtype(torch.float64)", "default dtype"),
        ("torch.randn(1)", "global random state of torch"),
    ],
)
def test_an_import_with_consequences_is_a_verdict(
    tmp_path: Path, before: str, message: str
) -> None:
    verdict = imported(written(tmp_path, before=before))
    verdict = verdict if isinstance(verdict, Verdict) else verdict[1]
    assert verdict.check == "imports" and verdict.failed and message in verdict.message
    assert torch.get_default_dtype() == torch.float32


def test_a_default_that_is_no_json_is_a_verdict(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("= 1.0", "= float('nan')"))
    report = process.check(str(path), seconds=SECONDS)
    words = " ".join(verdict.message for verdict in report.plugins[0].verdicts)
    assert not report.passed and "finite" in words


def test_an_error_of_the_constructor_is_a_verdict(tmp_path: Path) -> None:
    """The process died, and nobody knew of what."""
    path = written(tmp_path)
    path.write_text(path.read_text() + "\n    def __post_init__(self):\n        1 / 0\n")
    report = process.check(str(path), seconds=SECONDS)
    failed = [one for one in report.plugins[0].verdicts if one.failed]
    assert failed[0].check == "constructs" and "ZeroDivisionError" in failed[0].message


def test_a_module_in_the_folder_it_is_started_in_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A json.py beside the plugin ran before anything was isolated, as the user himself."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/json.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n"
    )
    monkeypatch.chdir(tmp_path / "here")
    assert process.check(str(written(tmp_path)), seconds=SECONDS).plugins
    assert not (tmp_path / "ran").exists()


# --- what is named --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nowhere.py", "there is no such file"),
        ("some/where", "there is no such file"),
        ("/dev/null", "it must be a plain file, and is none"),
        ("notes.txt", "must be a Python file"),
        (".", "a folder must hold one module, got 0"),
    ],
)
def test_what_is_no_plugin_file_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=message):
        process.file_of(named)


def test_a_folder_with_one_module_is_that_module(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "test_tried.py").write_text("")
    assert process.file_of(str(tmp_path)) == path.resolve()
    assert process.file_of("strip") is None


def test_an_unknown_name_suggests_the_nearest_and_a_wrong_parameter_is_named() -> None:
    with pytest.raises(UserError, match="'strip'"):
        process.check("stripp", seconds=SECONDS)
    with pytest.raises(UserError, match="overlays must be"):
        process.check("strip", {"overlays": 0}, seconds=SECONDS)


def test_limits_must_be_positive() -> None:
    with pytest.raises(UserError, match="must be above 0 and at most .* got 0 seconds"):
        process.check("strip", seconds=0)


# --- the command ----------------------------------------------------------------------------------


def _report(*verdicts: Verdict) -> Report:
    one = process.Checked("tried", "defense", "sampler", "tried", "tried.py", list(verdicts))
    return Report([one], seconds=3.2, peak_memory=2**29)


OK = Verdict(check="imports", title="it is imported")
BROKEN = Verdict(
    check="a", title="same seed", status="failed", message="expected a, got \x1b[2Jb", mend="do c"
)


@pytest.mark.parametrize(("verdicts", "code"), [((OK,), 0), ((OK, BROKEN), 1)])
def test_the_command_shows_each_verdict_and_exits_by_them(
    monkeypatch: pytest.MonkeyPatch, verdicts: tuple[Verdict, ...], code: int
) -> None:
    def fake(
        name: str, params: Any, on_plugin: Any = None, on_verdict: Any = None, **_: Any
    ) -> Any:
        report = _report(*verdicts)
        if on_plugin is not None:
            on_plugin(report.plugins[0])
            for verdict in verdicts:
                on_verdict(verdict)
        return report

    monkeypatch.setattr(process, "check", fake)
    result = CliRunner().invoke(cli, ["check", "tried.py"])
    assert result.exit_code == code
    assert result.stdout.startswith(
        "tried: sampler defense, tried.py\n  ok            it is imported"
    )
    if code:
        assert "FAILED        same seed\n" in result.stdout and "to mend it: do c" in result.stdout
        assert "\x1b" not in result.stdout and "1 of 2 checks failed in 3 s" in result.stdout
    else:
        assert "all 1 checks passed" in result.stdout
    as_json = CliRunner().invoke(cli, ["check", "tried.py", "--json"])
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["passed"] is (code == 0)


@pytest.mark.parametrize("text", ["{", "[1]", "3", "[" * 100_000])
def test_parameters_that_are_no_object_are_bad_input(text: str) -> None:
    result = CliRunner().invoke(cli, ["check", "strip", "--params", text])
    assert result.exit_code == 2 and "must be a JSON object" in result.stderr
    assert len(result.stderr) < 400
    twice = CliRunner().invoke(cli, ["check", "anp", "--params", '{"epochs": 1, "epochs": 2}'])
    assert twice.exit_code == 2 and "each parameter once, got 'epochs' twice" in twice.stderr


def test_ctrl_c_ends_the_plugin_and_leaves_one_line(tmp_path: Path) -> None:
    word = tmp_path.name
    command = [sys.executable, "-m", "bench", "check", str(written(tmp_path, _starts(word)))]
    started = subprocess.Popen(
        [*command, "--timeout", "300"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not _called(word) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _called(word)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 130 and err.splitlines() == ["castlewalls: interrupted"], err
    _assert_gone(word)


def test_the_first_file_that_is_written_is_no_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own, of a module that it compiles: the hook asks for the temporary folder, which is
    looked for by writing to it, under a lock.
    """
    monkeypatch.setattr(tempfile, "tempdir", None)
    heard: list[list[str]] = []

    def write() -> None:
        with reaching_out() as events:
            (tmp_path / "file").write_text("")
        heard.append(events)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(60)
    assert heard == [[]]
