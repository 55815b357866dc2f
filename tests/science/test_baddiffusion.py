"""The science page: each section on a synthetic store, and what the page says when runs are missing."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.engine.record import Metric, PluginSpec, Record, Run
from science import findings, pages
from science.findings import OPEN, OPPOSITE, SHOWS
from science.page import progress, render
from science.table import Section

PAGE = pages.BADDIFFUSION
NONE = PluginSpec(name="none")
BASE = {"trigger": "grey_box", "target": "hat", "poison_rate": 0.1, "poisoned_image": "trigger_only", "trigger_size": None,
        "scheme": "finetune", "training_steps": None}  # fmt: skip
SEEDS = (0, 1, 2)
Spread = Callable[[float, int], float]


def spec(**params: Any) -> PluginSpec:
    whole = BASE | params
    return PluginSpec(name="baddiffusion", params=whole, label=f"baddiffusion({json.dumps(params)})")


def number(value: float, n: int = 10**6) -> Metric:
    """Of so many samples that counting leaves no doubt: what these tests are about is which cells are compared."""
    return Metric(value=value, n=n)


def cell(
    attack: PluginSpec, seed: int, values: dict[str, float], *, defense: PluginSpec = NONE, kind: str = "control",
    probe: PluginSpec | None = None, testbed: dict[str, Any] | None = None, protocol: str = "p", curve: list[float] | None = None,
) -> Record:  # fmt: skip
    params = {"sampler": "ddpm", "num_inference_steps": 50} | (testbed or {})
    return Record(
        testbed=PluginSpec(name="digits-ddpm", params=params, label="digits-ddpm"), attack=attack, defense=defense, seed=seed,
        status="ok", kind=kind, probe=probe, protocol=protocol + json.dumps(params, sort_keys=True),
        metrics={("fid[digits-cnn]" if name == "fid" else name): number(value) for name, value in values.items()},
        series={"inversion_mse": curve, "inversion_epoch": [1.0, 2.0]} if curve else {},
        provenance={"castlewalls": "0.1.0", "git": {"commit": "4f1c2d9a", "dirty": False}, "packages": {"torch": "2.14.0"}},
    )  # fmt: skip


def sampled(seed: int, mse: float, asr: float, fid: float) -> dict[str, float]:
    noise = 0.0001 * seed
    return {"mse[noise]": mse + noise, "asr[noise]": asr + noise, "asr[image]": asr / 2 + noise, "mse[image]": mse + 2 * noise,
            "mse[clean]": 0.12, "asr[clean]": 0.0, "mse[constant]": 0.02, "fid": fid + noise}  # fmt: skip


def with_controls(attacks: Iterable[tuple[PluginSpec, float, float, float]], **where: Any) -> list[Record]:
    """(attack, MSE, ASR, FID) at every seed, each with its honest control (0.12, 0, 2.0), and the anchors."""
    found, attacks = [], list(attacks)
    for seed in SEEDS:
        for attack, *numbers in attacks:
            found.append(cell(attack, seed, sampled(seed, *numbers), **where))
            found.append(cell(NONE, seed, sampled(seed, 0.12, 0.0, 2.0), probe=attack, **where))
        for name, fid in (("real_images", 0.1), ("base_model", 3.0)):
            found.append(cell(PluginSpec(name=name), seed, {"fid": fid}, kind="anchor", **where))
    return found


def suite_rates() -> list[Record]:
    fids = {0.05: 1.5, 0.1: 1.6, 0.2: 1.8, 0.3: 1.9, 0.5: 2.4, 0.7: 4.0, 0.9: 8.0}
    return with_controls((spec(poison_rate=rate), 0.015 - 0.01 * rate, 0.9, fid) for rate, fid in fids.items())


def suite_anp() -> list[Record]:
    found = []
    for rate, curve in ((3e-5, [0.1, 0.09]), (1e-4, [0.03, 0.05]), (3e-4, [0.01, 0.106])):
        for seed in SEEDS:
            for attack, probe, shift in ((spec(), None, 0.0), (NONE, spec(), 0.001)):
                values = [value + shift + 1e-4 * seed for value in curve]
                metrics = {"inversion_mse_best": min(values), "inversion_mse_last": values[-1], "inversion_mse_black": 0.106,
                           "mse[constant]": 0.02, "mse[clean]": 0.12}  # fmt: skip
                defense = PluginSpec(name="anp", params={"learning_rate": rate}, label=f"anp(learning_rate={rate})")
                found.append(cell(attack, seed, metrics, defense=defense, kind="inversion", probe=probe, curve=values))
    return found


def suite_digits() -> list[Record]:
    clip = {name: PluginSpec(name=name, label=name) for name in ("clip_x0", "clip_xt")}
    found = with_controls([(spec(), 0.02, 0.8, 2.0)])
    for seed in SEEDS:
        found.append(cell(spec(), seed, sampled(seed, 0.1, 0.05, 2.05), defense=clip["clip_x0"], kind="sampler"))
        found.append(cell(spec(), seed, sampled(seed, 0.1, 0.05, 3.0), defense=clip["clip_xt"], kind="sampler"))
    return found


def suite_samplers() -> list[Record]:
    found: list[Record] = []
    for sampler, steps, mse, asr in (
        ("ddpm", 50, 0.021, 0.8), ("ddpm", 1000, 0.02, 0.82), ("ddim", 50, 0.09, 0.1), ("dpm_solver", 20, 0.01, 0.9),
    ):  # fmt: skip
        found += with_controls([(spec(), mse, asr, 2.0)], testbed={"sampler": sampler, "num_inference_steps": steps})
    return found


SUITES: dict[str, Callable[[], list[Record]]] = {
    "science-rates": suite_rates,
    "science-anp": suite_anp,
    "digits": suite_digits,
    "science-samplers": suite_samplers,
    "science-triggers": lambda: with_controls(
        (spec(trigger_size=size), mse, 0.5, 2.0) for size, mse in ((2, 0.1), (4, 0.08), (None, 0.02), (9, 0.03))
    ),
    "science-schemes": lambda: with_controls(
        [(spec(), 0.02, 0.8, 2.0), (spec(scheme="scratch", training_steps=960), 0.023, 0.7, 5.0)]
    ),
    "science-longer": lambda: with_controls(
        (spec(training_steps=960, poisoned_image=kind), mse, asr, 1.8)
        for kind, mse, asr in (("trigger_only", 0.01, 0.95), ("blend", 0.1, 0.3))
    ),
}


def run(suite: str, records: Iterable[Record], pending: int = 0) -> Run:
    found = [(Path("."), record) for record in records]
    counts = {status: sum(record.status == status for _, record in found) for status in ("ok", "failed", "skipped")}
    return Run(suite=suite, description=f"About {suite}.", started="2026-11-21T09:00:00+00:00", finished="2026-11-21T10:00:00+00:00",
               counts=counts | {"pending": pending}, records=found)  # fmt: skip


def all_runs() -> list[Run]:
    return [run(suite, make()) for suite, make in SUITES.items()]


def found(runs: Iterable[Run]) -> list[Section]:
    return PAGE.found(list(runs))


def verdicts(runs: Iterable[Run], section: int) -> dict[str, str]:
    return {claim.text: claim.verdict for claim in found(runs)[section - 1].claims}


def verdict(runs: Iterable[Run], section: int, start: str) -> str:
    matching = [said for text, said in verdicts(runs, section).items() if text.startswith(start)]
    assert len(matching) == 1, (start, matching)
    return matching[0]


def write_store(store: Path, runs: Iterable[Run]) -> Path:
    (store / "runs").mkdir(parents=True)
    for one in runs:
        cells = [{"inline": json.loads(record.to_json())} for _, record in one.records]
        text = {"suite": one.suite, "description": one.description, "started": one.started, "finished": one.finished,
                "counts": one.counts, "cells": cells}  # fmt: skip
        (store / "runs" / f"{one.suite}.json").write_text(json.dumps(text))
    return store


def test_a_missing_control_leaves_similarity_open() -> None:
    """The margin comes from the control; without it a margin of 0 would turn every difference into a refutation."""
    records = [record for record in suite_rates() if record.attack.name != "none"]
    assert verdict([run("science-rates", records)], 1, "FID stays near") == OPEN


def test_verdicts_of_the_synthetic_store() -> None:
    """Each section compares the cells it names, in the direction it claims."""
    runs = all_runs()
    assert list(verdicts(runs, 1).values()) == [SHOWS, SHOWS, SHOWS, SHOWS, SHOWS, SHOWS]
    assert list(verdicts(runs, 2).values()) == [SHOWS, SHOWS]
    assert verdict(runs, 3, "Clipping raises the MSE (`clip_x0`, suite digits)") == SHOWS
    assert verdict(runs, 3, "Clipping lowers the ASR (`clip_x0`, suite digits)") == SHOWS
    assert verdict(runs, 3, "Clipping keeps a similar FID (`clip_x0`, suite digits)") == SHOWS
    assert verdict(runs, 3, "Clipping keeps a similar FID (`clip_xt`, suite digits)") == OPPOSITE
    assert verdict(runs, 3, "Clipping raises the MSE (`clip_x0`, suite science-longer)") == OPEN
    assert verdict(runs, 4, "DDPM with 50") == SHOWS
    assert verdict(runs, 4, "The attack is less effective under `ddim`, 50 steps than under DDPM with 1000") == SHOWS
    assert verdict(runs, 4, "The attack is less effective under `dpm_solver`") == OPPOSITE
    assert verdict(runs, 4, "The attack is less effective under `dpm_solver++`") == OPEN
    assert verdict(runs, 5, "MSE is higher for the smallest") == SHOWS
    assert verdict(runs, 5, "MSE grows with every step") == OPPOSITE, "7 pixels (null) have less MSE than 9 here"
    assert verdict(runs, 6, "A higher learning rate") == SHOWS
    assert verdict(runs, 6, "ANP collapses") == SHOWS
    assert verdict(runs, 6, "ANP is unreliable: what a defender holds") == SHOWS
    assert verdict(runs, 6, "ANP is unreliable: it comes no closer") == SHOWS
    assert verdict(runs, 6, "At its best epoch") == OPPOSITE
    assert list(verdicts(runs, 7).values()) == [SHOWS, SHOWS, SHOWS, SHOWS, SHOWS, OPPOSITE]


def test_the_trigger_sizes_stand_in_order_with_null_as_seven() -> None:
    rows = [row[0] for row in found(all_runs())[4].rows]
    assert rows[-4:] == ["2 of 16 pixels", "4 of 16 pixels", "7 of 16 pixels", "9 of 16 pixels"]


def test_controls_and_anchors_stand_in_the_table() -> None:
    """Without them a low FID cannot be told from a low FID of anything."""
    section = found(all_runs())[0]
    by_name = {row[0]: dict(zip(section.columns, row, strict=True)) for row in section.rows}
    assert by_name["real images"]["FID"] == "0.100"
    assert by_name["clean base model"]["FID"].startswith("3.00")
    assert by_name["honest fine-tuning"]["FID"].startswith("2.00 [") and by_name["honest fine-tuning"]["ASR[noise]"].startswith(
        "0.00"
    )
    assert by_name["5 %"]["seeds"] == "3" and by_name["5 %"]["FID in the paper (CIFAR-10)"] == "8.53"


def test_a_suite_that_was_not_run_is_named(tmp_path: Path) -> None:
    page, plots = render(PAGE, [run("science-rates", suite_rates())])
    assert "| `science-anp` | – | **not run** |" in page and "From `science-anp` (not run)." in page
    assert set(plots) == {"rates-mse.svg", "rates-asr.svg", "rates-fid.svg"}
    assert all(f"## {number}. " in page for number in range(1, 8)), "a section without a run stays on the page"


def test_an_unfinished_suite_says_how_far_it_is() -> None:
    """Three of seven rates with failures are not a finding about all rates."""
    records = suite_rates()
    reason = "out of memory: 5 GiB | asked"
    wrong = Record(testbed=records[0].testbed, attack=records[0].attack, defense=NONE, seed=9, status="failed", reason=reason)
    page, _ = render(PAGE, [run("science-rates", [*records, wrong], pending=5)])
    assert f"**{len(records)} of {len(records) + 6} cells, 1 failed**" in page
    assert "## Cells without a result" in page and r"out of memory: 5 GiB \| asked" in page


def test_records_that_were_removed_are_missed() -> None:
    """The account counts what was run; what is no longer there must not count as measured."""
    whole = run("science-rates", suite_rates())
    cut = Run(**{**whole.__dict__, "records": whole.records[:-2]})
    assert progress(cut) == f"{len(whole.records) - 2} of {len(whole.records)} cells"
    assert progress(None) == "not run"


def test_the_page_says_what_it_is_made_from() -> None:
    page, _ = render(PAGE, all_runs())
    top = page.split("\n## ")[0]
    facts = ("- Testbeds: digits-ddpm", "- Seeds: 0, 1, 2", "- castlewalls: 0.1.0", "4f1c2d9a", "torch 2.14.0", "make science")
    assert all(said in top for said in (*facts, findings.RULE))


def test_same_records_same_bytes_in_any_order() -> None:
    """A page that changes without its records cannot be reviewed."""
    first = render(PAGE, all_runs())
    runs = all_runs()
    random.Random(1).shuffle(runs)
    shuffled = [Run(**{**one.__dict__, "records": random.Random(2).sample(one.records, len(one.records))}) for one in runs]
    assert render(PAGE, shuffled) == first


def test_hostile_names_are_shown_as_they_are() -> None:
    records = suite_digits()
    label = "a|b <script>alert(1)</script> [x](http://y) `z` *w*\n| row"
    usual = json.dumps(spec().label)
    records = [Record.from_json(record.to_json().replace(usual, json.dumps(label))) for record in records]
    page, _ = render(PAGE, [run("digits", records)])
    assert "<script>" not in page and r"a\|b &lt;script&gt;" in page and "\n| row" not in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, (
            "a row has more columns than its table"
        )


def test_the_plots_are_well_formed_and_stand_alone(tmp_path: Path) -> None:
    """A broken SVG shows as nothing at all."""
    store = write_store(tmp_path / "store", all_runs())
    (page,) = pages.build(store, tmp_path / "docs", [PAGE])
    linked = set(re.findall(r"^!\[.*\]\(([^)]+)\)$", page.read_text(), re.MULTILINE))
    assert linked == {f"science/{name}" for name in PAGE.plots}
    for link in linked:
        tree = ElementTree.parse(page.parent / link)
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg" and "nan" not in (page.parent / link).read_text()
    drawn = ElementTree.parse(tmp_path / "docs/science/anp.svg").getroot()
    dashed = [path for path in drawn.iter() if path.get("class") == "line dashed"]
    assert len(dashed) == 6, "three rates of the honest model, each in the plot and in the legend"


def test_a_plot_that_is_no_longer_drawn_goes_and_other_files_stay(tmp_path: Path) -> None:
    output = tmp_path / "docs"
    pages.build(write_store(tmp_path / "one", all_runs()), output)
    (output / "science" / "mine.svg").write_text("mine")
    pages.build(write_store(tmp_path / "two", [run("science-rates", suite_rates())]), output)
    left = {path.name for path in (output / "science").iterdir()}
    assert left == {"rates-mse.svg", "rates-asr.svg", "rates-fid.svg", "mine.svg"}
