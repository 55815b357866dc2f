"""The pages: what they say of gaps, that they hang on the records alone, and what text from a
record may do to them.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.record import Flag, Metric, Picture, Record, Run
from science import findings, pages
from science.findings import OPEN, SHOWS, against, lines
from science.page import played, progress, render
from science.pages import BADDIFFUSION, CLIPPING, PAGES, POISON, SHARED
from science.spec import PageSpec

FALSE_ALARMS = Flag("within-false-alarms", "asr", "within the false alarms")
FIGURES = [file for section in CLIPPING.sections for file, _ in section.figures]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
Planned = dict[str, list[Record]]
MakeRun = Callable[..., Run]


def verdicts(page: PageSpec, runs: list[Run]) -> dict[str, str]:
    return {
        claim.text: claim.verdict
        for section in played(page, SHARED, runs)
        for claim in section.claims
    }


def text_of(page: PageSpec, runs: list[Run]) -> str:
    return render(page, SHARED, runs)[0]


def changed(runs: list[Run], change: Callable[[Record], Record]) -> list[Run]:
    return [
        dataclasses.replace(run, records=[(folder, change(one)) for folder, one in run.records])
        for run in runs
    ]


@every_page
def test_nothing_is_told_without_a_run(page: PageSpec) -> None:
    text, plots = render(page, SHARED, [])
    assert plots == {} and text.count("| **not run yet on this code** |") >= len(page.suites)
    assert all(f"`{suite}` (not run yet on this code)" in text for suite in page.suites)
    assert set(verdicts(page, []).values()) == {OPEN}
    numbers = re.findall(r"^## (\d+)\.", text, re.MULTILINE)
    assert numbers == [str(index + 1) for index in range(len(page.sections))], (
        "a section without a run stays on the page"
    )


@every_page
def test_half_a_suite_leaves_its_claims_open(
    page: PageSpec, planned: Planned, make_run: MakeRun
) -> None:
    """One seed of everything, and the controls gone: pages must come out, and must not claim."""
    partial = {
        suite: [
            dataclasses.replace(one, seeds=one.seeds[:1])
            for one in planned[suite]
            if one.seed == 0 and one.attack.name != "none"
        ]
        for suite in page.suites
    }
    runs = [make_run(suite, records, pending=5) for suite, records in partial.items()]
    assert set(verdicts(page, runs).values()) == {OPEN}
    text = text_of(page, runs)
    assert all(
        f"**{len(records)} of {len(records) + 5} cells**" in text for records in partial.values()
    )


def test_a_missing_control_leaves_similarity_open(planned: Planned, make_run: MakeRun) -> None:
    """The margin comes from the control; without it a margin of 0 would turn every difference into
    a refutation.
    """
    claim = "FID stays near the clean model's, or below, up to 30 %"
    assert (
        verdicts(BADDIFFUSION, [make_run("science-rates", planned["science-rates"])])[claim]
        == SHOWS
    )
    records = [record for record in planned["science-rates"] if record.attack.name != "none"]
    assert verdicts(BADDIFFUSION, [make_run("science-rates", records)])[claim] == OPEN


def test_an_unfinished_suite_says_how_far_it_is(planned: Planned, make_run: MakeRun) -> None:
    """Three of seven rates with failures are not a finding about all rates."""
    records = planned["science-rates"]
    reason = "out of memory: 5 GiB | asked"
    wrong = dataclasses.replace(records[0], seed=9, status="failed", reason=reason, metrics={})
    text = text_of(BADDIFFUSION, [make_run("science-rates", [*records, wrong], pending=5)])
    assert f"**{len(records)} of {len(records) + 6} cells, 1 failed**" in text
    assert "## Cells without a result" in text and r"out of memory: 5 GiB \| asked" in text


def test_records_that_were_removed_are_missed(planned: Planned, make_run: MakeRun) -> None:
    """The account counts what was run; what is no longer there must not count as measured."""
    whole = make_run("science-rates", planned["science-rates"])
    cut = dataclasses.replace(whole, records=whole.records[:-2])
    assert progress(cut) == f"{len(whole.records) - 2} of {len(whole.records)} cells"
    assert progress(None) == "not run yet on this code"


def test_the_page_says_what_it_is_made_from(world: list[Run]) -> None:
    top = text_of(BADDIFFUSION, world).split("\n## ")[0]
    facts = (
        "- Testbeds: digits-ddpm",
        "- Seeds: 0, 1, 2",
        "- castlewalls: 0.1.0",
        "4f1c2d9a",
        "torch 2.14.0",
        "make pages",
    )
    assert all(fact in top for fact in (*facts, findings.RULE))


@every_page
def test_same_records_same_bytes_in_any_order(page: PageSpec, world: list[Run]) -> None:
    """A page that changes without its records cannot be reviewed."""
    first = render(page, SHARED, world)
    shuffled = random.Random(1).sample(world, len(world))
    mixed = [
        dataclasses.replace(one, records=random.Random(2).sample(one.records, len(one.records)))
        for one in shuffled
    ]
    assert render(page, SHARED, mixed) == first


@every_page
def test_hostile_names_are_shown_as_they_are(page: PageSpec, world: list[Run]) -> None:
    """A testbed, a reason or an attack's label comes from a record, which may come from anyone."""
    label = "a|b <script>alert(1)</script> [x](http://y) `z` *w*\n| row"

    def hostile(record: Record) -> Record:
        named = dataclasses.replace(record.attack, label=label)
        record = dataclasses.replace(
            record, attack=named, testbed=dataclasses.replace(record.testbed, label=label)
        )
        if record.seed or record.kind == "anchor":
            return record
        return dataclasses.replace(record, status="failed", reason=label, metrics={})

    text = text_of(page, changed(world, hostile))
    assert "<script>" not in text and r"a\|b &lt;script&gt;" in text and "\n| row" not in text
    assert "## Cells without a result" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, (
            "a row of more columns"
        )


