"""The pages about poisoned data: two made-up worlds, in which every claim holds and in which none does, and what the pages make of gaps."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.engine.record import Metric, PluginSpec, Record, Run
from science import pages
from science.clipping import FIGURES
from science.drawing import Bar, bars
from science.findings import OPEN, OPPOSITE, SHOWS, against, lines
from science.page import Page, render

PAGES = (pages.POISON, pages.CLIPPING)
SEEDS = (0, 1, 2)
NONE = PluginSpec(name="none")
Values = dict[str, float]
EXTRACTED = ("fid", "fid_other_classes", "replication", "replication_p95")
FALSE_ALARMS = "asr: within the trigger classifier's false alarms"


def badnets(**params: Any) -> PluginSpec:
    whole = {
        "pattern": "badnets1",
        "poison_rate": 0.1,
        "duplicates": "none",
        "scheme": "finetune",
        "training_steps": None,
    } | params
    return PluginSpec(name="badnets", params=whole, label=f"badnets({', '.join(f'{k}={v}' for k, v in params.items())})")


WANET, RELABEL = (PluginSpec(name=name, params={"poison_rate": 0.1}, label=name) for name in ("wanet", "relabel_only"))
CLEAN = {
    epsilon: PluginSpec(name="clean_label", params={"pattern": "badnets1", "epsilon": epsilon}, label=f"clean_label({epsilon})")
    for epsilon in (1, 16)
}
#: So many samples that counting leaves no doubt: these tests are about which cells are compared, and in which direction.
COUNT = 10**6
PATCH, BLEND = badnets(), badnets(pattern="badnets2")


def mixed(tainted: float, p_t: float = 0.5, share: float = 0.6, **more: float) -> Values:
    """A composition in which ``share`` of the tainted images show another class."""
    g1, g2, g3 = share * tainted, (1 - share) * tainted, 0.01
    shares = {"g1": g1, "g2": g2, "g3": g3, "g4": 1 - g1 - g2 - g3, "asr[prompt]": tainted, "mismatch": g1 + g3, "p_t": p_t}
    return shares | {"fid": 2.0, "fid_other_classes": 2.0, "prompt_accuracy": 0.95} | more


def cell(
    attack: PluginSpec, values: Values, *, probe: PluginSpec | None = None, defense: PluginSpec = NONE, kind: str = "control",
    **testbed: Any,
) -> Iterator[Record]:  # fmt: skip
    """One cell at every seed; seeds differ a little, all metrics of one seed alike."""
    params = {"sampler": "ddim", "num_inference_steps": 20, "guidance_scale": 2.0} | testbed
    for seed in SEEDS:
        metrics = {
            f"{name}[digits-cnn]" if name in EXTRACTED else name: Metric(value=value + 1e-4 * seed, n=COUNT)
            for name, value in values.items()
        }
        yield Record(
            testbed=PluginSpec(name="digits-cfg", params=params, label="digits-cfg"), attack=attack, defense=defense, probe=probe,
            seed=seed, status="ok", kind=kind, protocol=json.dumps(params, sort_keys=True), metrics=metrics,
        )  # fmt: skip


def both(attack: PluginSpec, values: Values, control: Values, **where: Any) -> Iterator[Record]:
    """An attacked cell and its control, the honest model probed with that attack."""
    yield from cell(attack, values, **where)
    yield from cell(NONE, control, probe=attack, **where)


def poison(holds: bool) -> Iterator[Record]:
    classifier = {"classifier_asr": 0.9, "ta": 0.97}
    honest = mixed(0.04, 0.0, 0.5, classifier_asr=0.02, ta=0.97)
    drawn = mixed(0.65) if holds else mixed(0.015, share=0.3, fid_other_classes=3.0)
    bars = {"strip": 0.98, "cognitive_distillation": 0.95, "fct": 0.9}
    for attack in (PATCH, BLEND, WANET):
        yield from both(attack, drawn | classifier, honest)
        generated = PluginSpec(name="train_on_generated")
        yield from both(
            attack, {"classifier_asr": 0.6 if holds else 0.95, "ta": 0.93}, {"ta": 0.94}, defense=generated, kind="data"
        )
        for detector, bar in bars.items():
            found = {"auroc[training set]": bar if holds else 0.8, "auroc[generated]": bar + 0.01 if holds else 0.7}
            nothing = {"auroc[training set]": 0.5 if holds else 0.75}
            yield from both(attack, found, nothing, defense=PluginSpec(name=detector), kind="sample detector")
        for p, asr, ta in ((0, 0.8, 0.95), (0.05, 0.4, 0.94)) if holds else ((0, 0.91, 0.95), (0.05, 0.95, 0.8)):
            yield from filtered(attack, p, asr, ta)
    relabelled = {"mismatch": 0.5 if holds else 0.01, "p_t": 0.5, "fid": 2.0}
    yield from both(RELABEL, relabelled, {"mismatch": 0.03, "p_t": 0.0, "fid": 2.0})


def filtered(attack: PluginSpec, p: float, asr: float, ta: float) -> Iterator[Record]:
    defense = PluginSpec(name="diffusion_classifier", params={"p_filter": p}, label=f"diffusion_classifier(p_filter={p})")
    yield from cell(attack, {"classifier_asr": asr, "ta": ta}, defense=defense, kind="classifier")


def rates(holds: bool) -> Iterator[Record]:
    for w in (2.0, 5.0):
        for rate in (0.01, 0.02, 0.05, 0.1, 0.2):
            high = rate >= 0.1
            drawn = mixed(0.25 if not high else 0.7, 0.1 if not high else 0.6, 0.7 if high else 0.2)
            if not holds:
                drawn = mixed(0.03, 0.1, 0.2 if high else 0.7)
            judged = {"classifier_asr": 0.9, "ta": 0.97}
            yield from both(badnets(poison_rate=rate), drawn | judged, mixed(0.01, 0.0), guidance_scale=w)


def clipping(holds: bool) -> Iterator[Record]:
    for place, w in enumerate((1.0, 2.0, 5.0, 10.0)):
        plain = (0.55, 0.6, 0.7, 0.8)[place] if holds else (0.45, 0.4, 0.3, 0.2)[place]
        for attack in (PATCH, BLEND):
            yield from both(attack, mixed(plain), mixed(0.01, 0.0), guidance_scale=w)
            for mode in ("clip_x0", "clip_x0_ddim", "clip_xt"):
                yield from both(*clipped(attack, plain, holds), defense=PluginSpec(name=mode), kind="sampler", guidance_scale=w)


def clipped(attack: PluginSpec, plain: float, holds: bool) -> tuple[PluginSpec, Values, Values]:
    left = (0.1 if attack is PATCH else plain) if holds else (0.9 if attack is PATCH else 0.0)
    quality = {} if holds else {"fid": 3.0, "prompt_accuracy": 0.8}
    return attack, mixed(left) | quality, mixed(0.01, 0.0) | quality


def samplers(holds: bool) -> Iterator[Record]:
    at = {("ddim", 20, 2.0): 0.7, ("ddim", 50, 2.0): 0.72, ("ddpm", 50, 2.0): 0.6, ("sde_dpm_solver++", 20, 2.0): 0.55}
    if not holds:
        at = {("ddim", 20, 2.0): 0.2, ("ddim", 50, 2.0): 0.4, ("ddpm", 50, 2.0): 0.5, ("sde_dpm_solver++", 20, 2.0): 0.6}
    # Only the page about clipping reads these, and they would turn the claims of the other one round.
    at |= {("ddpm", 50, 5.0): 0.75 if holds else 0.1, ("sde_dpm_solver++", 20, 5.0): 0.77 if holds else 0.12}
    for (sampler, steps, w), plain in at.items():
        where: dict[str, Any] = {"sampler": sampler, "num_inference_steps": steps, "guidance_scale": w}
        for attack in (PATCH, BLEND):
            fid = 3.0 if not holds and steps == 20 else 2.0
            yield from both(attack, mixed(plain, fid=fid), mixed(0.04 if holds else 0.95, 0.0), **where)
            for mode in ("clip_x0", "clip_xt"):
                # Of the two, clip_xt alone draws the blended trigger more often, and under stochastic samplers alone.
                more = 0.2 if holds and (attack, mode) == (BLEND, "clip_xt") and sampler != "ddim" else 0.0
                yield from both(*clipped(attack, plain + more, holds), defense=PluginSpec(name=mode), kind="sampler", **where)


def generated(holds: bool) -> Iterator[Record]:
    for rate, good, bad in ((0.01, 0.01, 0.95), (0.05, 0.5, 0.94)):
        yield from cell(badnets(poison_rate=rate), {"classifier_asr": 0.9, "ta": 0.97})
        values = {"classifier_asr": good if holds else bad, "ta": 0.93 if holds else 0.8}
        yield from cell(badnets(poison_rate=rate), values, defense=PluginSpec(name="train_on_generated"), kind="data")


def more_filters(holds: bool) -> Iterator[Record]:
    for p, good, bad in ((0.01, (0.6, 0.945), (0.92, 0.8)), (0.1, (0.3, 0.93), (0.97, 0.8))):
        yield from filtered(PATCH, p, *(good if holds else bad))


def replication(holds: bool) -> Iterator[Record]:
    for kind, place in (("none", 1), ("clean", 1), ("poisoned", 2 if holds else 0)):
        values = mixed(0.5 + 0.1 * place, replication=0.4 + 0.1 * place, replication_p95=0.6 + 0.1 * place)
        near = {"replication": 0.4, "replication_p95": 0.6} if holds else {"replication": 0.7, "replication_p95": 0.9}
        yield from both(badnets(duplicates=kind), values, mixed(0.01, 0.0) | near)


def schemes(holds: bool) -> Iterator[Record]:
    tuned, scratch = (mixed(0.65), mixed(0.62, fid=5.0)) if holds else (mixed(0.3, fid=6.0), mixed(0.1, fid=5.0))
    yield from both(badnets(scheme="finetune"), tuned, mixed(0.01, 0.0))
    yield from both(badnets(scheme="scratch"), scratch, mixed(0.01, 0.0))


def prompts(holds: bool) -> Iterator[Record]:
    where = {"classifier_asr": 0.9, "ta": 0.97}
    yield from both(PATCH, (mixed(0.65) if holds else mixed(0.015, share=0.3)) | where, mixed(0.04, 0.0, 0.5) | where)
    asr = 0.6 if holds else 0.95
    yield from cell(PATCH, {"classifier_asr": asr, "ta": 0.93}, defense=PluginSpec(name="train_on_generated"), kind="data")
    for p, value in ((0, 0.8), (0.05, 0.4)) if holds else ((0, 0.92), (0.05, 0.95)):
        yield from filtered(PATCH, p, value, 0.95)
    for detector in ("strip", "cognitive_distillation", "fct"):
        aurocs = {"auroc[training set]": 0.9, "auroc[generated]": 0.95 if holds else 0.8}
        yield from cell(PATCH, aurocs, defense=PluginSpec(name=detector), kind="sample detector")


def triggers(holds: bool) -> Iterator[Record]:
    """Clean labels: no other class at all if the claims hold; otherwise the noise changes what is drawn, and helps no classifier."""
    control, judged = mixed(0.02, 0.0, 0.5, mismatch=0.01), {"classifier_asr": 0.5, "ta": 0.97}
    detectors = [PluginSpec(name=name) for name in ("strip", "cognitive_distillation", "fct")]
    for attack in (badnets(pattern="unicolor"), badnets(pattern="bomb"), CLEAN[1], CLEAN[16]):
        drawn = mixed(0.7) if holds else mixed(0.005)
        if attack in CLEAN.values():
            drawn = mixed(0.7, share=0.0) if holds else mixed(0.1 if attack is CLEAN[1] else 0.4, mismatch=0.4)
        asr = 0.8 if (attack is CLEAN[16]) == holds else 0.3
        yield from both(attack, drawn | judged | {"classifier_asr": asr}, control)
        for detector in detectors:
            yield from both(
                attack, {}, {"auroc[training set]": 0.5 if holds else 0.8}, defense=detector, kind="sample detector"
            )


SUITES = {
    "poison": poison, "science-poison-rates": rates, "science-clipping": clipping, "science-poison-samplers": samplers,
    "science-poison-generated": generated, "science-poison-filter": more_filters, "science-poison-replication": replication,
    "science-poison-schemes": schemes, "sd": prompts, "science-poison-triggers": triggers,
}  # fmt: skip


def run(suite: str, records: Iterator[Record] | list[Record], pending: int = 0) -> Run:
    found = [(Path("."), record) for record in records]
    counts = {status: sum(record.status == status for _, record in found) for status in ("ok", "failed", "skipped")}
    return Run(suite=suite, description=f"About {suite}.", started="2026-11-21T09:00:00+00:00", finished="2026-11-21T10:00:00+00:00",
               counts=counts | {"pending": pending}, records=found)  # fmt: skip


def world(holds: bool = True) -> list[Run]:
    return [run(suite, make(holds)) for suite, make in SUITES.items()]


def verdicts(page: Page, runs: list[Run]) -> dict[str, str]:
    return {claim.text: claim.verdict for section in page.found(runs) for claim in section.claims}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("holds", [True, False])
def test_every_claim_looks_in_its_direction(page: Page, holds: bool) -> None:
    """A comparison the wrong way round, or between the wrong cells, would turn a finding into its opposite."""
    found = verdicts(page, world(holds))
    assert len(found) > 10
    assert {text: verdict for text, verdict in found.items() if verdict != (SHOWS if holds else OPPOSITE)} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_told_without_a_run(page: Page) -> None:
    text, plots = render(page, [])
    assert plots == {} and text.count("| **not run** |") == len(page.suites)
    assert all(f"`{suite}` (not run)" in text for suite in page.suites)
    assert set(verdicts(page, []).values()) == {OPEN}
    assert [line for line in re.findall(r"^## (\d+)\.", text, re.MULTILINE)] == [
        str(place + 1) for place in range(len(page.found([])))
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_half_a_suite_leaves_its_claims_open(suite: str) -> None:
    """One seed of everything, and the controls gone: pages must come out, and must not claim."""
    for page in PAGES:
        records = [record for record in SUITES[suite](True) if record.seed == 0 and record.attack.name != "none"]
        text, _ = render(page, [run(suite, records, pending=5)])
        assert set(verdicts(page, [run(suite, records)]).values()) == {OPEN}
        assert suite not in page.suites or f"**{len(records)} of {len(records) + 5} cells**" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_plots_are_whole_and_known(page: Page) -> None:
    """A plot that the page does not know stays for ever; a broken SVG shows as nothing at all."""
    text, plots = render(page, world())
    assert set(plots) == set(page.plots) - {"samples.png"}
    for name, svg in plots.items():
        assert f"]({page.name}/{name})" in text
        assert isinstance(svg, str) and "nan" not in svg
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_sections_lead_there(page: Page) -> None:
    text, _ = render(page, world())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    anchors = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert anchors <= slugs and len(anchors) >= 4


def test_the_bars_are_the_mean_shares_with_the_poison_across() -> None:
    """By hand: 0.65 tainted, 0.6 of it of another class, gives G1 0.39 of 285 pixels, and p_t at half."""
    _, plots = render(pages.POISON, world())
    svg = str(plots["composition.svg"])
    drawn = ElementTree.fromstring(svg)
    widths = [float(part.get("width", 0)) for part in drawn.iter() if part.tag.endswith("rect") and part.get("y") == "10"]
    assert widths[:2] == [pytest.approx(0.39 * 285, abs=0.1), pytest.approx(0.26 * 285, abs=0.1)]
    ticks = [part.get("d", "") for part in drawn.iter() if part.get("class") == "tick-mark"]
    assert ticks[0].startswith("M362.5"), "220 + 285 / 2"


def test_a_long_label_is_not_cut_off() -> None:
    """It begins inside the picture, at 6.7 pixels a letter, and the bars end where they do elsewhere."""
    name = "badnets1, sde_dpm_solver++, 20, w = 2"
    drawn = ElementTree.fromstring(bars([Bar(name, [0.5, 0.5])], ["G1", "G2"], "p_t", "title"))
    label = next(part for part in drawn.iter() if part.text == name)
    assert float(label.get("x", 0)) > 6.7 * len(name)
    rectangles = [part for part in drawn.iter() if part.get("class") == "part" and part.get("y") == "10"]
    assert sum(float(part.get("width", 0)) for part in rectangles) == pytest.approx(505 - float(label.get("x", 0)) - 8)


def test_what_the_trigger_classifier_could_have_made_up_is_said() -> None:
    """G1 of 1 % by a classifier with 1 % of false alarms is nothing; a reader of the table could not know."""
    records = [
        dataclasses.replace(record, flags=(FALSE_ALARMS,)) if record.attack.params.get("poison_rate") == 0.01 else record
        for record in rates(True)
    ]
    text, _ = render(pages.POISON, [run("science-poison-rates", records)])
    said = "Within the trigger classifier's false alarms, so that G1 and G2 tell nothing"
    assert f"{said}: w = 2, 1 % (3 of 3 seeds); w = 5, 1 % (3 of 3 seeds)." in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_same_records_same_bytes_in_any_order(page: Page) -> None:
    first, runs = render(page, world()), world()
    random.Random(1).shuffle(runs)
    shuffled = [Run(**{**one.__dict__, "records": random.Random(2).sample(one.records, len(one.records))}) for one in runs]
    assert render(page, shuffled) == first


def test_hostile_names_are_shown_as_they_are() -> None:
    """A testbed, a reason or an attack's label comes from a record, which may come from anyone."""
    label = "a|b <script>alert(1)</script> [x](http://y)\n| row"
    record = next(iter(clipping(True)))
    record = dataclasses.replace(record, testbed=dataclasses.replace(record.testbed, label=label))
    wrong = dataclasses.replace(record, attack=badnets(pattern=label), status="failed", reason=label, metrics={})
    for page in PAGES:
        text, _ = render(page, [run("science-clipping", [record, wrong])])
        assert "<script>" not in text and r"a\|b &lt;script&gt;" in text and "\n| row" not in text
        assert "## Cells without a result" in text


