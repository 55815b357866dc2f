"""What a submitted plugin can see and do in the process it is given, be that a new Python or a fork
of a server. The stages load no torch; a real suite is in tests/bench/test_isolation.py.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.cards import Cards
from bench.engine import isolation, launch
from bench.engine.admission import cost, take_over
from bench.engine.environment import of_a_worker
from bench.engine.executor import Executor
from bench.engine.graph import Stage
from bench.engine.isolation import (
    Isolation,
    Limits,
    Support,
    private,
    start_reading,
    support,
)
from bench.engine.slots import MARK, make_slots
from bench.engine.worker import load_stages
from bench.errors import UserError
from bench.plugin_file import Source, hashes
from bench.sealed import new_secret

STAGES = str(Path(__file__).with_name("hostile_stages.py"))
LIMITS = Limits(memory=2**29, disk=2**26, scratch=2**25, processes=16, tasks=64)
needs_namespaces = pytest.mark.skipif(
    not support().namespaces, reason=f"plugins run {support().words}"
)
PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from bench.plugin import Card, SamplerDefense

@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
"""
#: What it does -> the end of its row's reason.
REASONS = {
    "connects": "ConnectionRefusedError: [Errno 111] Connection refused",
    "resolves": "OSError: [Errno 101] Network is unreachable",
    "fills_scratch": "no space is left of what a plugin may write",
    "fills_disk": "stopped: more than 64 MB written to disk",
    "holes": "stopped: more than 64 MB written to disk",
    "many_files": "stopped: more than 10000 files written",
    "deep": "stopped: folders more than 32 deep",
    "one_large_file": "OSError: [Errno 27] File too large",
    "forks": ("stopped: more than 16 processes", "Resource temporarily unavailable"),
    "memory": ("MemoryError", "stopped: more than 512 MB of memory"),
    "prints": ("stopped: more than 64 MB written to disk", "[Errno 27] File too large"),
    "kills_itself": "the worker process was killed (out of memory?)",
    "ends": "the worker process died (exit code 0)",
    "crashes": "the worker process died (signal 11)",
    "hangs": "timed out after 20 s",
    "writes_python": "Read-only file system",
    "writes_ours": "Read-only file system",
    "link": "the plugin's process left value.json, which is no plain file",
    "link_as_log": "ZeroDivisionError: division by zero",
    "pipe": "the plugin's process left value.json, which is no plain file",
    "pickle": "left value.pkl, which is neither arrays nor a text of at most 64 MB",
    "hidden": "left a file of another name than a stage gives: '.value.json'",
    "object_array": "left value.npz with an array of object, which is neither numbers nor text",
    "bomb": "left value.npz with an array of 8000000000 bytes, more than there are or may be",
    "no_json": "left value.json, which cannot be read: RecursionError",
    "disk_full": "no space is left of what a plugin may write",
    "floods": "more messages than a stage has to send",
    "unmounts": "RuntimeError: remounted -1, unmounted -1, unshared -1",
    "leaves_nothing": "the plugin's process left no value.json, which such a stage leaves",
    "wrong_value": "a value of 0 is wanted",
}


@pytest.fixture
def theirs(tmp_path):
    """``theirs(name, inputs, **params)``: a stage that needs a third party's plugin."""
    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN)
    source = Source(file=str(file), hashes=hashes([file]))

    def make(name, inputs=None, **params):
        params = {"testbed": {"name": "tiny", "params": {}}, "seed": 0} | params
        return Stage(name=name, params=params, inputs=inputs or {}, plugins=(source,), seconds=1.0)

    return make


def run(lab, stages, **options):
    lab.executor()  # for its reporter
    executor = Executor(
        lab.store,
        make_slots("cpu", options.pop("jobs", 2)),
        lab.reporter,
        stages=STAGES,
        kinds=load_stages(STAGES),
        **{"limits": LIMITS, "timeout": 120.0, "provenance": {"castlewalls": "test"}} | options,
    )
    return executor.run({one.key: one for one in stages}, [one.key for one in stages])


def ours(seed):
    params = {"testbed": {"name": "tiny", "params": {}}, "seed": seed}
    return Stage(name="value", params=params, seconds=1.0)