@every_page
def test_links_to_sections_lead_there(page: PageSpec, world: list[Run]) -> None:
    text = text_of(page, world)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    anchors = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert anchors <= slugs and len(anchors) >= min(4, len(page.sections))


def test_controls_and_anchors_stand_in_the_table(world: list[Run]) -> None:
    """Without them a low FID cannot be told from a low FID of anything."""
    section = played(BADDIFFUSION, SHARED, world)[0]
    by_name = {row[0]: dict(zip(section.columns, row, strict=True)) for row in section.rows}
    assert by_name["real images"]["FID"].startswith("0.500 [") and by_name["clean base model"][
        "FID"
    ].startswith("0.500 [")
    assert by_name["honest fine-tuning"]["ASR[noise]"].startswith("0.50 [")
    assert (
        by_name["5 %"]["seeds"] == "8" and by_name["5 %"]["FID in the paper (CIFAR-10)"] == "8.53"
    )


def test_the_trigger_sizes_stand_in_order_with_null_as_seven(world: list[Run]) -> None:
    rows = played(BADDIFFUSION, SHARED, world)[4].rows
    assert [row[0] for row in rows[-4:]] == [f"{size} of 16 pixels" for size in (2, 4, 7, 9)]
    assert all(row[-1] == "8" for row in rows[-4:]), "null is found too"


def test_the_epochs_of_anp_are_columns(world: list[Run]) -> None:
    """Series of two epochs, 0.9 and 0.5: a table that mixes them up would show ANP getting
    worse.
    """
    section = played(BADDIFFUSION, SHARED, world)[5]
    assert section.columns[3:5] == ("epoch 1", "epoch 2")
    by_name = {row[0]: row for row in section.rows}
    assert by_name["0.0001"][3:5] == ("0.900", "0.500") == by_name["0.0003, honest model"][3:5]
    assert by_name["*constant black*"][3:5] == ("–", "–")


def test_what_the_trigger_classifier_could_have_made_up_is_said(world: list[Run]) -> None:
    """G1 of 1 % by a classifier with 1 % of false alarms is nothing; a reader of the table could
    not know.
    """

    def doubtful(record: Record) -> Record:
        return (
            dataclasses.replace(record, flags=(FALSE_ALARMS,))
            if record.attack.params.get("poison_rate") == 0.01
            else record
        )

    text = text_of(
        POISON, changed([run for run in world if run.suite == "science-poison-rates"], doubtful)
    )
    warning = "Within the trigger classifier's false alarms, so that G1 and G2 tell nothing"
    assert f"{warning}: w = 2, 1 % (5 of 5 seeds); w = 5, 1 % (5 of 5 seeds)." in text


def test_a_bar_is_a_number_and_needs_three_seeds(planned: Planned, make_run: MakeRun) -> None:
    """Values 0.96, 0.97, 0.98 against 0.95: 0.02 -+ 4.303 x 0.01 / sqrt(3) = 0.0248 reaches below
    0.
    """
    name = "amplification"
    cell = [
        one
        for one in planned["poison"]
        if one.defense.name == "strip" and one.attack.params.get("pattern") == "badnets1"
    ]
    records = [
        dataclasses.replace(one, metrics={name: Metric(value=0.96 + 0.01 * one.seed)})
        for one in cell
        if one.seed < 3
    ]
    (line,) = lines(make_run("poison", records))
    part = against("", (line, name), 0.95, (0.0, float("inf")))
    assert part.difference is not None and part.verdict == OPEN
    assert (part.difference.mean, part.difference.low) == (
        pytest.approx(0.02),
        pytest.approx(-0.00484, abs=1e-5),
    )
    assert against("", (line, name), 0.9, (0.0, float("inf"))).verdict == SHOWS
    (two,) = lines(make_run("poison", records[:2]))
    assert against("", (two, name), 0.9, (0.0, float("inf"))).note == "fewer than 3 seeds"
    assert (
        against("", (two, "ta"), 0.9, None).difference is None
        and against("", (None, "ta"), 0.9, None).note == "no result"
    )


