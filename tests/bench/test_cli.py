"""The command line end to end, with stages that take no time: exit codes, messages, and what is
left behind.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench
import leaderboard.report
from bench import doctor, plugin_file
from bench import runner as api
from bench.cli import cli
from bench.record import read_runs

HERE = Path(__file__).parent
STAGES = str(HERE / "engine" / "fake_stages.py")
SUITE = """
name: small
description: a suite of nothing
testbeds: [tiny]
attacks: [fake_attack, fake_text_attack]
defenses: [fake_sampler, fake_invert]
seeds: [0, 1]
"""


@pytest.fixture
def castlewalls(tiny, fake_plugins, tmp_path, monkeypatch):
    """Runs a command line in ``tmp_path`` with fake stages; ``suite.yaml`` is there."""
    monkeypatch.setattr(api, "prepare", functools.partial(api.prepare, stages=STAGES))
    monkeypatch.setattr(leaderboard.report, "build", lambda store, output: output)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "suite.yaml").write_text(SUITE)

    def command(*arguments, plugin=True):
        extra = ["--plugin", str(fake_plugins)] if plugin else []
        before = signal.getsignal(signal.SIGTERM)
        try:
            return CliRunner().invoke(cli, [*arguments, *extra])
        finally:
            signal.signal(signal.SIGTERM, before)

    return command


@pytest.mark.parametrize("command", [["plan"], ["run"], ["run", "--dry-run"]])
def test_all_faults_of_a_testbed_are_listed_before_anything_runs(
    castlewalls, tiny, fake_plugins, tmp_path, monkeypatch, command
):
    """A fault that only a stage found would cost the hours before it, and the second fault as many
    again.
    """
    monkeypatch.setattr(
        "bench.testbeds.testbed.faults",
        lambda testbed: [f"data {testbed.data.data} is damaged", "weights are missing"],
    )
    (tmp_path / "suite.yaml").write_text(
        SUITE.replace("[tiny]", "[tiny, {name: tiny, params: {data: there}}]")
    )
    result = castlewalls(command[0], "suite.yaml", *command[1:])
    assert result.exit_code == 2 and not result.stdout
    # Said of a plugin whose import takes long, as on a busy machine.
    slow = f"castlewalls: importing {fake_plugins}\n"
    assert (
        result.stderr.replace(slow, "")
        == "castlewalls: data here is damaged\nweights are missing\ndata there is damaged\n"
    )
    assert not (tmp_path / "store").exists()


def test_a_run_ends_with_a_table_and_the_boards_path(castlewalls, tmp_path):
    result = castlewalls("run", "suite.yaml", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == "store/report.html"
    assert "fid[fake]" in result.stdout and "fake_attack" in result.stdout
    why = "skipped: fake_text_attack x fake_sampler: fake_text_attack applies to text testbeds"
    assert result.stdout.count(why) == 1, "a pair that is left out says why, once for all its seeds"
    (run,) = read_runs(tmp_path / "store")
    # 2 attacks and 2 probes x 3 defenses x 2 seeds, and 2 anchors a seed; half of the cells have an
    # attack on text.
    assert run.counts == {"ok": 16, "failed": 0, "skipped": 12, "pending": 0}
    assert run.finished is not None and len(run.records) == 28
    record = run.records[0][1]
    assert record.protocol and record.provenance["stage"]
    assert {"reference", "aim", "clean", "call:noise", "call:image"} <= set(
        record.provenance["inputs"]
    )
    assert record.provenance["castlewalls"] == bench.__version__

    again = castlewalls("run", "suite.yaml", "--jobs", "1", "--json", "--no-report")
    assert json.loads(again.stdout)["stages_made"] == 0
    assert json.loads(again.stdout)["report"] is None
    (same,) = read_runs(tmp_path / "store")
    assert (same.started, same.finished) == (run.started, run.finished)  # the board keeps its dates

    states = json.loads(castlewalls("status", "--json", plugin=False).stdout)
    assert states["jobs"] == [] and states["runs"] == [
        {"suite": run.suite, "started": run.started, "finished": run.finished}
        | {"cells": {"ok": 16, "failed": 0, "skipped": 12, "pending": 0}}
    ]
    account = tmp_path / "store" / "runs" / f"{run.suite}.json"
    half = json.loads(account.read_text()) | {"finished": None}
    (pending,) = [one for one in half["cells"] if one["status"] == "ok"][:1]
    pending["status"] = "pending"
    text = account.read_text()
    account.write_text(json.dumps(half))
    line = castlewalls("status", plugin=False).stdout.splitlines()[0]
    account.write_text(text)
    assert line.startswith(f"{run.suite}: 15 of 28 cells ok, 12 skipped, 1 to come; begun 20")
    assert line.endswith("not finished (if nothing runs, the same command goes on)")

    table = bench.load_records(tmp_path / "store")
    assert len(table) == 28 and table["fid[fake]"].notna().sum() == 16
    assert set(table["status"]) == {"ok", "skipped"}
    assert set(table.loc[table["attack"] == "none", "probe"]) == {"fake_attack", "fake_text_attack"}

    part = castlewalls(
        "run",
        "suite.yaml",
        "--seeds",
        "2",
        "--attacks",
        "fake_attack",
        "--defenses",
        "fake_sampler",
        "--no-report",
    )
    assert part.exit_code == 0
    (run,) = read_runs(tmp_path / "store")
    assert len(run.records) == 28 + 6, "a part of a suite must not shrink the board"


def test_samplers_are_chosen_on_the_command_line_and_named_wherever_a_cell_is(
    castlewalls, tmp_path
):
    """Two runs of one suite, one cell under the testbed's own sampler and one under another, are
    two rows.
    """
    few = ("--attacks", "fake_attack", "--defenses", "fake_sampler", "--seeds", "0", "--no-report")
    assert castlewalls("run", "suite.yaml", *few).exit_code == 0
    result = castlewalls("run", "suite.yaml", *few, "--samplers", "ddpm,unipc")
    assert result.exit_code == 0, result.output
    head, *rows = [
        line.split() for line in result.stdout.splitlines() if "fid" in line or "fake_" in line
    ]
    assert head[:4] == ["testbed", "attack", "sampler", "defense"]
    assert sum("unipc" in row for row in rows) == 4 and len(rows) == 8
    (run,) = read_runs(tmp_path / "store")
    assert run.counts["ok"] == 2 * 4 + 3 and not run.problems
    table = bench.load_records(tmp_path / "store")
    assert table["sampler"].fillna("own").value_counts().to_dict() == {"own": 6, "unipc": 5}
    assert set(table.loc[table["sampler"] == "unipc", "sampler.params"]) == {
        '{"clip": "none", "num_inference_steps": 100}'
    }
    stages = castlewalls(
        "plan", "suite.yaml", *few[:-1], "--samplers", "ddpm,unipc", "--json"
    ).stdout
    drawn = [json.loads(line)["params"] for line in stages.splitlines()]
    drawn = [
        params.get("sampler") for params in drawn if "what" in params and "options" not in params
    ]
    assert {sampler and sampler["name"] for sampler in drawn} == {None, "unipc"}
    wrong = castlewalls("run", "suite.yaml", "--samplers", "unicp")
    assert wrong.exit_code == 2
    assert "--samplers: unknown sampler 'unicp'; did you mean 'unipc'?" in wrong.stderr
    late = castlewalls("run", "suite.yaml", "--samplers", "heun", "--dry-run")
    assert late.exit_code == 0


def test_a_failing_plugin_is_a_row_and_exit_code_1(castlewalls, tmp_path):
    broken = tmp_path / "stages.py"
    text = (
        Path(STAGES)
        .read_text()
        .replace('"invert": StageKind(run=compute', '"invert": StageKind(run=fails')
    )
    broken.write_text(
        text.replace(
            "STAGES = {",
            'def fails(params, inputs, out, context):\n    raise RuntimeError("no '
            'idea")\n\n\nSTAGES = {',
        )
    )
    api.prepare = functools.partial(api.prepare.func, stages=str(broken))  # monkeypatch restores it
    result = castlewalls(
        "run",
        "suite.yaml",
        "--attacks",
        "fake_attack",
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--no-report",
    )
    assert result.exit_code == 1
    assert "invert tiny fake_invert seed 0: RuntimeError: no idea" in result.stdout
    (run,) = read_runs(tmp_path / "store")
    failed = [record for _, record in run.records if record.status == "failed"]
    assert [(record.attack.name, record.defense.name) for record in failed] == [
        ("fake_attack", "fake_invert"),
        ("none", "fake_invert"),
    ]
    assert "raise RuntimeError" in failed[0].trace and failed[0].metrics == {}
    assert run.counts["ok"] == 6


BAD = [
    (["run", "suit.yaml"], "suite suit.yaml: there is no such file"),
    (["run", "digitz"], "unknown suite 'digitz'; did you mean 'digits'?"),
    (
        ["run", "suite.yaml", "--attacks", "fake_atack"],
        "unknown attack 'fake_atack'; did you mean 'fake_attack'?",
    ),
    (
        ["run", "suite.yaml", "--seeds", "one"],
        "--seeds must be whole numbers with commas between, got 'one'",
    ),
    (["run", "suite.yaml", "--limit", "0"], "--limit must be at least 1, got 0"),
    (["run", "suite.yaml", "--cells", "00000000"], "--cells '00000000': no cell of small with"),
    (["run", "suite.yaml", "--cells", ""], "--cells must name at least one cell, got none"),
    (["run", "suite.yaml", "--jobs", "0"], "--jobs must be from 1 to 1,024, got 0"),
    (["run", "suite.yaml", "--jobs", "9" * 23], "--jobs must be from 1 to 1,024, got 9999"),
    (["run", "suite.yaml", "--timeout", "0"], "--timeout must be above 0 and at most 1e+09"),
    (["run", "suite.yaml", "--timeout", "nan"], "seconds, got nan"),
    (["run", "suite.yaml", "./suite.yaml"], "must have different names, got 'small' twice"),
    (["run", "suite.yaml", "./suite.yaml", "--dry-run"], "different names, got 'small' twice"),
    (["plan", "x" * 300 + ".yaml"], "cannot be used: File name too long"),
    (["run", "suite.yaml", "--retries", "-1"], "--retries must be 0 to 100, got -1"),
    (["run", "suite.yaml", "--retries", "10" * 30], "--retries must be 0 to 100, got 1010"),
    (["run", "/dev/null"], "suite /dev/null: it must be a plain file, and is none"),
    (["run", "suite.yaml", "--plugin", "/"], "--plugin /: it must be a file, and is a folder"),
    (["run", "suite.yaml", "--store", "suite.yaml"], "must be a folder, but it is a file"),
    (["run", "suite.yaml", "--store", "suite.yaml/store"], "cannot be written: Not a directory"),
    (["run", "suite.yaml", "--plugin", "none.py"], "there is no such file"),
    (["show", "fake_atack"], "unknown name 'fake_atack'; did you mean 'fake_attack'?"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD]
)
def test_bad_input_is_one_line_and_exit_code_2(
    castlewalls, arguments, message, tmp_path, monkeypatch
):
    # A slow machine says that it imports a file (test_registry.py), which is no error.
    monkeypatch.setattr(plugin_file, "saying", lambda what: contextlib.nullcontext())
    result = castlewalls(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "store").exists()


def test_a_gpu_that_is_not_there_is_bad_input(castlewalls, monkeypatch):
    monkeypatch.setattr("bench.engine.slots.visible_gpus", list)
    result = castlewalls("run", "suite.yaml", "--device", "cuda")
    assert result.exit_code == 2 and "torch sees no CUDA device" in result.stderr


def test_a_full_disk_while_accounting_is_one_line(castlewalls, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.engine.run.write_atomically", full)
    result = castlewalls("run", "suite.yaml", "--no-report")
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("runs/small.json cannot be written: disk full")


def test_a_dry_run_writes_nothing(castlewalls, tmp_path):
    result = castlewalls("run", "suite.yaml", "--dry-run", "--seeds", "0", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert "14 cells" in result.stdout and "about" in result.stdout and "train" in result.stdout
    assert not (tmp_path / "store").exists()
    as_json = json.loads(
        castlewalls("run", "suite.yaml", "--dry-run", "--seeds", "0", "--json").stdout
    )
    assert as_json["stages"]["train"] == 2 and as_json["cached"] == 0 and as_json["unknown"] == []
    (tmp_path / "other.yaml").write_text(SUITE.replace("small", "other"))
    both = castlewalls("run", "suite.yaml", "other.yaml", "--dry-run", "--json").stdout
    assert [one["cells"] for one in json.loads(both)] == [28, 28], "one document"


def test_a_plan_lists_the_stages_and_the_skipped_pairs(castlewalls):
    output = castlewalls("plan", "suite.yaml", "--seeds", "0")
    assert output.exit_code == 0
    assert (
        "skipped: fake_text_attack x fake_sampler: fake_text_attack applies to text testbeds"
        in output.stdout
    )
    dry = castlewalls("run", "suite.yaml", "--dry-run").stdout
    assert dry.count("skipped: fake_text_attack x fake_sampler: ") == 1
    lines = [
        json.loads(line)
        for line in castlewalls("plan", "suite.yaml", "--seeds", "0", "--json").stdout.splitlines()
    ]
    keys = {line["key"] for line in lines}
    assert {
        "aim",
        "train",
        "call",
        "sample",
        "features",
        "measure",
        "record",
        "invert",
        "reference",
    } == {line["stage"] for line in lines}
    assert all(set(line["inputs"].values()) <= keys for line in lines)
    limited = castlewalls("plan", "suite.yaml", "--limit", "1", "--jobs", "2").stdout
    assert limited.strip().endswith("1 cells, 15 stages, 0 in the store; about 71 s on 2 slots")


def test_a_cells_code_plans_that_cell_with_the_keys_of_the_whole_suite(castlewalls, fake_plugins):
    """What a reader copies from the board makes that record and nothing else."""
    whole = api.prepare("suite.yaml", plugins=[fake_plugins]).plan
    codes = {cell.code for cell in whole.cells}
    assert len(codes) == len(whole.cells) / 2  # two seeds
    for code in sorted(codes):
        wanted = [cell for cell in whole.cells if cell.code == code]
        plan = api.prepare("suite.yaml", plugins=[fake_plugins], cells=[code]).plan
        assert [*plan.cells] == wanted and plan.filtered
        assert set(plan.stages) == set(whole.closure(cell.stage for cell in wanted if cell.stage))
    line = castlewalls("plan", "suite.yaml", "--seeds", "1", "--cells", wanted[0].code).stdout
    assert "\n1 cells, " in line


def test_listing_names_everything(castlewalls):
    listed = json.loads(castlewalls("list", "--json").stdout)
    assert {"none", "fake_attack"} <= set(listed["attacks"]) and {"none", "fake_sampler"} <= set(
        listed["defenses"]
    )
    assert {"digits-ddpm", "cifar10-ddpm", "celebahq-ddpm"} <= set(
        listed["testbeds"]
    ) and "digits" in listed["suites"]
    assert {"strip", "noise_shift"} <= set(listed["detectors"])
    assert "\n  digits " in castlewalls("list", "suites").stdout
    assert "attacks:" in castlewalls("list").stdout


def test_showing_a_plugin_gives_its_declaration_parameters_and_source(castlewalls):
    (output,) = json.loads(castlewalls("show", "fake_attack", "--json").stdout)
    assert output["card"]["applies_to"] == ["unconditional"]
    parameters = {parameter["name"]: parameter for parameter in output["parameters"]}
    assert parameters["poison_rate"]["default"] == 0.1
    assert {name: parameter["constraint"] for name, parameter in parameters.items()} == {
        "scheme": {"choices": ["finetune", "scratch"]},
        "training_steps": {"exclusive_minimum": 0, "nullable": True},
        "learning_rate": {"exclusive_minimum": 0, "nullable": True},
        "poison_rate": {"exclusive_minimum": 0, "maximum": 1},
        "trigger": {"choices": ["box", "sign"]},
        "size": {"nullable": True},
    }
    text = castlewalls("show", "fake_attack").stdout
    assert (
        "poison_rate: float, default 0.1, in (0, 1]\n" in text
        and "size: tuple[int, int] | None, default None\n" in text
        and "A backdoor that is none." in text
        and "fake_plugins.py" in text
    )
    assert [item["kind"] for item in json.loads(castlewalls("show", "none", "--json").stdout)] == [
        "attack",
        "defense",
    ]
    assert "seeds" in castlewalls("show", "digits").stdout
    assert "digits-cnn" in castlewalls("show", "digits-ddpm").stdout


def test_the_doctor_looks_at_everything(castlewalls):
    result = castlewalls("doctor", "--json", plugin=False)
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert {
        "python",
        "processor",
        "bf16",
        "memory",
        "store",
        "cuda",
        "compiler",
        "attacks",
        "shipped weights",
        "cifar10-ddpm",
    } <= set(checks)
    assert result.exit_code == int(any(check["status"] == "problem" for check in checks.values()))
    (Path("blocked")).write_text("")
    blocked = castlewalls("doctor", "--store", "blocked", plugin=False)
    assert blocked.exit_code == 1 and "must be a folder" in blocked.stdout


def test_the_doctor_names_the_compiler_that_is_there(monkeypatch, tmp_path):
    """Half an hour into a run is late to learn that ``compiled: true`` cannot be."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("CXX", "c++-12")
    check = {one.name: one for one in doctor.examine(tmp_path)}["compiler"]
    assert check.status == "note" and "only testbeds with compiled: true" in check.detail
    (tmp_path / "c++-12").touch(mode=0o755)
    check = {one.name: one for one in doctor.examine(tmp_path)}["compiler"]
    assert (check.status, check.detail) == ("ok", str(tmp_path / "c++-12"))


