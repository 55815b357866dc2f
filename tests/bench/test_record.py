"""Records and accounts from anywhere: what is odd in one of them is one row or one line, and never
anybody else's board.
"""

import copy
import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.manifest import MANIFEST, file_hashes
from bench.record import MAX_ENTRIES, Flag, Metric, Picture, PluginSpec, Record, read_runs
from leaderboard.report import build

GOOD = Record(
    testbed=PluginSpec(name="t", params={"n": 1}, label="t"),
    attack=PluginSpec(name="a", params={"rate": 0.1}, label="a(rate=0.1)"),
    defense=PluginSpec(name="d", label="d"),
    probe=PluginSpec(name="p"),
    seed=3,
    status="ok",
    kind="sampler",
    protocol="1234",
    metrics={
        "asr[noise]": Metric(value=0.25, ci_low=0.1, ci_high=0.4, n=16, higher_is_better=False),
        "fid[x]": Metric(value=2.5, n=16, higher_is_better=False),
    },
    series={"curve": [0.5, 1.0]},
    flags=(Flag("vacuous-threshold", "asr", "vacuous threshold"),),
    pictures=(Picture("clean", "", "strip-0.png"), Picture("clean", "clip", "strip-1.png")),
    cost={"seconds": 2.0},
    provenance={"castlewalls": "0.1.0"},
)


def changed(path, value):
    """The good record's JSON with one value changed; ``path``: its keys."""
    data = json.loads(GOOD.to_json())
    container = data
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = value
    return json.dumps(data)


def test_a_record_comes_back_as_it_was():
    assert Record.from_json(GOOD.to_json()) == GOOD


def test_a_record_without_the_newer_fields_is_read():
    data = json.loads(GOOD.to_json())
    for name in ("probe", "sampler", "series", "flags", "pictures", "trace"):
        del data[name]
    assert Record.from_json(json.dumps(data)).metrics == GOOD.metrics


def test_a_record_of_before_flags_had_codes_and_pictures_keys_is_read():
    data = json.loads(GOOD.to_json())
    data["flags"] = ["asr: vacuous\x1b[2J threshold"]
    data["pictures"] = {"clean noise, no defense": "strip-0.png"}
    record = Record.from_json(json.dumps(data))
    assert record.flags == (Flag("note", "", "asr: vacuous threshold"),)
    assert record.pictures == (Picture("clean noise, no defense", "", "strip-0.png"),)
    assert Record.from_json(record.to_json()) == record


def test_a_flag_is_about_its_metric_its_family_or_the_whole_cell():
    one, family, whole = (
        Flag("odd", metric, "odd, very: so") for metric in ("auroc[generated]", "auroc", "")
    )
    for metric, concerned in {
        "auroc[generated]": (True, True, True),
        "auroc[training set]": (False, True, True),
        "fid[x]": (False, False, True),
        "": (False, False, True),
    }.items():
        assert tuple(flag.concerns(metric) for flag in (one, family, whole)) == concerned, metric
    assert one.concerns("tpr_at_1_fpr[generated]", "auroc")
    assert not one.concerns("tpr_at_1_fpr[training set]", "auroc")
    assert [flag.line for flag in (one, family, whole)] == [
        "auroc: odd, very: so (generated)",
        "auroc: odd, very: so",
        "odd, very: so",
    ]
    assert one.short == "odd" and Flag("remark", "", "mine").line == "remark: mine"
    for code in ("", "Odd", "a b", "a--b", "a" * 61, "a\n"):
        with pytest.raises(ValueError, match="kebab-case"):
            Flag(code, "", "odd")