@every_page
def test_plots_are_whole_and_known(page: PageSpec, world: list[Run]) -> None:
    """A plot that the page does not know stays for ever; a broken SVG shows as nothing at all."""
    text, plots = render(page, SHARED, world)
    assert set(plots) == set(pages.plots(page)) - {"samples.png"}
    for name, svg in plots.items():
        assert f"]({page.name}/{name})" in text
        assert isinstance(svg, str) and "nan" not in svg
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_plot_that_is_no_longer_drawn_goes_and_other_files_stay(
    tmp_path: Path, world: list[Run], write_store: Callable[[Path, list[Run]], Path]
) -> None:
    output = tmp_path / "docs"
    runs = [run for run in world if run.suite in BADDIFFUSION.suites]
    pages.build(write_store(tmp_path / "one", runs), output, [BADDIFFUSION])
    names = {path.name for path in (output / "science").iterdir()}
    assert names == {*pages.plots(BADDIFFUSION), pages.DRAWN}
    (output / "science" / "mine.svg").write_text("mine")
    rates = [run for run in runs if run.suite == "science-rates"]
    pages.build(write_store(tmp_path / "two", rates), output, [BADDIFFUSION])
    left = {path.name for path in (output / "science").iterdir()}
    assert left == {"rates-mse.svg", "rates-asr.svg", "rates-fid.svg", "mine.svg", pages.DRAWN}


def test_figures_of_the_script_are_linked_where_they_are() -> None:
    """A link to a file that is not there is a broken picture."""
    first, *rest = FIGURES
    text, _ = render(CLIPPING, SHARED, [], present=[first])
    assert f"]({CLIPPING.name}/{first})" in text
    assert (
        not any(f"({CLIPPING.name}/{file})" in text for file in rest)
        and text.count("Not drawn yet") == len(rest) == 6
    )


def test_figures_of_the_script_survive_a_new_page(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "clipping-and-poison"
    folder.mkdir(parents=True)
    (folder / FIGURES[0]).write_text("<svg/>")
    (folder / "patch.svg").write_text("old")
    (tmp_path / "runs").mkdir()
    pages.build(tmp_path, tmp_path / "docs")
    assert {path.name for path in folder.iterdir()} == {FIGURES[0]}
    assert (
        f"(clipping-and-poison/{FIGURES[0]})"
        in (tmp_path / "docs" / "clipping-and-poison.md").read_text()
    )


def with_pictures(
    planned: Planned, make_run: MakeRun, folder: Path, path: str, colours: dict[str, int]
) -> list[Run]:
    records = []
    for record in (
        one
        for one in planned["science-clipping"]
        if one.seed == 0 and one.kind in ("control", "sampler")
    ):
        treatment = "" if record.defense.name == "none" else record.defense.name
        record_folder = folder / f"{len(records):02d}"
        record_folder.mkdir(parents=True)
        Image.fromarray(np.full((48, 384, 3), colours[treatment], dtype=np.uint8)).save(
            record_folder / "strip.png"
        )
        pictures = (Picture("target", treatment, path),)
        records.append((record_folder, dataclasses.replace(record, pictures=pictures)))
    return [dataclasses.replace(make_run("science-clipping", []), records=records)]


def test_the_sheet_shows_every_trigger_guidance_and_treatment(
    tmp_path: Path, planned: Planned, make_run: MakeRun
) -> None:
    """Two triggers by four weights down, four treatments across; a strip in the wrong column would
    show the opposite.
    """
    colours = {"": 10, "clip_x0": 80, "clip_x0_ddim": 140, "clip_xt": 200}
    runs = with_pictures(planned, make_run, tmp_path / "cells", "strip.png", colours)
    text, plots = render(CLIPPING, SHARED, runs)
    assert "](clipping-and-poison/samples.png)" in text
    (tmp_path / "sheet.png").write_bytes(bytes(plots["samples.png"]))  # type: ignore[arg-type]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (30 + 8 * 56, 150 + 4 * 392, 3)
    seen = [
        [int(sheet[30 + 56 * row + 24, 150 + 392 * column + 100, 0]) for column in range(4)]
        for row in range(8)
    ]
    assert seen == [[10, 80, 140, 200]] * 8


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "missing.png", "text.png"])
def test_a_record_cannot_put_another_file_on_the_sheet(
    tmp_path: Path, planned: Planned, make_run: MakeRun, path: str
) -> None:
    """Records are data from anyone: a path out of their folder would publish a file of the
    reader's.
    """
    colours = dict.fromkeys(("", "clip_x0", "clip_x0_ddim", "clip_xt"), 10)
    runs: list[Any] = with_pictures(planned, make_run, tmp_path / "cells", path, colours)
    Image.new("RGB", (384, 48)).save(tmp_path / "cells" / "outside.png")
    for folder, _ in runs[0].records:
        (folder / "text.png").write_text("no picture")
    assert "samples.png" not in render(CLIPPING, SHARED, runs)[1]


def test_the_labels_in_a_store_survive_json(
    tmp_path: Path, world: list[Run], write_store: Callable[..., Path]
) -> None:
    """A page from a store is the page from its records."""
    store = write_store(tmp_path / "store", world)
    (file,) = pages.build(store, tmp_path / "docs", [POISON])
    assert file.read_text() == text_of(POISON, world)
    assert json.loads((store / "runs" / "poison.json").read_text())["suite"] == "poison"