def test_a_report_needs_a_store(castlewalls):
    result = castlewalls("report", plugin=False)
    assert result.exit_code == 2 and "there is no store at store" in result.stderr
    os.mkdir("store")
    result = castlewalls("report", "--output", "board.html", plugin=False)
    assert result.exit_code == 2 and "store holds no records yet" in result.stderr


def test_pretraining_is_for_embedded_testbeds(castlewalls, monkeypatch, tmp_path):
    result = castlewalls("pretrain", "cifar10-ddpm", "--output", "weights", plugin=False)
    assert result.exit_code == 2 and "uses published weights" in result.stderr

    def recipe(output, progress):
        output.mkdir()
        (output / "w.safetensors").write_bytes(b"weights")
        progress(1, 1, "training")
        return {"accuracy": 0.97}

    monkeypatch.setattr("bench.testbeds.digits_ddpm.pretrain", recipe)
    result = castlewalls("pretrain", "digits-ddpm", "--output", "weights", plugin=False)
    assert (
        result.exit_code == 0
        and "accuracy 0.97" in result.stdout
        and "1/1 training" in result.stderr
    )
    from bench import testbeds

    assert testbeds.damaged_files(tmp_path / "weights") == []
    (tmp_path / "weights" / "w.safetensors").write_bytes(b"others")
    assert "is not the file that was shipped" in testbeds.damaged_files(tmp_path / "weights")[0]
    (tmp_path / "weights" / "w.safetensors").unlink()
    assert "is missing" in testbeds.damaged_files(tmp_path / "weights")[0]


