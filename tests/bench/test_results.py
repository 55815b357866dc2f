"""Results: what an export keeps of a run, what it refuses, and what a stranger's folder can do to
whoever reads it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import bench
from bench import export as exporting
from bench import results, rows
from bench import runner as api
from bench.cli import cli
from bench.record import Flag, Metric, Picture, PluginSpec, Record, read_runs
from bench.words import MetricWords

ROOT = Path(__file__).resolve().parents[2]
STAGES = str(Path(__file__).parent / "engine" / "fake_stages.py")
SUITE = """
name: small
description: a suite of nothing
testbeds: [tiny]
attacks: [fake_attack, fake_text_attack]
defenses: [fake_sampler, fake_invert]
seeds: [0, 1]
"""


def command(*arguments: str):
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(cli, [*map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def store(tiny, fake_plugins, tmp_path, monkeypatch):
    """A tiny suite, run by the engine with stages that take no time."""
    monkeypatch.setattr(api, "prepare", functools.partial(api.prepare, stages=STAGES))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)
    where = ("--plugin", fake_plugins, "--store", tmp_path / "store", "--no-report", "--json")
    assert command("run", "suite.yaml", *where).exit_code == 0
    return tmp_path / "store"


def a_record(seed: int = 0, **fields) -> Record:
    return Record(
        testbed=PluginSpec(name="digits-ddpm", params={"side": 16}),
        attack=PluginSpec(name="baddiffusion", params={"target": "hat"}, label="baddiffusion(hat)"),
        defense=PluginSpec(name="none"),
        seed=seed,
        **{"status": "ok", "kind": "control", "protocol": "abc", **fields},
    )


def rich_record() -> Record:
    """Every field is used."""
    return a_record(
        probe=PluginSpec(name="trojdiff"),
        sampler=PluginSpec(name="ddim", params={"eta": 0.0}),
        seeds=(0, 1),
        metrics={
            "asr[noise]": Metric(value=0.1 + 0.2, ci_low=0.0, n=3, effective_n=2.5, unit="share"),
            "fid[x]": Metric(value=None, higher_is_better=False),
        },
        series={"outcomes[asr[noise]]": [0.0, 1.0, -0.0, 1e-300, 1e99, 0.1 + 0.2]},
        flags=(Flag("vacuous-threshold", "asr", "all"),),
        absent={"auroc[noise]": "no detector of noise"},
        cost={"seconds": 1.5},
        provenance={
            "packages": {"torch": "2"},
            "papers": [{"title": "A"}],
            "git": None,
            "stage": "ab",
            "inputs": {"clean": "cd"},
        },
    )


def write(folder: Path, records: list[Record], **changes) -> Path:
    """A suite's results, as an export leaves them but for ``changes`` in run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = rows.lines_of(records)
    account = {
        "schema": 2, "suite": folder.name, "description": "", "started": "2026-01-01",
        "finished": "2026-01-02", "cells": len(records), "metrics": [], "note": "",
        "sha256": hashlib.sha256(lines).hexdigest(), **changes,
    }  # fmt: skip
    (folder / "records.jsonl").write_bytes(lines)
    (folder / "run.json").write_text(json.dumps(account))
    return folder


def sealed(folder: Path, lines: bytes) -> None:
    """Records with a fitting SHA-256: the stranger can compute one too."""
    account = json.loads((folder / "run.json").read_text())
    account["sha256"] = hashlib.sha256(lines).hexdigest()
    (folder / "records.jsonl").write_bytes(lines)
    (folder / "run.json").write_text(json.dumps(account))


