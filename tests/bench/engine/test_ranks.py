"""One stage on several devices. The devices are pretended or CPU processes over gloo; the way
through the engine is the GPUs' own.
"""

import dataclasses
import hashlib
import json
import queue
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import registry
from bench.cli import cli
from bench.diffusion.generator import Generator
from bench.engine.executor import Executor
from bench.engine.fingerprint import planned_code
from bench.engine.progress import Reporter
from bench.engine.slots import Slot, Worker, make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.errors import UserError
from bench.planner import make_plan
from bench.registry import Registry
from bench.stages.table import STAGES
from bench.suite import parse_suite

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
PAIR = Slot(name="pair", processes=2, environment=NO_GPU)


def alive(notes):
    """The ranks' processes that still run, after a moment to end in."""

    def running(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    pids = [int(path.read_text()) for path in notes.iterdir()]
    assert len(pids) == 2
    deadline = time.monotonic() + 100
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if running(pid)]


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of the real training stage by two processes: its folder, its cost, what each rank
    noted, and its parameters.
    """
    folder, plugins = tmp_path_factory.mktemp("ranks"), registry.use()
    suite = {
        "name": "tiny",
        "testbeds": ["digits-ddpm"],
        "attacks": [{"name": "baddiffusion", "params": {"training_steps": 2}}],
        "defenses": [],
        "seeds": [0],
    }
    plan = make_plan(parse_suite(suite, plugins, "tiny.yaml"), plugins, STAGES, processes=2)
    key = next(key for key, stage in plan.stages.items() if stage.name == "train")
    (folder / "notes").mkdir()
    store = Store(folder / "store")
    slot = dataclasses.replace(PAIR, environment=NO_GPU | {"RANK_NOTES": str(folder / "notes")})
    table = str(Path(__file__).with_name("rank_stages.py"))
    assert (
        Executor(store, [slot], Reporter(), stages=table, kinds=load_stages(table)).run(
            plan.stages, [key]
        )
        == {}
    )
    noted = [json.loads((folder / "notes" / str(rank)).read_text()) for rank in (0, 1)]
    return store.folder(key), store.manifest(key)["cost"], noted


def test_two_processes_train_one_model(trained) -> None:
    """Each sees its own images and noise; were their gradients not averaged, their weights would
    differ after two steps.
    """
    _, _, (first, second) = trained
    assert all(mine != other for mine, other in zip(first["losses"], second["losses"], strict=True))
    assert first["weights"] == second["weights"]


def test_the_batch_is_the_declared_one_however_many_share_it(trained) -> None:
    _, cost, noted = trained
    assert [rank["cost"]["generator_calls"] for rank in noted] == [2 * 64 / 2] * 2
    assert cost["generator_calls"] == 2 * 64


def test_what_is_kept_is_rank_0s_folder_and_loads(trained) -> None:
    folder, _, (first, _) = trained
    assert {path.name for path in folder.iterdir()} - {"log.txt"} == {
        "generator",
        "losses.npz",
        "stage.json",
    }
    (weights,) = folder.rglob("*.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == first["weights"]
    assert Generator.load(folder / "generator").image_shape == (3, 16, 16)


def test_training_is_what_several_gpus_share() -> None:
    """A stage that draws the same samples in every process would only cost more."""
    assert [name for name, kind in STAGES.items() if kind.distributed] == ["train"]


def test_progress_is_sent_once_and_everything_printed_is_kept(lab, notes) -> None:
    key = lab.stage("shared", notes=str(notes))
    executor, seen = lab.executor(slots=[PAIR]), []
    lab.reporter.progress = lambda key, done, total, what: seen.append((done, total))
    assert executor.run(lab.stages, [key]) == {}
    assert seen == [(0, 10)]
    folder = lab.store.folder(key)
    assert {path.name for path in folder.iterdir()} == {"value.json", "stage.json", "log.txt"}
    assert json.loads((folder / "value.json").read_text()) == {"rank": 0, "world": 2}
    assert sorted((folder / "log.txt").read_text().split("\n")[:2]) == [
        "printed by rank 0",
        "printed by rank 1",
    ]
    cost = lab.store.manifest(key)["cost"]
    assert cost["generator_calls"] == 20
    assert cost["peak_memory_bytes"] > 2**20
    assert alive(notes) == []


@pytest.mark.parametrize(
    ("how", "reason", "trace"),
    [
        ("raise", "RuntimeError: rank 1 is wrong", "fake_stages.py"),
        ("die", "rank 1: the worker process died (exit code 7)", "printed by rank 1"),
        ("worker", "the worker process was killed (out of memory?)", "printed by rank 1"),
        ("stop", "timed out after 20 s", "printed by rank 1"),
    ],
)
def test_one_ranks_failure_is_the_stages_and_leaves_nothing_running(
    lab, notes, how, reason, trace
) -> None:
    """The others would wait for it for ever, on GPUs that the next stage needs; and its reason must
    not hide behind theirs.
    """
    bad, after = lab.stage("shared", notes=str(notes), how=how), lab.stage("train", seed=0)
    failures = lab.run(slots=[PAIR], timeout=20 if how == "stop" else 60)
    assert failures[bad].reason == reason
    assert trace in failures[bad].trace
    assert alive(notes) == []
    assert lab.store.finished(after)
    assert list((lab.store.root / "tmp").iterdir()) == []


def test_ranks_end_when_their_run_is_gone(lab, notes, tmp_path, stages_file) -> None:
    """A run that was killed must not leave a training on the GPUs."""
    events = queue.SimpleQueue()
    worker = Worker(PAIR, events)
    context = {"key": "k", "device": "cpu", "threads": 1}
    task = {
        "code": planned_code(),
        "stages": stages_file,
        "stage": "shared",
        "params": {"notes": str(notes), "how": "hang"},
        "inputs": {},
    }
    worker.send(
        {**task, "processes": 2, "folder": str(tmp_path / "made"), "final": "", "context": context}
    )
    while len(list(notes.iterdir())) < 2:
        time.sleep(0.05)
    worker.process.stdin.close()  # what the kernel does when the run dies
    assert worker.process.wait(100) == 0
    assert alive(notes) == []


def test_a_slot_holds_as_many_gpus_as_asked(lab) -> None:
    slots = make_slots("cuda", gpus=["0", "1", "2", "3"], gpus_per_stage=2)
    assert [(slot.environment["CUDA_VISIBLE_DEVICES"], slot.processes) for slot in slots] == [
        ("0,1", 2),
        ("2,3", 2),
    ]
    assert len(make_slots("cuda", 1, gpus=["0", "1", "2", "3"], gpus_per_stage=2)) == 1
    key = lab.stage("train", seed=0)
    assert lab.run(slots=slots[1:]) == {}  # not distributed: one process, which uses the first
    assert json.loads((lab.store.folder(key) / "threads.json").read_text()) == [4, "cuda", "2,3"]


def test_gpus_that_do_not_fit_are_refused() -> None:
    """One that silently stays idle is a bill for nothing."""
    for gpus, count in ((["4", "5", "7"], 2), (["4"], 2)):
        with pytest.raises(UserError) as refused:
            make_slots("cuda", gpus=gpus, gpus_per_stage=count)
        assert str(refused.value) == (
            f"--gpus-per-stage 2 must divide the number of GPUs, and torch sees {len(gpus)} "
            f"({','.join(gpus)}): "
            "name the ones to use in CUDA_VISIBLE_DEVICES"
        )
    with pytest.raises(UserError, match="--gpus-per-stage must be at least 1, got 0"):
        make_slots("cuda", gpus=["0"], gpus_per_stage=0)
    with pytest.raises(UserError, match="--gpus-per-stage 2 needs --device cuda"):
        make_slots("cpu", gpus_per_stage=2)


@pytest.fixture
def planned(tiny, fake_plugins, stages_file):
    plugins = Registry([fake_plugins])
    kinds = dict(load_stages(stages_file))
    kinds["train"] = dataclasses.replace(kinds["train"], distributed=True)
    suite = {
        "name": "s",
        "testbeds": ["tiny"],
        "attacks": ["fake_attack"],
        "defenses": ["fake_repair"],
        "seeds": [0],
    }
    chosen = parse_suite(suite, plugins, "s.yaml")
    return lambda processes, kinds=kinds: make_plan(chosen, plugins, kinds, "cuda", processes)


def test_weights_trained_by_two_are_other_weights(planned, stages_file) -> None:
    """Each rank draws its own noise: the store must not hand out one for the other, nor train anew
    what is one process's work.
    """

    def keys(plan, *names):
        return {key for key, stage in plan.stages.items() if stage.name in names}

    alone, pair = planned(1), planned(2)
    assert keys(alone) == keys(planned(1, load_stages(stages_file)))
    assert keys(alone, "reference") == keys(pair, "reference")
    assert not keys(alone, "train", "repair", "record") & keys(
        pair, "train", "repair", "record"
    ) - anchors(alone)
    assert {cell.protocol for cell in alone.cells} == {cell.protocol for cell in pair.cells}


def anchors(plan):
    return {cell.stage for cell in plan.cells if cell.kind == "anchor"}


def test_a_batch_that_cannot_be_shared_evenly_is_refused(planned) -> None:
    """Else fewer images than declared would be seen at each step, and the numbers would not be the
    testbed's.
    """
    assert planned(6).cells
    with pytest.raises(
        UserError,
        match=(
            "--gpus-per-stage 4 must divide the training batch of tiny: 12 images in 2 accumulation"
        ),
    ):
        planned(4)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_command_line_refuses_in_one_line(command) -> None:
    result = CliRunner().invoke(cli, [command, "digits", "--gpus-per-stage", "2"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "castlewalls: --gpus-per-stage 2 needs --device cuda\n"