def test_pretraining_draws_one_bar_however_many_steps(castlewalls, monkeypatch):
    """A bar a step took more time than the training itself."""
    bars = []
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setattr(
        "rich.progress.Progress.add_task", lambda self, what, **options: bars.append(what) or 0
    )
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, **options: None)

    def recipe(output, progress):
        output.mkdir()
        for done in range(1, 51):
            progress(done, 50, "training")
        return {}

    monkeypatch.setattr("bench.testbeds.digits_ddpm.pretrain", recipe)
    assert (
        castlewalls("pretrain", "digits-ddpm", "--output", "weights", plugin=False).exit_code == 0
    )
    assert bars == ["training"]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_examples(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0 and f"castlewalls {name}" in result.stdout


def test_the_version_is_the_packages():
    assert (
        CliRunner().invoke(cli, ["--version"]).stdout
        == f"castlewalls, version {bench.__version__}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("runn", "No such command 'runn'. Did you mean 'run'? (see castlewalls --help)"),
        ("--foo", "No such option '--foo' (see castlewalls --help)"),
        ("run", "Missing argument 'SUITE...' (see castlewalls run --help)"),
        (
            "run digits --jobs x",
            "Invalid value for '--jobs': 'x' is not a valid integer (see castlewalls run --help)",
        ),
        ("verify bundle --rerun", "Option '--rerun' requires an argument"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: str, line: str) -> None:
    """Click's own four begin with the usage; a script shows its user the last or the first."""
    result = CliRunner().invoke(cli, arguments.split(), prog_name="castlewalls")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"castlewalls: {line}")


def test_importing_bench_loads_nothing_heavy():
    """The board and `castlewalls --help` must not wait for torch."""
    code = (
        "import sys, bench, bench.cli, bench.engine, bench.record;"
        "print(sorted({'torch', 'pandas', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_notebook_gets_a_table(castlewalls, fake_plugins, tmp_path):
    options = {
        "plugins": [fake_plugins],
        "seeds": [0],
        "attacks": ["fake_attack"],
        "defenses": [],
        "jobs": 1,
        "quiet": True,
        "stages": STAGES,
    }
    table = bench.run("suite.yaml", tmp_path / "other", **options)
    assert list(table["attack"]) == ["fake_attack", "none", "real_images", "base_model"]
    assert (
        table["fid[fake]"].notna().all()
        and (table["cost.seconds"][table["attack"] != "real_images"] > 0).all()
    )
    with pytest.raises(bench.errors.UserError, match="there is no store"):
        bench.load_records(tmp_path / "nowhere")


INTERRUPTED = """
import functools, importlib.util, sys
from bench import testbeds
from bench import runner as api
spec = importlib.util.spec_from_file_location("fake_testbed", {testbed!r})
module = sys.modules["fake_testbed"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
testbeds.TESTBEDS["tiny"] = "fake_testbed:TINY"
api.prepare = functools.partial(api.prepare, stages={stages!r})
from bench.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_is_one_line_and_exit_code_130(castlewalls, fake_plugins, tmp_path, number):
    script = tmp_path / "run.py"
    script.write_text(
        INTERRUPTED.format(testbed=str(HERE / "engine" / "fake_testbed.py"), stages=STAGES)
    )
    command = [
        sys.executable,
        str(script),
        "run",
        "suite.yaml",
        "--plugin",
        str(fake_plugins),
        "--jobs",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "FAKE_SLEEP": "0.3"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while (
        len(list(tmp_path.glob("store/stages/*/*"))) < 2
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    kept = len(list(tmp_path.glob("store/stages/*/*")))
    assert (
        err.strip().splitlines()[-1]
        == f"interrupted; {kept} stages are kept; run the same command to go on"
    )
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


LIVE = INTERRUPTED.replace(
    "from bench.cli import main\n",
    "from bench.engine import live\nlive.EVERY, live.SHARE = 0.3, 1000.0\n"
    "from bench.cli import main\n",
)


def test_the_board_fills_while_the_run_goes_on(castlewalls, fake_plugins, tmp_path):
    """Through a kill, an interrupt and to the end; then it is the board that `report` writes."""
    script, board = tmp_path / "run.py", tmp_path / "store" / "report.html"
    script.write_text(LIVE.format(testbed=str(HERE / "engine" / "fake_testbed.py"), stages=STAGES))
    (tmp_path / "other.yaml").write_text(SUITE.replace("small", "other").replace("[0, 1]", "[2]"))
    suites = ["suite.yaml", "other.yaml", "--plugin", str(fake_plugins), "--jobs", "1"]

    def start(sleep):
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "FAKE_SLEEP": str(sleep)}
        return subprocess.Popen(
            [sys.executable, str(script), "run", *suites],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pages(process, enough):
        """What the page was, one version after another, until it was ``enough``."""
        versions, deadline = [], time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            text = board.read_text() if board.exists() else ""
            if text and (not versions or text != versions[-1]):
                versions.append(text)
                if enough(versions):
                    break
            time.sleep(0.02)
        return versions

    def live(text):
        return 'id="live"' in text and "location.reload" in text

    def coming(text):
        return int(text.partition(" cells still coming")[0].rpartition(" ")[2])

    killed = start(0.3)
    versions = pages(killed, lambda seen: coming(seen[-1]) < coming(seen[0]))
    killed.send_signal(signal.SIGKILL)
    assert "board: store/report.html" in killed.communicate()[1]
    assert len(versions) > 1 and all(map(live, versions)) and 'id="matrix"' in versions[-1]
    assert all(text.rstrip().endswith("</html>") for text in versions)
    # 2 attacks and their probes x 3 defenses for 3 seeds, of which half fit the testbed, and 2
    # anchors a seed; those that are there are no longer coming.
    numbers = [coming(text) for text in versions]
    assert numbers == sorted(numbers, reverse=True) and 24 >= numbers[0] > numbers[-1]
    assert live(board.read_text()), "nobody was left to say that the run is over"

    interrupted = start(2.0)  # slow enough for a page of its own before its end
    versions = pages(interrupted, lambda seen: len(seen) > 1)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(300) == 130 and coming(versions[1]) <= numbers[-1]
    assert not live(board.read_text()) and "<h1>" in board.read_text()

    last = start(0.0)
    out, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert out.strip().splitlines()[-1] == "store/report.html"
    page = board.read_bytes()
    assert not live(page.decode())
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-m", "bench", "report"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert board.read_bytes() == page
    assert [path.name for path in board.parent.glob(".*")] == []


def test_a_board_that_cannot_be_written_ends_no_run(castlewalls, monkeypatch, tmp_path):
    def fails(*arguments, **progress):
        raise ValueError("two\nlines")

    monkeypatch.setattr(leaderboard.report, "build_live", fails)
    result = castlewalls("run", "suite.yaml", "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("the board is written at the end only: two lines") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "{loop}"],
        ["run", "digits-cut", "--plugin", "{loop}", "--dry-run"],
    ],
)
def test_links_that_lead_to_each_other_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    """Python before 3.13 raises a RuntimeError for them."""
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(loop)
    done = CliRunner().invoke(cli, [one.format(loop=loop) for one in arguments])
    assert done.exit_code == 2 and done.output.count("\n") == 1, done.output
    assert done.output.startswith("castlewalls: ") and str(tmp_path) in done.output