def test_a_bar_is_a_number_and_needs_three_seeds() -> None:
    """Values 0.96, 0.97, 0.98 against 0.95: 0.02 -+ 4.303 x 0.01 / sqrt(3) = 0.0248 reaches below 0."""
    metrics = [{"auroc[training set]": 0.96 + 0.01 * seed} for seed in SEEDS]
    records = [
        dataclasses.replace(record, metrics={name: Metric(value=value) for name, value in metrics[record.seed].items()})
        for record in cell(PATCH, {})
    ]
    (line,) = lines(run("poison", records))
    part = against("", (line, "auroc[training set]"), 0.95, (0.0, float("inf")))
    assert part.difference is not None and part.verdict == OPEN
    assert (part.difference.mean, part.difference.low) == (pytest.approx(0.02), pytest.approx(-0.00484, abs=1e-5))
    assert against("", (line, "auroc[training set]"), 0.9, (0.0, float("inf"))).verdict == SHOWS
    (two,) = lines(run("poison", records[:2]))
    assert against("", (two, "auroc[training set]"), 0.9, (0.0, float("inf"))).note == "fewer than 3 seeds"
    assert against("", (two, "ta"), 0.9, None).difference is None and against("", (None, "ta"), 0.9, None).note == "no result"


def test_figures_of_the_script_are_linked_where_they_are() -> None:
    """A link to a file that is not there is a broken picture."""
    (first, *rest), page = [file for file, _ in FIGURES], pages.CLIPPING
    text, _ = render(page, [], present=[first])
    assert f"]({page.name}/{first})" in text
    assert not any(f"({page.name}/{file})" in text for file in rest) and text.count("Not drawn yet") == len(rest)