def is_one_of(wanted, reason):
    return any(one in reason for one in (wanted if isinstance(wanted, tuple) else (wanted,)))


def files(lab, stage):
    folder = lab.store.folder(stage.key)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "stage.json"}


@pytest.fixture
def new(monkeypatch):
    """No fork server."""
    monkeypatch.setattr(launch, "CLONE", None)


@pytest.fixture
def server(monkeypatch):
    """The fork server, once it can fork: a list of the processes that it makes."""
    made = []

    class Counted(launch.Forked):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    launch._launcher().close()
    monkeypatch.setattr(launch, "_launchers", [])
    monkeypatch.setattr(launch, "FIRST", 1)
    monkeypatch.setattr(launch, "Forked", Counted)
    _read_nothing()
    running = launch._launcher().server
    deadline = time.monotonic() + 300
    while not running.can_fork():
        assert running.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    yield made
    launch._launcher().close()


def _read_nothing():
    """Starts what a fork server would fork, and ends it."""
    with tempfile.TemporaryDirectory() as scratch:
        command, environment = ["-m", "bench.card_child"], of_a_worker(1)
        process = launch.launch(start_reading(command, environment, scratch), environment)
        process.kill()
        process.wait(120)
    for stream in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):
            stream.close()
    return process


@pytest.fixture(params=["new", "server"])
def way(request):
    return request.getfixturevalue(request.param)


@needs_namespaces
def test_each_hostile_stage_fails_for_its_own_reason_and_changes_nobody_elses(
    lab, new_lab, theirs, tmp_path, way
):
    alone = new_lab(tmp_path / "alone")
    honest = [ours(seed) for seed in range(3)]
    assert run(alone, honest) == {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        made = {name: theirs("act", act=name, port=port) for name in REASONS if name != "hangs"}
        memory = LIMITS.memory if way is None else launch.LEAST_MEMORY
        failures = run(lab, [*honest, *made.values()], limits=replace(LIMITS, memory=memory))
        with pytest.raises(TimeoutError):
            server.accept()
    assert set(failures) == {one.key for one in made.values()}
    other = {
        name: failures[one.key].reason
        for name, one in made.items()
        if not is_one_of(
            REASONS[name], failures[one.key].reason.replace(f" {memory >> 20} MB", " 512 MB")
        )
    }
    assert other == {}
    assert not any(lab.store.finished(one.key) for one in made.values())
    for one in honest:
        assert files(lab, one) == files(alone, one)
    assert list((lab.store.root / "tmp").iterdir()) == []
    assert list((lab.store.root / "partial").iterdir()) == []
    assert not Path(os.__file__).with_name("planted.py").exists()
    assert way is None or len(way) >= len(made) and all(one.returncode is not None for one in way)


@needs_namespaces
def test_it_sees_its_inputs_and_nothing_that_says_where_they_come_from(
    lab, theirs, tmp_path, monkeypatch, way
):
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("sealed")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "judge.bin").write_text("1")
    params = {
        "store": str(lab.store.root),
        "secret": str(tmp_path / "secret.txt"),
        "locations": ["weights/judge.bin", str(tmp_path / "weights" / "judge.bin")],
        "user": os.getuid(),
    }
    above = ours(7)
    looking = replace(
        theirs("look", {"generator": above.key, "learnt": above.key}, **params),
        locations=("weights/judge.bin",),
    )
    assert run(lab, [above, looking], limits=replace(LIMITS, memory=2**32)) == {}
    assert way is None or len(way) == 1
    seen = json.loads((lab.store.folder(looking.key) / "seen.json").read_text())
    assert seen["store"] == [] and not seen["secret"]
    # What the attack learnt is for who calls the backdoor, not for who judges the model.
    assert seen["inputs"] == {
        "generator": ["value.json"],
        "learnt": ["learnt.safetensors", "value.json"],
    }
    assert seen["value"] == [{"seed": 7}] * 2
    assert seen["environment"] == {"HOME": "/tmp/home", "TMPDIR": "/tmp", "MY_TOKEN": None}
    assert len(seen["commands"]) == 2 and not any("pytest" in line for line in seen["commands"])
    assert seen["key"][0] == "" and not {"stage", "inputs"} & set(seen["key"][1])
    assert seen["located"] == [True, True] and seen["user"]
    assert not seen["parent"], "it starts this process, and knows where the folders come from"
    assert "/castlewalls/partial" in seen["mounts"] and "/castlewalls/inputs" in seen["mounts"]
    for key in (looking.key, above.key):
        assert key not in seen["mounts"], "a key follows from code and parameters alone"
    assert sorted(seen["cwd"]) == ["plugin.py", "weights"], "neither the secret nor the store"
    manifest = lab.store.manifest(looking.key)
    assert manifest["provenance"]["isolation"] == [support().words]
    assert manifest["input_keys"] == {"generator": above.key, "learnt": above.key}
    assert set(manifest["cost"]) == {"seconds", "peak_memory_bytes", "generator_calls"}
    assert (lab.store.folder(looking.key) / "log.txt").read_text() == "a line of the plugin's\n"
    assert ("note", f"third parties' plugins run {support().words}") in lab.reporter.events


