"""The executor: caching, sharing, failures, limits. Each test says what a person would lose."""

import json
import os
import resource
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from bench.engine import executor as executor_module
from bench.engine.graph import Stage
from bench.engine.slots import MARK, allow_files, make_slots
from bench.engine.store import Store
from bench.errors import UserError
from bench.plugin_file import Source


def value(lab, key):
    return (lab.store.folder(key) / "value.json").read_bytes()


def test_a_finished_stage_is_never_computed_again(lab):
    train = lab.stage("train", seed=0)
    sample = lab.stage("sample", {"generator": train}, seed=0)
    assert lab.run() == {}
    assert lab.reporter.keys("done") == [train, sample]
    assert lab.run() == {}
    assert lab.reporter.events == [("begin", 0, 2)]


def test_what_only_feeds_finished_stages_is_left_alone(lab):
    """Deleting a big checkpoint to save space must not train it anew while everything made from it
    is there.
    """
    train = lab.stage("train", seed=0)
    sample = lab.stage("sample", {"generator": train}, seed=0)
    lab.run()
    lab.store.folder(train).rename(lab.store.root / "elsewhere")
    assert lab.run([sample]) == {}
    assert lab.reporter.keys("started") == []


def test_results_do_not_depend_on_the_number_of_jobs(lab, tmp_path):
    keys = [lab.stage("train", seed=seed, steps=2) for seed in range(4)]
    keys += [lab.stage("sample", {"generator": key}, what="clean") for key in keys]
    lab.run(jobs=1)
    alone = [value(lab, key) for key in keys]
    lab.store = type(lab.store)(tmp_path / "other")
    lab.run(jobs=2)
    assert [value(lab, key) for key in keys] == alone