def test_figures_of_the_script_survive_a_new_page(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "clipping-and-poison"
    folder.mkdir(parents=True)
    (folder / FIGURES[0][0]).write_text("<svg/>")
    (folder / "patch.svg").write_text("old")
    (tmp_path / "runs").mkdir()
    pages.build(tmp_path, tmp_path / "docs")
    assert {path.name for path in folder.iterdir()} == {FIGURES[0][0]}
    assert f"(clipping-and-poison/{FIGURES[0][0]})" in (tmp_path / "docs" / "clipping-and-poison.md").read_text()


def with_pictures(folder: Path, path: str, colours: dict[str, int]) -> list[tuple[Path, Record]]:
    found = []
    for record in (one for one in clipping(True) if one.seed == 0):
        treatment = "no defense" if record.defense.name == "none" else record.defense.name
        place = folder / f"{len(found):02d}"
        place.mkdir(parents=True)
        Image.fromarray(np.full((48, 384, 3), colours[treatment], dtype=np.uint8)).save(place / "strip.png")
        pictures = {f"asked for the adversary's class, {treatment}": path}
        found.append((place, dataclasses.replace(record, pictures=pictures)))
    return found


def test_the_sheet_shows_every_trigger_guidance_and_treatment(tmp_path: Path) -> None:
    """Two triggers by four weights down, four treatments across; a strip in the wrong column would show the opposite."""
    colours = {"no defense": 10, "clip_x0": 80, "clip_x0_ddim": 140, "clip_xt": 200}
    records = with_pictures(tmp_path / "cells", "strip.png", colours)
    runs = [Run(**{**run("science-clipping", []).__dict__, "records": records})]
    text, plots = render(pages.CLIPPING, runs)
    assert "](clipping-and-poison/samples.png)" in text
    (tmp_path / "sheet.png").write_bytes(bytes(plots["samples.png"]))  # type: ignore[arg-type]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (30 + 8 * 56, 150 + 4 * 392, 3)
    seen = [[int(sheet[30 + 56 * row + 24, 150 + 392 * column + 100, 0]) for column in range(4)] for row in range(8)]
    assert seen == [[10, 80, 140, 200]] * 8


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "missing.png", "text.png"])
def test_a_record_cannot_put_another_file_on_the_sheet(tmp_path: Path, path: str) -> None:
    """Records are data from anyone: a path out of their folder would publish a file of the reader's."""
    records = with_pictures(tmp_path / "cells", path, dict.fromkeys(("no defense", "clip_x0", "clip_x0_ddim", "clip_xt"), 10))
    Image.new("RGB", (384, 48)).save(tmp_path / "cells" / "outside.png")
    for folder, _ in records:
        (folder / "text.png").write_text("no picture")
    runs = [Run(**{**run("science-clipping", []).__dict__, "records": records})]
    assert "samples.png" not in render(pages.CLIPPING, runs)[1]