@needs_namespaces
def test_a_fork_is_what_a_new_process_would_be(lab, theirs, server, monkeypatch):
    """Its rights, limits, environment and open files."""
    states = [theirs("state", seed=seed) for seed in range(2)]
    assert run(lab, states, limits=replace(LIMITS, memory=2**32)) == {}
    assert len(server) == 2
    monkeypatch.setattr(launch, "CLONE", None)
    anew = theirs("state", seed=2)
    assert run(lab, [anew], limits=replace(LIMITS, memory=2**32)) == {}
    assert len(server) == 2
    first, second, wanted = (
        json.loads((lab.store.folder(one.key) / "seen.json").read_text()) for one in (*states, anew)
    )
    for one in (first, second, wanted):
        assert one["environment"].pop(MARK)
    # What the server has of data is not for a plugin to pay for.
    data = [one["limits"].pop("RLIMIT_DATA")[0] for one in (first, second, wanted)]
    assert data[0] == data[1] > data[2] == 2**32
    assert first == wanted and second == wanted


@needs_namespaces
def test_forks_draw_other_random_numbers(server, tmp_path):
    """What a plugin draws without a seed looked the same each time it was checked."""
    (tmp_path / "mine.py").write_text(
        "import random, numpy\n"
        + PLUGIN.replace('"for tests"', 'f"{numpy.random.random()} {random.random()}"')
    )
    drawn = set()
    for _ in range(2):
        cards = Cards([tmp_path / "mine.py"])
        drawn |= set(cards.defense("mine").card.summary.split())
        cards.close()
    assert len(drawn) == 4 and len(server) == 2


@needs_namespaces
def test_a_fork_server_that_dies_is_not_missed(server):
    assert isinstance(_read_nothing(), launch.Forked)
    launch._launcher().server.process.kill()
    for _ in range(2):
        process = _read_nothing()
        assert isinstance(process, subprocess.Popen) and process.returncode == -9
    assert launch._launcher().server is None


@needs_namespaces
def test_what_changes_an_import_gets_a_fork_server_of_its_own(server, monkeypatch):
    """A variable that a library reads when it is imported changed nothing in a fork."""
    old = launch._launcher().server
    monkeypatch.setenv("TORCH_LOGS", "")
    assert isinstance(_read_nothing(), subprocess.Popen)
    assert old.process.poll() is not None and launch._launcher().server is not old


@needs_namespaces
def test_a_process_with_threads_is_not_forked(monkeypatch):
    """Whatever lock a library's thread holds would be held for ever."""
    monkeypatch.setattr(launch, "_launchers", [])
    monkeypatch.setattr(launch, "FIRST", 1)
    monkeypatch.setattr(launch, "_ONE_THREAD", {"OPENBLAS_NUM_THREADS": "2"})
    _read_nothing()
    process = launch._launcher().server.process
    assert process.wait(300) == 0
    assert isinstance(_read_nothing(), subprocess.Popen)