def test_a_raising_stage_fails_what_hangs_on_it_and_nothing_else(lab):
    bad = lab.stage("broken", how="raise")
    below = lab.stage("sample", {"generator": bad}, what="clean")
    last = lab.stage("sample", {"generator": below}, what="noise")
    good = lab.stage("train", seed=0)
    failures = lab.run()
    assert set(failures) == {bad, below, last}
    assert {failure.reason for failure in failures.values()} == {
        "RuntimeError: the plugin is wrong"
    }
    assert {failure.stage for failure in failures.values()} == {bad}
    assert "fake_stages.py" in failures[last].trace
    assert lab.store.finished(good)
    assert list((lab.store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "the worker process died (exit code 7)"),
        ("killed", "the worker process was killed (out of memory?)"),
        ("hang", "timed out after 12 s"),
    ],
)
def test_a_lost_worker_is_a_failure_with_its_last_words(lab, how, reason):
    """A plugin that takes its process down must not take the matrix down, and what it printed must
    not be lost.
    """
    bad = lab.stage("broken", how=how)
    after = [lab.stage("train", seed=seed) for seed in range(2)]
    failures = lab.run(jobs=1, timeout=12)
    assert failures[bad].reason == reason
    assert "a plugin's print" in failures[bad].trace
    assert all(lab.store.finished(key) for key in after)
    assert list((lab.store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("forged", "its worker said that it was done, but there is no result in the store"),
        ("malformed", "the worker sent an invalid answer: {'progress': 5}"),
        ("noise", "the worker sent an invalid answer: "),
        ("number", "the worker sent an invalid answer: 7"),
        ("forks", "the worker process died (exit code 1)"),
        ("leaves", "the worker process died (exit code 1)"),
        ("closes", "the worker process closed its pipe, and was ended"),
        ("sys.exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("surrogate", "OSError: caf\\udce9 xxxx"),
    ],
)
def test_whatever_a_stage_does_to_its_worker_the_others_go_on(lab, how, reason):
    """A child that holds the dead worker's pipe hung the run for ever; a forged or malformed answer
    ended it without a board.
    """
    bad = lab.stage("broken", how=how)
    after = [lab.stage("train", seed=seed) for seed in range(2)]
    failures = lab.run(jobs=1, timeout=60)
    assert set(failures) == {bad} and failures[bad].reason.startswith(reason)
    assert "\x1b" not in failures[bad].reason and len(failures[bad].reason) < 350
    assert all(lab.store.finished(key) for key in after)
    assert marked() == []


@pytest.fixture(autouse=True)
def earlier():
    """Processes that other tests of this one left, which read cards and end with it."""
    known = set(alive())
    EARLIER.clear()
    EARLIER.update(known)


EARLIER: set[int] = set()


def marked():
    """The processes that this run's workers have started and that still live; one that was killed
    may take a moment to go.
    """
    deadline = time.monotonic() + 100
    while (pids := [pid for pid in alive() if pid not in EARLIER]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return pids


def alive():
    """All that this process has started for plugins and that still live."""
    pids = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.environ().get(MARK, "").startswith(f"{os.getpid()}-")
            if (
                mine
                and process.status() != psutil.STATUS_ZOMBIE
                and process.ppid() in (1, os.getpid())
            ):
                pids.append(process.pid)
    return pids


def test_a_child_in_a_session_of_its_own_ends_with_the_run(lab):
    """It could rewrite the store a minute later."""
    lab.stage("broken", how="stays")
    assert lab.run() == {} and marked() == []


def test_what_a_stage_prints_is_kept_short(lab):
    """100 MB a stage stood in the store for ever."""
    key = lab.stage("broken", how="prints")
    assert lab.run() == {}
    log = (lab.store.folder(key) / "log.txt").read_bytes()
    assert len(log) < 2**20 and b"left out" in log and log.startswith(b"a plugin's print")


def test_the_time_limit_where_nobody_sets_one(lab):
    """Without one, a plugin that never comes back keeps a core for ever."""
    theirs = (Source(file="theirs.py"),)
    declared, long, unknown = (
        Stage(name="train", params={}, seconds=seconds, plugins=theirs)
        for seconds in (2.0, 1000.0, None)
    )
    executor = lab.executor()
    assert [executor._limit(stage) for stage in (declared, long, unknown)] == [
        1800.0,
        20_000.0,
        86_400.0,
    ]
    ours = Stage(name="train", params={}, seconds=2.0)
    assert executor._limit(ours) == 86_400.0, (
        "a slow or busy machine must not lose an honest training"
    )
    days = Stage(name="sample", params={}, seconds=280_000.0)
    assert executor._limit(days) == 20 * 280_000, "nor one that is declared to take three days"
    assert lab.executor(timeout=5)._limit(declared) == 5


def test_a_default_limit_says_how_to_set_another(lab, monkeypatch):
    monkeypatch.setattr(executor_module, "UNDECLARED_LIMIT", 0.5)
    bad = lab.stage("broken", how="hang", seconds=0.001)
    assert lab.run()[bad].reason.startswith("timed out after 0.5 s (the default; --timeout")


def test_a_long_quiet_says_what_is_running(lab, monkeypatch):
    monkeypatch.setattr(executor_module, "QUIET_SECONDS", 0.4)
    lab.stage("train", sleep=1.5)
    lab.run()
    ((name, seconds), *_) = lab.reporter.keys("still")[0]
    assert name == "train" and 0.3 < seconds < 5


def test_after_a_full_disk_nothing_more_is_begun(lab):
    """Each of a hundred stages would fail alike, one after another."""
    bad = lab.stage("broken", how="disk", seconds=100.0)
    others = [lab.stage("train", seed=seed) for seed in range(5)]
    failures = lab.run(jobs=1)
    assert lab.reporter.keys("started") == [bad]
    assert {failures[key].reason for key in others} == {"not begun: the disk is full"}


@pytest.mark.parametrize("damage", ["gone", "flipped", "no manifest"])
def test_an_input_that_is_gone_or_damaged_is_made_again(lab, damage):
    """The run ended with a traceback, or read wrong numbers without a word."""
    train = lab.stage("train", seed=0)
    lab.run()
    folder, good = lab.store.folder(train), value(lab, train)
    lab.store._whole.clear(), lab.store._checked.clear()
    below = lab.stage("sample", {"generator": train}, seed=0)
    if damage == "gone":
        folder.rename(lab.store.root / "elsewhere")
    elif damage == "flipped":
        (folder / "value.json").write_bytes(
            good[:-2] + b"9}" if good[-2:] != b"9}" else good[:-2] + b"8}"
        )
    else:
        (folder / "stage.json").unlink()
    assert lab.run() == {}
    assert lab.store.finished(below) and value(lab, train) == good
    assert any("made again" in line for line in lab.reporter.keys("note")) or damage == "gone"


def test_what_another_machine_makes_meanwhile_stays(lab, monkeypatch):
    """Where locks do not hold between machines, a stage may come into the store between two looks
    at it: it was moved away as damaged, and made again.
    """
    train = lab.stage("train", seed=0)
    lab.run()
    away = lab.store.folder(train).rename(lab.store.root / "away")
    finished, looks = Store.finished, []

    def then_it_comes(store, key):
        answer = finished(store, key)
        looks.append(answer)
        if len(looks) == 2:  # the first was to plan, this to begin
            away.rename(store.folder(train))
        return answer

    monkeypatch.setattr(Store, "finished", then_it_comes)
    lab.store = Store(lab.store.root)
    assert lab.run() == {} and looks[:2] == [False, False]
    assert lab.reporter.keys("started") == lab.reporter.keys("note") == []
    assert lab.store.finished(train) and list((lab.store.root / "tmp").iterdir()) == []


def test_an_input_that_another_machine_has_mended_is_not_made_again(lab):
    """It was gone at one look and there at the next: the next moved it away, whole."""
    train = lab.stage("train", seed=0)
    executor = lab.executor()
    executor.run(lab.stages, [train])
    executor.scheduler.make_again(train, "it is gone from the store")
    assert not executor.scheduler.waiting and lab.reporter.keys("note") == []
    assert lab.store.finished(train) and list((lab.store.root / "tmp").iterdir()) == []


def test_a_stage_that_removes_its_inputs_fails_alone(lab):
    """One that deletes finished stages ended the run with a traceback."""
    train = lab.stage("train", seed=0)
    first = lab.stage(
        "sample", {"generator": train}, what="first", removes=str(lab.store.folder(train))
    )
    second = lab.stage("sample", {"generator": train}, what="second")
    assert lab.run(jobs=1) == {}
    assert lab.store.finished(first) and lab.store.finished(second)


def test_a_removed_checkpoint_does_not_stop_a_new_measurement(lab):
    """Its cost is not known any more; that is no reason to fail."""
    train = lab.stage("train", attack={"name": "one", "params": {}})
    clean = lab.stage("sample", {"generator": train}, what="clean")
    lab.run()
    lab.store.folder(train).rename(lab.store.root / "elsewhere")
    cell = lab.cell({"clean": clean}, charged={"clean"})
    assert lab.run([cell]) == {} and lab.store.finished(cell)


def test_third_parties_come_last(lab):
    """One that hangs, or kills the run, must not keep ours from their numbers, whatever it is
    waited for.
    """
    theirs = lab.stage("train", seed=0, seconds=1000.0)
    lab.stages[theirs] = replace(lab.stages[theirs], plugins=(Source(),))
    below = lab.stage("sample", {"generator": theirs}, seconds=1000.0)
    ours = [lab.stage("train", seed=seed, seconds=1.0) for seed in (1, 2)]
    lab.run(jobs=1)
    assert lab.reporter.keys("started") == [*ours, theirs, below]


def test_a_failed_stage_is_tried_again_as_often_as_asked(lab, tmp_path):
    bad = lab.stage("broken", how="exit", once=str(tmp_path / "tried"))
    assert lab.run(retries=1) == {}
    assert [event[-1] for event in lab.reporter.events if event[0] == "failed"] == [True]
    assert lab.store.finished(bad)


def test_a_failure_is_not_kept_so_the_same_command_tries_again(lab, tmp_path):
    bad = lab.stage("broken", how="raise", once=str(tmp_path / "tried"))
    assert bad in lab.run()
    assert lab.run() == {}


def test_a_full_disk_is_one_clear_line_and_is_not_tried_again(lab):
    bad, good = lab.stage("broken", how="disk"), lab.stage("train", seed=0)
    failures = lab.run(retries=3)
    assert failures[bad].reason == f"disk full while writing {lab.store.folder(bad)}"
    assert len(lab.reporter.keys("failed")) == 1
    assert lab.store.finished(good)


def test_a_key_that_another_run_makes_is_waited_for_and_taken_over_when_it_dies(lab):
    key = lab.stage("train", seed=0)
    lock = lab.store.try_lock(key)
    executor = lab.executor()
    tell = lab.reporter.elsewhere

    def dies(key, stage):
        tell(key, stage)
        lock.release()

    lab.reporter.elsewhere = dies
    assert executor.run(lab.stages, [key]) == {}
    assert lab.reporter.keys("elsewhere") == [key]
    assert lab.reporter.keys("started") == [key]


def test_the_longest_chain_starts_first(lab):
    """Else the last training would begin when everything else is done, and one core would idle."""
    short = lab.stage("reference", seconds=5.0)
    train = lab.stage("train", seconds=4.0)
    lab.stage("sample", {"generator": train}, seconds=4.0)
    lab.run(jobs=1)
    assert lab.reporter.keys("started")[0] == train
    assert lab.reporter.keys("started")[-1] != short


def test_a_cpu_worker_has_one_thread_and_sees_no_gpu(lab):
    key = lab.stage("train", seed=0)
    lab.run()
    assert json.loads((lab.store.folder(key) / "threads.json").read_text()) == [1, "cpu", ""]


def test_each_gpu_gets_a_slot_that_sees_it_alone(lab):
    slots = make_slots("cuda", gpus=["3", "5"])
    keys = [lab.stage("train", seed=seed, steps=2, sleep=0.3) for seed in range(2)]
    assert lab.run(slots=slots) == {}
    seen = sorted(
        json.loads((lab.store.folder(key) / "threads.json").read_text())[1:] for key in keys
    )
    assert seen == [["cuda", "3"], ["cuda", "5"]]


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        make_slots("cuda", gpus=[])
    with pytest.raises(UserError, match="--jobs must be from 1 to 1,024, got 0"):
        make_slots("cpu", 0)
    assert [slot.name for slot in make_slots("cuda", 1, gpus=["0", "1"])] == ["gpu0"]


def test_stages_share_a_gpu_as_far_as_its_memory_goes() -> None:
    """Small networks leave a GPU idle; two that do not fit would both fail."""
    two = make_slots("cuda", gpus=["3", "5"], gpu_memory=30, total_memory=80)
    assert [slot.name for slot in two] == ["gpu3.0", "gpu5.0", "gpu3.1", "gpu5.1"]
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in two] == ["3", "5", "3", "5"]
    assert {slot.threads for slot in two} == {make_slots("cuda", gpus=["3"])[0].threads}
    one = make_slots("cuda", gpus=["0"], gpu_memory=72, total_memory=80)
    assert [slot.name for slot in one] == ["gpu0.0"]
    assert len(make_slots("cuda", 3, gpus=["0"], gpu_memory=1, total_memory=80)) == 3
    assert len(make_slots("cuda", gpus=["0"], gpu_memory=0.01, total_memory=80)) == 16
    for options in ({"gpu_memory": 73}, {"gpu_memory": 0}, {"gpu_memory": 8, "gpus_per_stage": 2}):
        with pytest.raises(UserError, match="--gpu-memory"):
            make_slots("cuda", gpus=["0", "1"], total_memory=80, **options)
    with pytest.raises(UserError, match="--gpu-memory needs --device cuda"):
        make_slots("cpu", gpu_memory=8)


def test_the_cost_of_a_cell_leaves_out_what_the_control_needed_too(lab):
    reference = lab.stage("reference", steps=2, sleep=0.3)
    train = lab.stage("train", attack={"name": "one", "params": {}}, steps=2, sleep=0.3)
    plain = lab.stage("sample", {"generator": train}, what="clean", steps=2, sleep=0.3)
    clipped = lab.stage(
        "sample",
        {"generator": train},
        what="clean",
        defense={"name": "clip", "params": {}},
        steps=1,
        sleep=0.1,
    )
    cell = lab.cell(
        {"reference": reference, "undefended:clean": plain, "clean": clipped}, charged={"clean"}
    )
    assert lab.run() == {}
    cost = json.loads((lab.store.folder(cell) / "record.json").read_text())["cost"]
    took = {key: lab.store.manifest(key)["cost"]["seconds"] for key in (clipped, train)}
    assert (cost["seconds"], cost["attack_seconds"]) == (took[clipped], took[train])
    assert cost["generator_calls"] == 10
    assert cost["peak_memory_bytes"] > 2**20


def test_workers_end_when_their_run_ends(lab):
    lab.stage("train", seed=0)
    executor = lab.executor()
    executor.run(lab.stages, list(lab.stages))
    assert executor.workers == {}


def test_a_deep_failure_is_found_at_once(lab):
    """Fifty cells on one broken training must not wait for fifty polls."""
    bad = lab.stage("broken", how="raise")
    for seed in range(50):
        lab.stage("sample", {"generator": bad}, seed=seed)
    started = time.monotonic()
    assert len(lab.run()) == 51
    assert time.monotonic() - started < 5


def test_one_lost_model_is_made_again_once_for_all_that_need_it(lab):
    """Every free slot finds that it is gone; that is one loss, not one for each."""
    train = lab.stage("train", seed=0)
    other = lab.stage("train", seed=1)
    lab.run()
    lab.store.folder(train).rename(lab.store.root / "elsewhere")
    for number in range(4):
        lab.stage("sample", {"generator": train}, what=str(number))
    lab.stage("sample", {"generator": other}, what="other")
    assert lab.run(jobs=6) == {}
    assert lab.reporter.keys("started").count(train) == 1


def test_many_slots_may_open_the_files_that_they_need(lab):
    """A machine with hundreds of cores ended in "Too many open files", far below its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        key = lab.stage("train", seed=0)
        assert lab.run([key], jobs=100) == {}
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(1000, hard)
        allow_files(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(1000, hard), "never lowered"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