BAD = {
    "seeds twice": (["seeds"], [1, 1]),
    "a negative seed among many": (["seeds"], [1, -1]),
    "another schema": (["schema"], 2),
    "an unknown field": (["beauty"], 1),
    "an unknown field of a metric": (["metrics", "fid[x]", "beauty"], 1),
    "status great": (["status"], "great"),
    "status as a list": (["status"], []),
    "a seed as text": (["seed"], "3"),
    "a seed below 0": (["seed"], -1),
    "a seed that is true": (["seed"], True),
    "a label as a list": (["attack", "label"], ["a"]),
    "no name": (["attack", "name"], ""),
    "a name of 5,000 letters": (["attack", "name"], "a" * 5000),
    "a parameter of 100,000 numbers": (["attack", "params", "rate"], [0] * 100_000),
    "a plugin as text": (["defense"], "d"),
    "a value as text": (["metrics", "fid[x]", "value"], "2.5"),
    "a share below 0": (["metrics", "asr[noise]", "value"], -5),
    "a share above 1": (["metrics", "asr[noise]", "value"], 1.01),
    "a distance below 0": (["metrics", "fid[x]", "value"], -1),
    "a direction turned round": (["metrics", "asr[noise]", "higher_is_better"], True),
    "a direction as text": (["metrics", "fid[x]", "higher_is_better"], "no"),
    "an interval turned round": (["metrics", "asr[noise]", "ci_low"], 0.9),
    "a negative count": (["metrics", "asr[noise]", "n"], -1),
    "a count with a fraction": (["metrics", "asr[noise]", "n"], 1.5),
    "a count of 300 digits": (["metrics", "asr[noise]", "n"], 10**300),
    "a cost whose sums are none": (["cost", "seconds"], 1e308),
    "a distance whose square is none": (["metrics", "fid[x]", "value"], 1e200),
    "an infinite cost": (["cost", "seconds"], math.inf),
    "NaN in a series": (["series", "curve"], [math.nan]),
    "a series beyond all numbers": (["series", "curve"], [1.7e308]),
    "text in a series": (["series", "curve"], ["x"]),
    "NaN in provenance": (["provenance", "x"], [math.nan]),
    "flags as text": (["flags"], "asr"),
    "numbers as flags": (["flags"], [1]),
    "a flag without a code": (["flags"], [{"metric": "", "text": "odd"}]),
    "a flag with more": (["flags"], [{"code": "a", "metric": "", "text": "odd", "level": 1}]),
    "a flag's code as prose": (["flags", 0, "code"], "Not an error"),
    "a flag's code of 61 letters": (["flags", 0, "code"], "a" * 61),
    "a flag's metric of 301 letters": (["flags", 0, "metric"], "a" * 301),
    "a flag's text as a number": (["flags", 0, "text"], 1),
    "pictures as text": (["pictures"], "strip-0.png"),
    "a picture without a path": (["pictures"], [{"role": "clean", "treatment": ""}]),
    "a picture's path as a number": (["pictures", 0, "path"], 1),
    "two pictures of one key": (["pictures", 1, "treatment"], ""),
    "a picture that is a number": (["pictures"], {"strip": 1}),
    "a reason that is a number": (["reason"], 7),
    "a parameter that no float holds": (["attack", "params", "rate"], 10**400),
    "provenance that is nested": (["provenance", "x"], json.loads("[" * 600 + "]" * 600)),
    "metrics as a list": (["metrics"], []),
    "too many metrics": (
        ["metrics"],
        {str(index): {"value": 1} for index in range(MAX_ENTRIES + 1)},
    ),
}
TEXTS = {name: changed(*change) for name, change in BAD.items()} | {
    "empty": "",
    "cut off": GOOD.to_json()[:200],
    "a list": "[]",
    "deep": "[" * 100_000,
    "a number too long": changed(["seed"], 1).replace('"seed": 1', f'"seed": {"9" * 6000}'),
    "1e999": GOOD.to_json().replace("2.5", "1e999"),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_bad_record_is_refused_in_one_line(text):
    with pytest.raises(ValueError) as caught:
        Record.from_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from places(inner, (*path, key))


@given(st.sampled_from([path for path in places(json.loads(GOOD.to_json())) if path]), json_values)
def test_whatever_stands_in_a_record_it_is_read_or_refused(path, value):
    """Any other exception would take the board with it; what is read must be writable again."""
    try:
        record = Record.from_json(changed(path, value))
    except ValueError:
        return
    record.to_json().encode()


def test_text_is_made_harmless():
    """Lone surrogates cannot be written, escapes clear the reader's screen, and a reason of 30 MB
    would stand in every tooltip.
    """
    text = "\x1b[2Jgone\x1b]0;title\x07 caf\udce9 \x9b31mred \u202eabc" + "x" * 100_000
    data = json.loads(GOOD.to_json()) | {"reason": text, "trace": text, "status": "failed"}
    data["attack"]["label"] = text
    record = Record.from_json(json.dumps(data))
    for read in (record.reason, record.attack.label):
        assert read.startswith("gone caf\\udce9 red abcx") and len(read) < 350
    assert "\x1b" not in record.trace and len(record.trace) <= 20_000


# --- whole stores ---------------------------------------------------------------------------------


def write(store, records, ids=True):
    """A store with one suite ``mine`` of records given as text."""
    cells = []
    for index, text in enumerate(records):
        folder = store / "stages" / f"{index:02d}" / "x"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(text)
        (folder / MANIFEST).write_text(
            json.dumps({"stage": "measure", "files": file_hashes(folder)})
        )
        named = [["t", {"n": 1}], ["a", {"rate": 0.1}], ["p", {}], ["d", {}], index]
        about = {
            "id": json.dumps(named),
            "labels": ["t", "a(rate=0.1)", "p", "d"],
            "kind": "sampler",
            "protocol": "1234",
        }
        cells.append(
            (about if ids else {}) | {"status": "ok", "record": f"stages/{index:02d}/x/record.json"}
        )
    account = {
        "suite": "mine",
        "description": "",
        "started": "2026-01-01T00:00:00+00:00",
        "finished": None,
        "cells": cells,
    }
    (store / "runs").mkdir()
    (store / "runs" / "mine.json").write_text(json.dumps(account))
    return store


def seeded(seed):
    return changed(["seed"], seed)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_one_bad_record_is_one_failed_row(tmp_path, text):
    """A colleague's store, or one file that a copy cut off, used to take the board of
    everything.
    """
    store = write(tmp_path / "store", [seeded(0), text, seeded(2)])
    (run,) = read_runs(store)
    assert [(record.seed, record.status) for _, record in run.records] == [
        (0, "ok"),
        (1, "failed"),
        (2, "ok"),
    ]
    bad = run.records[1][1]
    assert bad.reason.startswith("its record cannot be used: ") and "\n" not in bad.reason
    assert (bad.attack, bad.kind, bad.protocol) == (GOOD.attack, "sampler", "1234")
    assert run.counts == {"ok": 2, "failed": 1, "skipped": 0, "pending": 0}
    build(store, tmp_path / "board.html")


@pytest.mark.parametrize("text", ["{", "right", "other"])
def test_a_listed_sampler_is_part_of_what_a_cell_is(tmp_path, text):
    """Its record may be lost, right, or that of the testbed's own sampler."""
    sampler = {"name": "ddim", "params": {"eta": 0.5}, "label": "ddim(eta=0.5)"}
    right = changed(["sampler"], sampler).replace('"seed": 3', '"seed": 0')
    write(tmp_path, [{"{": "{", "right": right, "other": seeded(0)}[text]])
    path = tmp_path / "runs" / "mine.json"
    account = json.loads(path.read_text())
    named = json.loads(account["cells"][0]["id"])
    account["cells"][0]["id"] = json.dumps([*named[:4], ["ddim", {"eta": 0.5}], 0])
    account["cells"][0]["labels"].append("ddim(eta=0.5)")
    path.write_text(json.dumps(account))
    ((_, record),) = read_runs(tmp_path)[0].records
    assert record.sampler == PluginSpec(**sampler)
    assert record.status == ("ok" if text == "right" else "failed")
    assert "another cell" in record.reason or text != "other"


def test_a_bad_record_of_an_account_without_names_is_a_line(tmp_path):
    (run,) = read_runs(write(tmp_path, [seeded(0), "{"], ids=False))
    assert len(run.records) == 1 and run.counts["failed"] == 1
    assert run.problems[0].startswith("mine.json: its record cannot be used: Expecting")


def test_a_record_that_was_changed_by_hand_is_refused(tmp_path):
    store = write(tmp_path, [seeded(0)])
    path = store / "stages" / "00" / "x" / "record.json"
    path.write_text(path.read_text().replace("0.25", "0.15"))
    ((_, record),) = read_runs(store)[0].records
    assert record.status == "failed" and "record.json is not what was written" in record.reason


def test_a_record_of_another_cell_is_refused(tmp_path):
    """Two records changed places, or somebody's better one was copied in."""
    ((_, record),) = read_runs(write(tmp_path, [seeded(7)]))[0].records
    assert (record.seed, record.status) == (0, "failed") and "another cell" in record.reason


def test_text_that_is_made_plain_is_no_other_cell(tmp_path):
    """A concept with a mark of direction lost all of its cells."""
    odd = {"concept": "a\u202bb\u2028c"}
    store = write(tmp_path, [changed(["defense", "params"], odd).replace('"seed": 3', '"seed": 0')])
    path = store / "runs" / "mine.json"
    account = json.loads(path.read_text())
    named = json.loads(account["cells"][0]["id"])
    named[3][1] = odd
    account["cells"][0]["id"] = json.dumps(named)
    path.write_text(json.dumps(account))
    ((_, record),) = read_runs(store)[0].records
    assert (record.status, record.reason) == ("ok", "")


@pytest.mark.parametrize("path", ["../other/record.json", "/etc/record.json", "stages/00/x", 7])
def test_a_record_outside_the_store_is_not_read(tmp_path, path):
    store = write(tmp_path / "store", [seeded(0)])
    file = store / "runs" / "mine.json"
    account = json.loads(file.read_text())
    account["cells"][0]["record"] = path
    file.write_text(json.dumps(account))
    ((_, record),) = read_runs(store)[0].records
    assert record.status == "failed" and "record.json below the store" in record.reason


def test_records_that_are_gone_are_counted(tmp_path):
    store = write(tmp_path, [seeded(0), seeded(1)])
    (store / "stages" / "01" / "x").rename(tmp_path / "elsewhere")
    (run,) = read_runs(store)
    assert run.counts == {"ok": 1, "failed": 0, "skipped": 0, "pending": 0, "missing": 1}
    assert run.problems == ("mine.json: 1 records are missing from the store; run the suite again",)


ACCOUNTS = [
    "",
    "{",
    "[]",
    '{"suite": 7}',
    '{"suite": "s", "started": "x", "cells": [1]}',
    '{"suite": "s", "started": 3, "cells": []}',
    '{"suite": "s", "more": ' + "[" * 600 + "]" * 600 + "}",
]


@pytest.mark.parametrize("text", ACCOUNTS)
def test_a_bad_account_is_one_line_and_the_other_suites_stand(tmp_path, text):
    store = write(tmp_path / "store", [seeded(0)])
    (store / "runs" / "broken.json").write_text(text)
    broken, mine = read_runs(store)
    assert broken.suite == "broken" and broken.records == []
    assert (
        broken.problems[0].startswith("runs/broken.json cannot be read: ")
        and "\n" not in broken.problems[0]
    )
    assert len(mine.records) == 1
    build(store, tmp_path / "board.html")


def test_nobody_waits_on_a_pipe_in_a_store(tmp_path):
    """In the place of an account, of a record, or of a stage's own account of its files: one line,
    as any other damage.
    """
    store = write(tmp_path / "store", [seeded(0), seeded(1), seeded(2)])
    os.mkfifo(store / "runs" / "broken.json")
    for path in ("stages/01/x/record.json", "stages/02/x/stage.json", "stages/01/x/stage.json"):
        (store / path).unlink()
        os.mkfifo(store / path)
    broken, mine = read_runs(store)
    assert broken.problems == (
        "runs/broken.json cannot be read: it is a pipe, a socket or a device; run the suite again",
    )
    assert [record.status for _, record in mine.records] == ["ok", "failed", "failed"]


def test_the_good_record_is_not_changed_by_these_tests():
    assert copy.deepcopy(GOOD) == GOOD and Record.from_json(changed(["seed"], 3)) == GOOD