@needs_namespaces
def test_what_rests_on_a_plugins_result_says_how_it_was_isolated(lab, theirs):
    looking = theirs("look", store="/nowhere", secret="", user=0)
    below = Stage(
        name="value",
        params={"testbed": {"name": "tiny", "params": {}}, "seed": 1},
        inputs={"samples": looking.key},
    )
    beside = ours(1)
    assert run(lab, [looking, below, beside]) == {}
    assert lab.store.manifest(below.key)["provenance"]["isolation"] == [support().words]
    assert "isolation" not in lab.store.manifest(beside.key)["provenance"]


def test_one_that_hangs_or_kills_its_parent_ends_alone(lab, theirs):
    """Also where there are limits only."""
    stages = [theirs("act", act="hangs"), ours(1)]
    failures = run(lab, stages, timeout=20.0)
    assert [one.reason for one in failures.values()] == ["timed out after 20 s"]
    assert lab.store.finished(stages[1].key)


@pytest.mark.parametrize("act", ["leaves_a_child", "kills_parent"])
@needs_namespaces
def test_no_process_of_a_plugins_outlives_it(lab, theirs, act):
    before = {process.pid for process in psutil.process_iter()}
    run(lab, [theirs("act", act=act), ours(1)])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and _left(before):
        time.sleep(0.1)
    assert _left(before) == []


