"""The table a run leaves on the screen."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

import bench
from bench import measurements
from bench.record import Metric, PluginSpec, Record
from bench.summary import summary

NONE = PluginSpec(name="none")
DECLARED = [words.to_json() for words in measurements.declared()]


def printed(store: Path, metrics: dict[str, float]) -> list[str]:
    """The lines after a run with one cell that has these numbers."""
    record = Record(
        testbed=PluginSpec(name="t"),
        attack=NONE,
        defense=NONE,
        seed=0,
        status="ok",
        metrics={name: Metric(value=value) for name, value in metrics.items()},
    )
    account = {
        "suite": "s",
        "description": "",
        "started": "2026-01-01",
        "finished": None,
        "counts": {"ok": 1},
    }
    (store / "runs").mkdir()
    (store / "runs" / "s.json").write_text(
        json.dumps(
            account | {"cells": [{"inline": json.loads(record.to_json())}], "metrics": DECLARED}
        )
    )
    text = StringIO()
    summary(store, "s", Console(file=text, width=250))
    return text.getvalue().splitlines()


def test_columns_are_what_is_declared_a_headline(tmp_path: Path) -> None:
    """In the declared order, whatever the record's; all else, `tau` too, stays on the board."""
    wanted = {
        "fid[digits-cnn]": 1.5,
        "robust_asr[noise]": 0.375,
        "asr[prompt]": 0.25,
        "robust_asr[prompt]": 0.5,
        "amplification": 2.0,
        "ta": 0.97,
        "classifier_asr": 0.125,
        "auroc[training set]": 0.75,
        "auroc[generated]": 0.5,
        "auroc[noise]": 0.625,
    }
    others = {
        "target_seen": 0.9,
        "tau": 0.9,
        "ta[x]": 0.9,
        "asr_field[prompt]": 0.9,
        "auroc[image]": 0.9,
        "robust_asr[clean]": 0.9,
        "fid_other_classes[x]": 0.9,
        "amplification_max": 0.9,
    }
    head, row, last = printed(tmp_path, dict(reversed((others | wanted).items())))
    for name in wanted:
        head = head.replace(name, name.replace(" ", "_"))
    assert head.split() == [
        "testbed",
        "attack",
        "defense",
        "ok",
        *(name.replace(" ", "_") for name in wanted),
    ]
    assert (
        row.split()[4:] == [f"{value:.3g}" for value in wanted.values()] and last == "1 cells: 1 ok"
    )


def test_variants_that_look_alike_are_rows_of_their_own(tmp_path: Path) -> None:
    """A testbed with 2 and with 4 steps, or two plugins of one label: their mean would be a number
    of neither.
    """
    records = []
    for steps, value, defense in ((2, 18.5, "clip_xt"), (4, 7.25, "clip_xt"), (2, 3.0, "other")):
        record = Record(
            testbed=PluginSpec(name="t", params={"steps": steps}, label="t"),
            attack=NONE,
            defense=PluginSpec(name=defense, label="clip_xt"),
            seed=0,
            status="ok",
            protocol=f"{steps}" * 16,
            metrics={"fid[x]": Metric(value=value)},
        )
        records.append({"inline": json.loads(record.to_json())})
    account = {
        "suite": "s",
        "description": "",
        "started": "2026-01-01",
        "finished": None,
        "counts": {"ok": 3},
    }
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "s.json").write_text(
        json.dumps(account | {"cells": records, "metrics": DECLARED})
    )
    text = StringIO()
    summary(tmp_path, "s", Console(file=text, width=250))
    rows = text.getvalue().splitlines()[1:4]
    assert [row.split()[-1] for row in rows] == ["18.5", "7.25", "3"]
    assert len({" ".join(row.split()[:-1]) for row in rows}) == 3, "a reader can tell them apart"
    table = bench.load_records(tmp_path)
    assert len(table.groupby(["testbed.params", "defense.name"])) == 3