def without_store(record: Record) -> Record:
    """What an export may leave out: it is of use beside the store alone, and is there."""
    assert record.status != "ok" or record.provenance["inputs"]
    origin = {name: value for name, value in record.provenance.items() if name != "inputs"}
    return dataclasses.replace(record, pictures=(), trace="", provenance=origin)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_export_keeps_every_number_and_repeats_to_the_byte(store, tmp_path):
    """A commit that changes without a reason hides the one that does."""
    done = command("export", "small", "--store", store, "--output", tmp_path / "one")
    assert done.exit_code == 0, done.output
    (run,) = read_runs(store)
    (protocol,) = {record.protocol for _, record in run.records}
    assert "28 records, " in done.stdout and f"protocol of tiny {protocol}" in done.stdout
    again = command("export", "small", "--store", store, "--output", tmp_path / "one")
    assert f"in place of 28 records under {protocol[:8]}" in again.stdout
    moved = tmp_path / "elsewhere"
    shutil.copytree(store, moved)
    command("export", "--store", moved, "--output", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two") and files(tmp_path / "one")

    (read,) = results.read_results(tmp_path / "one")
    assert (read.suite, read.description, read.started, read.finished, read.metrics) == (
        run.suite, run.description, run.started, run.finished, run.metrics,
    )  # fmt: skip
    bare = [without_store(one).to_json() for _, one in run.records]
    kept = [dataclasses.replace(one, pictures=()).to_json() for _, one in read.records]
    assert sorted(bare) == sorted(kept) and read.problems == ()
    assert read.counts == {"ok": 16, "failed": 0, "skipped": 12}
    tables = bench.load_records(store), bench.load_records(tmp_path / "one")
    assert list(tables[0].columns) == list(tables[1].columns) and len(tables[1]) == 28


def test_the_board_of_results_has_the_stores_numbers_and_needs_no_torch(store, tmp_path):
    command("export", "small", "--store", store, "--output", tmp_path / "results")
    assert command("report", "--store", store).stdout.strip() == f"{store}/report.html"
    code = (
        "import sys; from bench.cli import cli; cli(['report', 'results'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "report.html\n", done.stderr
    assert (tmp_path / "report.csv").read_bytes() == (store / "report.csv").read_bytes()


def test_a_run_that_is_not_complete_is_refused_in_one_line(store, tmp_path):
    """Published with a gap, a defense would be ranked on the seeds that went well."""
    account = json.loads((store / "runs" / "small.json").read_text())
    account["cells"][0] = {"id": account["cells"][0]["id"]}
    (store / "runs" / "small.json").write_text(json.dumps(account))
    for suites, words in (
        (["small"], "small in {} is not complete: 1 cells pending; finish it with"),
        ([], "{} holds no complete run (small: 1 cells pending)"),
        (["smal"], "{} holds no run of smal; it holds small"),
    ):
        done = command("export", *suites, "--store", store, "--output", tmp_path / "results")
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert words.format(store) in done.stderr
    assert not (tmp_path / "results").exists()
    for suites in ([], ["small"]):
        options = ("--partial", "--store", store, "--output", tmp_path / "r")
        done = command("export", *suites, *options)
        assert done.exit_code == 0, done.stderr
    (run,) = results.read_results(tmp_path / "r")
    assert done.exit_code == 0 and run.counts["missing"] == 1 and len(run.records) == 27
    done = command("export", "small", "--store", tmp_path / "no", "--output", tmp_path / "r")
    assert done.exit_code == 2 and "there is no store at" in done.stderr


def test_a_run_that_was_interrupted_is_refused(store, tmp_path):
    """An edited plugin's first seeds stood beside those of the plugin as it was before."""
    account = json.loads((store / "runs" / "small.json").read_text())
    (store / "runs" / "small.json").write_text(json.dumps(account | {"finished": None}))
    done = command("export", "small", "--store", store, "--output", tmp_path / "results")
    assert done.exit_code == 2 and "its last run was interrupted" in done.stderr
    assert not (tmp_path / "results").exists()


def test_what_is_not_ours_is_not_removed(store, tmp_path):
    """An export replaces its folder; somebody's notes in it, or a link elsewhere, are no export."""
    folder = tmp_path / "results" / "small"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    done = command("export", "small", "--store", store)
    assert done.exit_code == 2 and "holds notes.txt, which no export wrote" in done.stderr
    assert files(folder) == {"notes.txt": b"mine"}
    shutil.rmtree(folder)
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/holiday.png").write_bytes(b"mine")
    done = command("export", "small", "--store", store)
    assert done.exit_code == 2 and "holds holiday.png, which no export wrote" in done.stderr
    assert (folder / "pictures/holiday.png").read_bytes() == b"mine"
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    done = command("export", "small", "--store", store)
    assert done.exit_code == 2 and "is not a folder of results" in done.stderr
    assert list((tmp_path / "results").iterdir()) == [folder]


def test_every_field_comes_back(tmp_path):
    """Shared values, left-out defaults and whole numbers are ways of writing, not of rounding."""
    records = [rich_record(), dataclasses.replace(rich_record(), seed=1), a_record()]
    (run,) = results.read_results(write(tmp_path / "x" / "suite", records).parent)
    assert run.problems == ()
    back = sorted((record for _, record in run.records), key=lambda one: (one.seed, one.kind))
    assert [one for one in back if one.probe] == records[:2] and records[2] in back
    series = back[0].series or back[1].series
    assert str(series["outcomes[asr[noise]]"][2]) == "-0.0"
    text = (tmp_path / "x/suite/records.jsonl").read_text()
    assert text.count("no detector of noise") == 1, "shared by two records"
    fewer = rows.lines_of([rich_record()] * 2).decode().splitlines()
    kept = [line for line in fewer if line.startswith('{"shared"')]
    assert kept and set(kept) < set(text.splitlines()), "a key is of its value alone"
    assert text == rows.lines_of(records[::-1]).decode(), "in a fixed order"


def test_pictures_of_the_lowest_seed_come_along_once(tmp_path):
    """They are most of a store's bytes; a page needs what is drawn with and without a call, which
    it subtracts, and what a classifier must not fall for.
    """
    folder = tmp_path / "store" / "one"
    folder.mkdir(parents=True)
    for name, side in (("a.png", 8), ("b.png", 8), ("big.png", 3000)):
        Image.new("RGB", (side, 8), (9, side % 256, 1)).save(folder / name)
    pictures = tuple(
        Picture(role, treatment, path)
        for role, treatment, path in (
            ("call:noise", "", "a.png"), ("call:noise", "clip", "b.png"), ("target", "", "big.png"),
            ("clean", "", "a.png"), ("stamped", "", "b.png"), ("recovered:1", "", "a.png"),
            ("target_image", "", "../../secret.png"),
        )
    )  # fmt: skip
    (tmp_path / "secret.png").write_bytes((folder / "a.png").read_bytes())
    run = results.Run(
        suite="s", description="", started="", finished="", counts={"ok": 2},
        records=[(folder, a_record(seed, pictures=pictures)) for seed in (3, 4)],
    )  # fmt: skip
    written = exporting.results_of(run)
    assert len([name for name in written if name.startswith("pictures/")]) == 1, "equal ones once"
    assert b"Pictures: seed 3" in written["run.json"]
    for name, data in written.items():
        path = tmp_path / "r" / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (read,) = results.read_results(tmp_path / "r")
    assert read.problems == ()
    by_seed = {
        record.seed: [f"{one.role} {one.treatment}".strip() for one in record.pictures]
        for _, record in read.records
    }
    assert by_seed == {3: ["call:noise", "call:noise clip", "clean", "stamped"], 4: []}


def spoil(folder: Path, fault: str) -> None:
    """What a stranger, or a bad copy, may do to the results of a suite."""
    lines = (folder / "records.jsonl").read_bytes()
    account = folder / "run.json"
    if fault == "changed":
        (folder / "records.jsonl").write_bytes(lines.replace(b"hat", b"cat"))
    elif fault == "link to records":
        (folder / "records.jsonl").rename(folder.parent / "there")
        (folder / "records.jsonl").symlink_to(folder.parent / "there")
    elif fault == "link to a folder":
        folder.rename(folder.parent / ".hidden")
        folder.symlink_to(folder.parent / ".hidden")
    elif fault == "pipe":
        account.unlink()
        os.mkfifo(account)
    elif fault == "large":
        account.write_bytes(b" " * (results.MAX_RUN + 1))
    elif fault == "deep":
        account.write_text("[" * 200_000)
    elif fault == "no JSON":
        account.write_text("{")
    elif fault == "no account":
        account.unlink()
    elif fault == "schema":
        account.write_text(account.read_text().replace('"schema": 2', '"schema": 1'))
    elif fault == "words":
        words = [{"name": "x", "title": "\x1b[2J"}]
        account.write_text(
            account.read_text().replace('"metrics": []', f'"metrics": {json.dumps(words)}')
        )
    elif fault in LINES:
        sealed(folder, LINES[fault] + lines)
    else:
        sealed(folder, lines.replace(b'"seed":0', b'"seed":0,' + FIELDS[fault]))


#: What may stand before the records, and in one.
LINES = {
    "shared without a key": b'{"shared":7,"value":1}\n',
    "no object": b"[]\n",
}
FIELDS = {
    "key": b'"absent":"ffffff"',
    "field": b'"secret":1',
    "provenance": b'"provenance":{}',
    "seed": b'"seed":-1',
    "huge number": b'"cost":{"seconds":1%s}' % (b"0" * 400),
    "huge curve": b'"series":{"x":[1%s]}' % (b"0" * 400),
    "huge ends": b'"series":{"x":{"first":1%s,"last":2,"values":9}}' % (b"0" * 400),
    "endless curve": b'"series":{"x":{"runs":[9%s]}}' % (b"0" * 12),
    "no curve": b'"series":{"x":{"runs":[-1]}}',
    "curve over nothing": b'"series":{"x":{"of":0,"counts":[1]}}',
    "series": b'"series":[]',
    "metric": b'"metrics":{"x":[]}',
    "long metric": b'"metrics":{"x":[1,1,1,1,1,1]}',
    "metric of text": b'"metrics":{"x":["1"]}',
    "declared": b'"declared":{"x":{"value":2}},"metrics":{"x":[1]}',
    "reason": b'"absent":{"why":"x"}',
    "two reasons": b'"absent":{"why":["x"],"how":["x"]}',
    "stage": b'"made":[]',
    "picture elsewhere": b'"pictures":[{"path":"../../x.png","role":"a","treatment":""}]',
}


FAULTS = {
    "changed": "is not what run.json was written with",
    "link to records": "records.jsonl is a link, and links are not followed",
    "link to a folder": "it is a link, and links are not followed",
    "pipe": "run.json is no plain file",
    "large": "run.json has more than",
    "deep": "run.json is nested too deeply",
    "no JSON": "run.json is no JSON",
    "no account": "No such file",
    "schema": "run.json must be an object of schema 2",
    "words": "title of a metric must be at most",
    "shared without a key": "line 1: a shared value must have a key of its own",
    "no object": "line 1: a record must be an object, got list",
    "key": "line 4: absent is 'ffffff', which no line before it shares",
    "field": "line 4: of another version: unknown field 'secret'",
    "provenance": "line 4: of another version: unknown field 'provenance'",
    "seed": "line 4: seed must be a whole number from 0 up",
    "huge number": "line 4: cost seconds must be a finite number",
    "huge curve": "line 4: series x must be a list of finite numbers",
    "huge ends": "line 4: series x must be a list of numbers, or have runs",
    "endless curve": "line 4: all records have more than 268435456 bytes",
    "no curve": "line 4: series x must be a list of numbers, or have runs",
    "curve over nothing": "line 4: series x must be a list of numbers, or have runs",
    "series": "line 4: series must be an object, got list",
    "metric": "line 4: metric x must be a list of 1 to 5",
    "long metric": "line 4: metric x must be a list of 1 to 5",
    "metric of text": "line 4: value of x must be a finite number",
    "declared": "line 4: what is declared of x must be a unit and a direction",
    "reason": "line 4: absent must give names for 'why'",
    "two reasons": "line 4: absent must give each name one reason",
    "stage": "line 4: made must be an object, got list",
    "picture elsewhere": "picture ../../x.png must be called pictures/",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_takes_nothing_else_with_it(tmp_path, fault):
    write(tmp_path / "fine", [a_record()])
    spoil(write(tmp_path / "odd", [a_record(), a_record(1)]), fault)
    fine, odd = results.read_results(tmp_path)
    (line,) = odd.problems
    assert FAULTS[fault] in line and "results of odd" in line and line.isprintable()
    assert fine.problems == () and len(fine.records) == 1
    done = command("report", tmp_path, "--output", tmp_path / "board.html")
    assert done.exit_code == 0 and f"castlewalls: warning: {line}\n" == done.stderr


def test_what_a_folder_may_take_is_bounded(tmp_path, monkeypatch):
    """A line of a few bytes that stands for megabytes, ten thousand times, fills the memory."""
    names = [f"{number:03}" for number in range(250)]
    for field in (
        {"absent": {"x": "y" * 1000}},
        {"absent": dict.fromkeys(names, "why?")},
        {"series": {"outcomes[asr[noise]]": [0.0] * 150}},
        {"series": {"edges": [float(number) for number in range(150)]}},
    ):
        records = [a_record(seed, **field) for seed in range(9)]
        folder = write(tmp_path / "suite", records)
        assert results.read_results(tmp_path)[0].problems == ()
        monkeypatch.setattr(rows, "MAX_EXPANDED", 6000)
        (run,) = results.read_results(tmp_path)
        assert 1 <= len(run.records) <= 4 and "have more than 6000" in run.problems[0], field
        monkeypatch.undo()
    monkeypatch.setattr(results, "MAX_LINES", 4)
    monkeypatch.setattr(rows, "MAX_LINES", 4)
    (run,) = results.read_results(tmp_path)
    assert not run.records and "cells in run.json must be" in run.problems[0]
    write(folder, records, cells=4)
    (run,) = results.read_results(tmp_path)
    assert len(run.records) == 4 and "more than 4 records" in run.problems[0]
    assert len(list(rows.records_of(b"\n" * 99))) == 5, "lines without a record count too"
    monkeypatch.setattr(rows, "MAX_SHARED", 1)
    assert "line 2: more than 1 shared values" in results.read_results(tmp_path)[0].problems[0]
    monkeypatch.setattr(rows, "MAX_LINE", 100)
    (run,) = results.read_results(tmp_path)
    assert not run.records and "line 1: it has" in run.problems[0]


def test_many_faults_are_few_lines(tmp_path):
    folder = write(tmp_path / "suite", [a_record(seed) for seed in range(9)])
    sealed(folder, (folder / "records.jsonl").read_bytes().replace(b'"status":"ok"', b'"status":1'))
    (run,) = results.read_results(tmp_path)
    assert len(run.problems) == 4 and run.problems[-1].endswith("6 more faults like these")
    assert run.counts["missing"] == 9


def test_a_picture_is_its_name_and_small(tmp_path):
    """A page embeds it: what another program made of the file must not stand on the board."""
    made = tmp_path / "made.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(made)
    data = made.read_bytes()
    wide = data[:16] + (10**6).to_bytes(4, "big") + data[20:]
    for content, name, words in (
        (data, "0" * 24 + ".png", "is another than its name"),
        (b"<svg onload=alert(1)>" * 9, None, "is not a PNG"),
        (wide, None, "is larger than 2048 pixels"),
        (data + b"0" * results.MAX_PICTURE, None, "has more than"),
    ):
        name = name or results.picture_name(content)
        folder = write(
            tmp_path / "r" / "s", [a_record(pictures=(Picture("a", "", f"pictures/{name}"),))]
        )
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / name).write_bytes(content)
        (run,) = results.read_results(tmp_path / "r")
        assert run.records[0][1].pictures == () and words in run.problems[0]


def test_bounds_of_a_declaration_are_numbers_that_a_float_holds():
    """10**400 is less than infinity, and no arithmetic with it succeeds."""
    with pytest.raises(ValueError, match="bounds of x must be numbers"):
        MetricWords.from_json({"name": "x", "title": "x", "high": 10**400})
    assert MetricWords.from_json({"name": "x", "title": "x", "high": 10}).high == 10


def test_other_folders_are_no_source(tmp_path):
    for path, words in (
        (tmp_path, "holds no records yet"),
        (tmp_path / "x", "is no folder"),
    ):
        done = command("report", path)
        assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_the_published_results_are_those_of_the_checkout(monkeypatch, tmp_path):
    assert results.published() == ROOT / "results"
    monkeypatch.setattr(results, "published", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    done = command("report", "--published")
    assert done.exit_code == 2 and "no results come with this castlewalls yet" in done.stderr
    write(tmp_path / "suite", [a_record(metrics={"asr[noise]": Metric(value=0.5, n=9)})])
    done = command("report", "--published")
    assert done.exit_code == 0 and done.stdout == "report.html\n"
    assert "0.5" in (tmp_path / "report.csv").read_text()


def test_what_others_submitted_stands_in_a_folder_of_its_own(tmp_path):
    """It is read as bundles, and never as what was measured here."""
    bundle = tmp_path / "submissions" / "mine-digits"
    bundle.mkdir(parents=True)
    (bundle / "bagit.txt").write_text("BagIt-Version: 1.0\n")
    assert results.bundles_in(tmp_path) == [bundle] and results.read_results(tmp_path) == []


def test_what_a_record_has_worked_out_is_no_part_of_it() -> None:
    """A skipped cell comes from the plan, which had asked for its identity: verification refused
    every bundle with one.
    """
    spec = PluginSpec(name="x", params={"a": 1}, label="x(a=1)")
    assert spec.identity
    record = Record(testbed=spec, attack=spec, defense=spec, seed=0, status="skipped", reason="r")
    lines = rows.lines_of([record])
    assert b"identity" not in lines
    assert [again for _, again in rows.records_of(lines)] == [record]


def test_an_export_that_is_ended_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    folder, plain = tmp_path / "s", Path.rename
    exporting._put(folder, {"run.json": b"before"})

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise KeyboardInterrupt
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        exporting._put(folder, {"run.json": b"after"})
    assert files(tmp_path) == {"s/run.json": b"before"}