def _left(before):
    """The new processes that run a worker."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "ppid"]):
        if process.pid not in before and "hostile" in " ".join(process.info["cmdline"] or ()):
            left.append(process.info)
    return left


def test_without_namespaces_there_are_limits_and_the_record_says_so(lab, theirs, monkeypatch):
    only = Support(False, "not isolated, process limits only: for this test")
    for module in (isolation, __import__("bench.engine.executor", fromlist=["x"])):
        monkeypatch.setattr(module, "support", lambda: only)
    wanted = {
        "fills_disk": "stopped: more than 64 MB written to disk",
        "memory": ("MemoryError", "stopped: more than 512 MB of memory"),
        "kills_parent": "the worker",
        "pickle": "which is neither arrays nor a text",
        "disk_full": "no space is left of what a plugin may write",
        "wrong_value": "a value of 0 is wanted",
    }
    made = {name: theirs("act", act=name) for name in wanted}
    looking = theirs("look", store="/nowhere", secret="", user=os.getuid())
    failures = run(lab, [ours(1), looking, *made.values()])
    reasons = {name: failures[one.key].reason for name, one in made.items() if one.key in failures}
    other = {name: text for name, text in reasons.items() if not is_one_of(wanted[name], text)}
    assert other == {} and set(reasons) == set(wanted)
    assert len(failures) == len(made), "ours is made, whatever they say of the disk"
    seen = json.loads((lab.store.folder(looking.key) / "seen.json").read_text())
    assert "castlewalls-plugin-" in seen["environment"]["HOME"] and seen["cwd"] == []
    assert lab.store.manifest(looking.key)["provenance"]["isolation"] == [only.words]
    assert ("note", f"third parties' plugins run {only.words}") in lab.reporter.events


def test_a_cost_is_what_a_stage_may_say_and_at_least_what_was_measured():
    claimed = {"seconds": 0.0, "generator_calls": 5, "evil": 1.0, "peak_memory_bytes": float("nan")}
    assert cost(claimed, 3.0) == {"seconds": 3.0, "generator_calls": 5.0}
    assert cost({"seconds": 9.0}, 3.0) == {"seconds": 9.0}
    assert cost("cheap", 3.0) == {"seconds": 3.0}


def test_what_stages_leave_is_taken_over_unchanged(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "generator" / "unet").mkdir(parents=True)
    out.mkdir()
    np.savez_compressed(raw / "images.npz", images=np.zeros((64, 3, 32, 32), np.uint8))
    np.save(raw / "labels.npy", np.arange(5))
    save_file({"w": np.ones(3, np.float32)}, raw / "generator" / "unet" / "model.safetensors")
    (raw / "generator" / "README.md").write_text("# A card\n")
    (raw / "log.txt").write_bytes(b"\xff\xfe printed by a library")
    take_over(raw, out)
    names = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert all((raw / name).read_bytes() == (out / name).read_bytes() for name in names)
    (raw / "generator" / "unet" / "model.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(UserError, match="left generator/unet/model.safetensors, which cannot be"):
        take_over(raw, tmp_path / "other")


def test_progress_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    """On a disk that is nearly full a stage that was resumed failed at once, and lost its progress;
    yet all that it leaves has the limit of one stage.
    """
    folder, partial = tmp_path / "stage", tmp_path / "partial"
    partial.mkdir()
    (partial / "shard").write_bytes(bytes(6_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4_000_000))
    for limit, exceeded in ((2**30, False), (2**22, True)):
        isolation = Isolation(
            limits=Limits(memory=2**30, disk=limit),
            inputs={},
            folder=folder / str(limit),
            partial=partial,
            files=[],
            locations=[],
            store=tmp_path / "store",
            namespaces=False,
        )
        assert bool(isolation.overfull()) is exceeded
        isolation.end()
        assert partial.exists() is not exceeded


def test_what_is_private_in_a_plugins_folder_is_so_however_deep(tmp_path):
    """A plugin that reads the secret, or a store, tunes on what was kept back."""
    secret = new_secret()
    wanted = {"secret.txt": secret + "\n", "exp/kept": secret, ".env": "x", "a/b/.key/k": "x"}
    plain = {"mine.py": "x = 1", "notes/hash.txt": secret[:-1] + "g", "data/long.txt": secret * 9}
    for name, text in (wanted | plain).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "exp" / "store" / "stages").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "exp")
    hidden = {os.path.relpath(path, tmp_path) for path in private(str(tmp_path))}
    assert hidden == {"secret.txt", "exp/kept", "exp/store", ".env", "a/b/.key"}
    inside = {os.path.relpath(path, tmp_path) for path in private(str(tmp_path / "exp" / "store"))}
    assert "exp/store/stages" in inside


def test_what_there_was_no_time_to_look_at_is_private_too(tmp_path, monkeypatch):
    """A thousand dot-files, or many pictures, before the folder with the secret showed it."""
    (tmp_path / "keys" / "sealed").mkdir(parents=True)
    (tmp_path / "keys" / "sealed" / "secret.txt").write_text(new_secret())
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        (tmp_path / "pictures" / f"{number}.png").touch()
        (tmp_path / "pictures" / f".{number}").touch()
    secret = str(tmp_path / "keys" / "sealed" / "secret.txt")

    def is_hidden() -> bool:
        return any(secret == one or secret.startswith(f"{one}/") for one in private(str(tmp_path)))

    for name, limit in (("LOOKED_AT", 20), ("MOST_HIDDEN", 10)):
        with monkeypatch.context() as patched:
            patched.setattr(isolation, name, limit)
            assert is_hidden(), name
    with monkeypatch.context() as patched:
        patched.setattr(isolation, "LOOKED_AT", 1)
        with pytest.raises(UserError, match="too much beside the plugin"):
            private(str(tmp_path))


@needs_namespaces
def test_a_folder_on_the_path_shows_no_secret_of_it(tmp_path, monkeypatch):
    """Somebody's project is on the path, and a plugin lies below it with a secret beside it."""
    (tmp_path / "plugins" / "kept").mkdir(parents=True)
    plugin = tmp_path / "plugins" / "mine.py"
    plugin.write_text("x = 1")
    secret = tmp_path / "plugins" / "kept" / "secret.txt"
    secret.write_text(new_secret())
    monkeypatch.syspath_prepend(str(tmp_path))
    reads = (
        f"import sys; print(open({str(plugin)!r}).read())\n"
        f"try: print(open({str(secret)!r}).read())\n"
        f"except OSError as error: print(type(error).__name__)"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    config = start_reading(["-c", reads], of_a_worker(1), str(scratch), [plugin])
    process = launch.launch(config, of_a_worker(1))
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    with process.stdout:
        assert process.stdout.read().decode().split("\n")[:2] == ["x = 1", "PermissionError"]
    assert process.wait(300) == 0
