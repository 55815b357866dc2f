"""The files a reader gets: escaping, determinism, CSV and JSON that give the records back, and
errors in one line.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.record import Flag, Picture, PluginSpec, Record, read_runs
from leaderboard import export
from leaderboard.board import numbers
from leaderboard.red_flags import COMPUTED
from leaderboard.report import build, render

HOSTILE = "<script>alert(1)</script>\"'--></style><img src=x onerror=alert(2)>{{ 7*7 }}"


class Page(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile(record: Record) -> Record:
    """The same record with hostile text wherever text can stand."""

    def spoil(spec: PluginSpec) -> PluginSpec:
        return dataclasses.replace(
            spec,
            label=f"{spec.label or spec.name} {HOSTILE}",
            params={**spec.params, HOSTILE: HOSTILE},
        )

    return dataclasses.replace(
        record,
        testbed=spoil(record.testbed),
        attack=record.attack if record.attack.name == "none" else spoil(record.attack),
        probe=spoil(record.probe) if record.probe else None,
        defense=record.defense if record.defense.name == "none" else spoil(record.defense),
        metrics={
            **record.metrics,
            **(
                {f"new {HOSTILE}": record.metrics["asr_threshold"]}
                if "asr_threshold" in record.metrics
                else {}
            ),
        },
        cost={**record.cost, HOSTILE: 1.0},
        flags=(*record.flags, Flag("odd", HOSTILE, HOSTILE), Flag("odd", "", HOSTILE)),
        provenance={
            **record.provenance,
            HOSTILE: HOSTILE,
            "papers": [{"title": HOSTILE, "authors": HOSTILE, "year": 2023, "bibtex": HOSTILE}],
        },
        pictures=tuple(
            dataclasses.replace(one, role=f"{one.role} {HOSTILE}", treatment=HOSTILE)
            for one in record.pictures
        )
        + (Picture("lost", "", HOSTILE),),
        reason=record.reason and HOSTILE,
        trace=record.trace and HOSTILE,
        protocol=record.protocol + HOSTILE,
    )


def test_hostile_names_stay_text_everywhere(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """A plugin's name, a parameter, a metric, a flag, a reason, a file name: none may become
    markup, script or template.
    """
    path = build(
        make_store(tmp_path / "store", hostile, suite="digits"), tmp_path / "a<b>&'\".html"
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert sum(tag == "style" for tag, _ in page.tags) == 2
    assert all(
        str(attributes["src"]).startswith("data:image/png;base64,")
        for tag, attributes in page.tags
        if tag == "img"
    )
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for payload in ("<script>alert(1)</script>", "{{ 7*7 }}"):
        assert any(payload in text for text in page.text)
    assert any(
        "<script>alert(1)</script>" in str(attributes.get("aria-label"))
        for _, attributes in page.tags
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#") and link != "#"} <= set(ids)
    assert "a%3Cb%3E%26%27%22.csv" in links


def test_the_page_asks_for_nothing_from_outside(store: Path) -> None:
    """Self-contained: no link, source or style that a browser would fetch. The policy that forbids
    it is in test_policy.py.
    """
    text = render(read_runs(store))
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert (
                value is None
                or value.startswith(("data:", "#"))
                or (tag == "a" and "://" not in value)
            )
    assert len(re.findall(r"url\(data:image/png;base64,[A-Za-z0-9+/=]+\)", text)) > 50
    assert text.count("url(") == text.count("url(data:image/png;base64,")
    assert "@import" not in text


def test_same_records_same_bytes(store: Path) -> None:
    """In another order, in another process with another hash seed: byte for byte the same page, CSV
    and JSON.
    """
    (run,) = read_runs(store)
    shuffled = list(run.records)
    random.Random(1).shuffle(shuffled)
    mixed = [dataclasses.replace(run, records=shuffled)]
    assert render(mixed) == render([run])
    assert export.to_json(mixed) == export.to_json([run])
    assert export.to_csv(mixed) == export.to_csv([run])
    code = (
        "import hashlib, pathlib, sys; from bench.record import read_runs; from "
        "leaderboard.report import render\n"
        "print(hashlib.sha256(render(read_runs(pathlib.Path(sys.argv[1]))).encode()).hexdigest(), "
        "'torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(store)],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    digest, imports_torch = done.stdout.split()
    assert digest == hashlib.sha256(render([run]).encode()).hexdigest()
    assert imports_torch == "False", "the board must not import torch"


def _as_measured(record: Record) -> Record:
    flags = tuple(flag for flag in record.flags if flag.code not in COMPUTED)
    return dataclasses.replace(record, flags=flags)


def test_json_gives_every_record_back(store: Path, tmp_path: Path) -> None:
    """What is downloaded is what was measured, and what the board itself warns of."""
    build(store, tmp_path / "board.html")
    (run,) = json.loads((tmp_path / "board.json").read_text(encoding="utf-8"))["runs"]
    (strip,) = [one for one in run["methods"] if one["name"] == "strip"]
    needs = ["classifier", "training data"]
    assert strip == {"name": "strip", "sentences": [], "alters": [], "needs": needs}
    read = [_as_measured(Record.from_json(json.dumps(data))) for data in run["records"]]
    assert sorted(record.to_json() for record in read) == sorted(
        record.to_json() for _, record in read_runs(store)[0].records
    )


def test_csv_is_tidy_and_exact(store: Path, tmp_path: Path) -> None:
    """One row per record and metric, floats to the last bit, absent as empty, and failures still in
    it.
    """
    build(store, tmp_path / "board.html")
    with (tmp_path / "board.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    records = [record for _, record in read_runs(store)[0].records]
    assert list(rows[0]) == export.COLUMNS
    assert len(rows) == sum(len(numbers(record)) or 1 for record in records)
    wanted = sorted(
        metric.value
        for record in records
        for metric in numbers(record).values()
        if metric.value is not None
    )
    assert sorted(float(row["value"]) for row in rows if row["value"]) == wanted
    assert {row["defense_needs"] for row in rows if row["defense"] == "none"} == {""}
    assert {row["defense_needs"] for row in rows if row["defense"] == "clip_x0"} == {"nothing"}
    assert {row["defense_needs"] for row in rows if row["defense"] == "finetune"} == {
        "clean data, weights"
    }
    assert {(row["attack"], row["attack_alters"]) for row in rows if row["attack"] != "none"} >= {
        ("baddiffusion", "data, objective")
    }
    where = {"metric": "asr[noise]", "defense": "clip_x0", "attack": "baddiffusion", "seed": "2"}
    matching = [row for row in rows if where.items() <= row.items()]
    assert len(matching) == 2
    for row in matching:
        assert (row["protocol"], row["n"], row["higher_is_better"]) == (
            "8b1f0c2d9e3a4756",
            "128",
            "False",
        )
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
    bad = [row for row in rows if row["status"] != "ok"]
    assert {row["status"] for row in bad} == {"failed", "skipped"}
    assert all(row["reason"] and not row["metric"] and not row["value"] for row in bad)


def test_only_the_suites_asked_for(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    """`--suite` narrows the board; a suite that was never run is an error that says what there
    is.
    """
    store = make_store(tmp_path / "store", suite="digits")
    account = json.loads((store / "runs" / "digits.json").read_text())
    (store / "runs" / "other.json").write_text(json.dumps({**account, "suite": "other"}))
    build(store, tmp_path / "board.html", ["other"])
    assert {run["suite"] for run in json.loads((tmp_path / "board.json").read_text())["runs"]} == {
        "other"
    }
    with pytest.raises(UserError, match=r"holds no run of nope; it holds digits, other$"):
        build(store, tmp_path / "board.html", ["nope"])


def test_bad_stores_and_outputs_are_one_clear_line(store: Path, tmp_path: Path) -> None:
    """No traceback for an empty store, a file where a folder should be, or a name that collides
    with the CSV.
    """
    with pytest.raises(UserError, match="holds no records yet"):
        build(tmp_path, tmp_path / "board.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the board to .*file/board.html"):
        build(store, tmp_path / "file" / "board.html")
    for odd in (Path("."), tmp_path, tmp_path / "board-\udcff.html"):
        with pytest.raises(UserError, match="the board('s name must be| must be written to)"):
            build(store, odd)
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(UserError, match="pipe.html must be a plain file, or not be there"):
        build(store, tmp_path / "pipe.html")
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    build(store, tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "target.html").is_file()
    with pytest.raises(
        UserError, match="must not be named like the files beside it, got board.csv"
    ):
        build(store, tmp_path / "board.csv")


def test_a_store_with_only_failures_still_makes_a_board(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """The first run on a new machine often looks like this, and its reasons are what the reader
    needs.
    """

    def broken(record: Record) -> Record:
        return dataclasses.replace(
            record,
            status="failed",
            reason="no weights",
            metrics={},
            series={},
            cost={},
            pictures=(),
            provenance={},
        )

    path = build(make_store(tmp_path / "store", broken), tmp_path / "board.html")
    text = path.read_text(encoding="utf-8")
    assert "no weights" in text and "Failed and skipped cells" in text
    assert 'class="metric"' not in text


@pytest.mark.parametrize("name", ["run.json", "data.csv"])
def test_the_files_beside_the_board_replace_nothing_of_others(store, tmp_path, name) -> None:
    """`--output results/digits/run.html` made the results unreadable."""
    other = tmp_path / name
    other.write_text("mine")
    with pytest.raises(UserError, match=f"would bring {name} with it"):
        build(store, other.with_suffix(".html"))
    assert other.read_text() == "mine" and len(list(tmp_path.glob(f"{other.stem}.*"))) == 1
    build(store, tmp_path / "board.html")
    build(store, tmp_path / "board.html")
    (tmp_path / "board.html").unlink()
    build(store, tmp_path / "board.html")
