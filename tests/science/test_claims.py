"""The claims as data: each compares cells that the suites make, looks in its direction, and a fault
in a file is one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import UserError
from bench.papers import published
from bench.record import Metric, Run
from science.findings import OPPOSITE, SHOWS, Line, lines
from science.pages import PAGES, SHARED
from science.scene import Bindings, Scene, text
from science.spec import ClaimSpec, Comparison, Operand, read_page, read_section

SECTIONS = [section for page in PAGES for section in page.sections]
#: Beyond the edge of a region by this much; the intervals are ten times as narrow.
STEP = 0.015
DOWN = {"lower", "lowers", "falls", "fewer", "below"}
UP = {"higher", "raises", "rises", "grows", "more", "above", "stronger", "worse", "easier"}


def comparisons(scene: Scene) -> Iterator[tuple[ClaimSpec, Comparison, Bindings]]:
    """Every comparison of a section, with what is bound."""
    for claim, bound in scene.unrolled(scene.spec.claims):
        for outer in scene.bindings(claim.over, bound):
            yield from (
                (claim, one, inner) for one, inner in scene.unrolled(claim.comparisons, outer)
            )


def moved(scene: Scene, line: Line, metric: str, value: float) -> Scene:
    """The same records, but for one metric of one cell."""
    entries = tuple(
        replace(
            entry,
            record=replace(
                entry.record,
                metrics={
                    **entry.record.metrics,
                    metric: Metric(value=value, ci_low=value - 1e-3, ci_high=value + 1e-3, n=10**6),
                },
            ),
        )
        for entry in line.cell.entries
    )
    other = Line(line.board, replace(line.cell, entries=entries))
    by_suite = {
        suite: [other if one == line else one for one in cells]
        for suite, cells in scene.by_suite.items()
    }
    return Scene(scene.spec, scene.shared, by_suite)


@pytest.fixture(scope="module")
def all_lines(planned: Any, make_run: Any) -> dict[str, list[Line]]:
    return {suite: lines(make_run(suite, records)) for suite, records in planned.items()}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_every_claim_looks_in_its_direction(section: Any, all_lines: dict[str, list[Line]]) -> None:
    """A claim about cells that no suite makes stays open for ever; moved to either side of its
    edge, each comparison must show, and show the opposite.
    """
    scene = Scene(section, SHARED, {suite: all_lines[suite] for suite in section.suites})
    for _, one, bound in comparisons(scene):
        line, metric = scene.operand(one.left, bound)
        part = scene.part(one, bound)
        assert line is not None and part.difference is not None and part.region is not None, (
            section.title,
            part.text,
        )
        assert not part.note, (section.title, part.text, part.note)
        (low, high), base = part.region, line.interval(metric)
        assert base is not None
        here = base.mean - part.difference.mean
        inside = (
            (low + high) / 2
            if math.isfinite(low + high)
            else low + STEP
            if math.isfinite(low)
            else high - STEP
        )
        outside = [low - STEP] * math.isfinite(low) + [high + STEP] * math.isfinite(high)
        for difference, verdict in ((inside, SHOWS), *((beyond, OPPOSITE) for beyond in outside)):
            there = moved(scene, line, line.metric(metric), here + difference)
            assert there.part(one, bound).verdict == verdict, (section.title, part.text, difference)


def test_words_and_regions_agree() -> None:
    """Whoever turns a region round would turn a finding round; most texts say in a word which way
    it should lie.
    """
    checked = 0
    for section in SECTIONS:
        for claim, one, _ in comparisons(Scene(section, SHARED, dict.fromkeys(section.suites, []))):
            words = set(re.findall(r"[a-z]+", claim.text.lower()))
            if one.region.value == 0 and bool(words & UP) != bool(words & DOWN):
                expected = "above" if words & UP else "below"
                # What is claimed of MSE and ASR together is worded for one of them.
                assert one.region.form == expected, (section.title, claim.text)
                checked += 1
    assert checked > 60


def test_what_stands_before_the_minus_is_what_is_subtracted_from(
    all_lines: dict[str, list[Line]],
) -> None:
    """Left and right exchanged would turn a finding round, under a text that says otherwise."""
    checked = 0
    for section in SECTIONS:
        scene = Scene(section, SHARED, {suite: all_lines[suite] for suite in section.suites})
        for _, one, bound in comparisons(scene):
            before, _, after = scene.part(one, bound).text.partition(" − ")
            if not isinstance(one.right, Operand):
                continue
            (left, metric), (right, other) = (
                scene.operand(one.left, bound),
                scene.operand(one.right, bound),
            )
            assert left is not None and right is not None
            if after.startswith("without"):
                assert left.cell.defense.name != "none" == right.cell.defense.name, (
                    section.title,
                    before,
                    after,
                )
            elif "honest" in after:
                assert right.cell.attack.name == "none" != left.cell.attack.name, (
                    section.title,
                    before,
                    after,
                )
            elif metric != other and scene.names.heading(metric) in before + after:
                assert (
                    scene.names.heading(metric) in before
                    and scene.names.heading(metric) not in after
                ), (
                    section.title,
                    before,
                    after,
                )
            elif "[generated]" in metric:
                assert before.endswith("generated") and after.startswith("training set"), (
                    section.title,
                    before,
                    after,
                )
            else:
                continue
            checked += 1
    assert checked > 120


def test_without_records_nothing_is_told() -> None:
    """And every name in the files is known: a section is played whole without a single cell."""
    for section in SECTIONS:
        played = Scene(section, SHARED, dict.fromkeys(section.suites, [])).section()
        assert {claim.verdict for claim in played.claims} <= {
            "cannot be told here"
        } and played.plots == ()


SMALL = {
    "title": "1. A section",
    "says": "Something.",
    "suites": ["digits"],
    "axes": {"w": [1, 2]},
    "cells": {"plain": {"attack": "badnets1", "where": {"poison_rate": 0.1}}},
    "claims": [
        {
            "text": "It is so",
            "compare": "a − b",
            "metric": "fid",
            "left": "plain",
            "right": "plain",
            "region": {"below": 0},
        }
    ],
}


def claim(**changed: Any) -> dict[str, Any]:
    return {
        "claims": [
            {
                key: value
                for key, value in {**SMALL["claims"][0], **changed}.items()
                if value is not None
            }
        ]
    }  # type: ignore[index]


def printed(row: object) -> dict[str, Any]:
    extra = {"head": "paper", "published": "baddiffusion-7", "rows": {"clean": row}}
    return {"table": {"head": "x", "metrics": ["fid"], "rows": [], "extra": extra}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"titel": "x"}, "has no key 'titel'; known: axes,"),
        ({"title": 3}, "title: must be text, got 3"),
        ({"suites": "digits"}, "suites: must be a list, got 'digits'"),
        (
            claim(region={"beside": 0}),
            "claims[0].region: has no key 'beside'; known: above, below,",
        ),
        (claim(region={"below": 0, "above": 0}), "claims[0].region: must be one of above, below,"),
        (claim(region={"below": "0"}), "claims[0].region.below: must be a number, got '0'"),
        (claim(metric=None), "claims[0].left: needs a metric, here or beside it"),
        (claim(level=0.5), "claims[0]: needs either right, a cell, or level, a number"),
        (claim(over=["v"]), "claims[0].over[0]: is no axis of this section: v; known: w"),
        (
            claim(left={"cell": "plain", "attack": "wanet"}),
            "claims[0].left: is either another cell or one of its own",
        ),
        (
            claim(left={"cell": "plain", "population": "all"}),
            "claims[0].left.population: must be one of attack, every",
        ),
        (
            claim(comparisons=[]),
            "claims[0]: needs either compare with left, right and region, or a list of comparisons",
        ),
        ({"plots": [{"file": "x", "title": "x"}]}, "plots[0]: needs either bars or curves"),
        (
            printed("14.83"),
            "table.extra.rows.clean: must be a mapping with names, got '14.83'",
        ),
        (
            printed({"attack.target": "hat"}),
            "table.extra.rows.clean: must name one number of bench/papers/baddiffusion-7.yaml",
        ),
    ],
)
def test_a_fault_in_a_file_is_one_line_with_its_place(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "01-x.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert read_section(path, SHARED).title == "1. A section"
    path.write_text(yaml.safe_dump({**SMALL, **changed}))
    with pytest.raises(UserError) as caught:
        read_section(path, SHARED)
    assert str(caught.value).startswith(
        f"{tmp_path.name}/01-x.yaml: {message}"
    ) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (claim(left="plan"), "no cell is called 'plan'; cells: plain"),
        (claim(text="{rate} is so"), "{rate} is bound by no each or over; bound: nothing"),
        (claim(text="{w.real} is so", over=["w"]), "{w.real} is bound by no each or over"),
    ],
)
def test_a_name_that_nothing_bears_is_one_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    """Also ``{w.real}``: a text reaches no attribute of anything."""
    path = tmp_path / "01-x.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changed}))
    with pytest.raises(UserError, match=re.escape(message)):
        Scene(read_section(path, SHARED), SHARED, {"digits": []}).section()


def test_a_published_column_is_read_from_the_papers_tables(tmp_path: Path) -> None:
    """A number typed into a claim would be a second source of it."""
    path = tmp_path / "01-x.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **printed({"anchor": "base_model"})}))
    assert read_section(path, SHARED).extra == ("paper", {"clean": "14.83"})


@pytest.mark.parametrize(
    ("title", "file", "conditions"),
    [
        (
            "6. Training on generated images",
            "bibaddiff-4",
            {"attack.pattern": "badnets1", "metric": "classifier_asr", "data": "ImageNette"},
        ),
        (
            "7. The diffusion classifier",
            "bibaddiff-5",
            {
                "attack.poison_rate": 0.1,
                "metric": "classifier_asr",
                "defense": "diffusion_classifier",
            },
        ),
    ],
)
def test_what_a_section_says_of_a_table_stands_in_it(
    title: str, file: str, conditions: dict[str, object]
) -> None:
    """Shares with two decimals in prose are the table's per cents, rounded."""
    (section,) = [section for section in SECTIONS if section.title == title]
    shares = {
        f"{one.value / 100:.2f}"
        for one in published()
        if one.file == file
        and conditions.items()
        <= {**one.where, "metric": one.metric, "data": one.setting.data}.items()
    }
    quoted = re.findall(r"\b[01]\.\d\d\b", section.says)
    assert len(quoted) == 4 and set(quoted) <= shares


def test_a_page_needs_its_page_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"page\.yaml cannot be read"):
        read_page(tmp_path, SHARED)


def test_parameters_of_attack_defense_and_testbed_are_told_apart(
    all_lines: dict[str, list[Line]],
) -> None:
    """BadDiffusion and ANP both have a learning rate; the attack's in place of the defense's would
    empty ANP's table.
    """
    line = next(
        line
        for line in all_lines["science-anp"]
        if line.cell.defense.name == "anp" and line.cell.attack.name != "none"
    )
    assert line.params["learning_rate"] == line.cell.attack.params["learning_rate"]
    assert line.params["defense.learning_rate"] == line.cell.defense.params["learning_rate"]
    assert line.params["testbed.sampler"] == "ddpm"


def test_samplers_of_one_name_are_told_apart_by_their_parameters(
    all_lines: dict[str, list[Line]],
) -> None:
    """Without noise and with half of it, both are called ddim; the testbed's own has no parameters
    of its own.
    """
    (section,) = [one for one in SECTIONS if one.suites == ("samplers-attacks",)]
    scene = Scene(section, SHARED, {"samplers-attacks": all_lines["samplers-attacks"]})
    cells = {
        name: scene.line(section.cells[name], {"attack": "trojdiff"})
        for name in ("ddpm", "ddim", "ddim, eta .5")
    }
    assert [line and line.params.get("sampler.eta") for line in cells.values()] == [None, 0, 0.5]
    assert [line and line.params["sampler"] for line in cells.values()] == ["ddpm", "ddim", "ddim"]


def test_a_population_is_of_one_attack_or_of_all(all_lines: dict[str, list[Line]]) -> None:
    """Its interval is its record's, its seeds are the models', and it is no cell of an attack."""
    (section,) = [one for one in SECTIONS if one.suites == ("model-detectors",)]
    scene = Scene(section, SHARED, {"model-detectors": all_lines["model-detectors"]})
    bound = {
        "attack": "trojdiff",
        "detector": "elijah_model",
        "statistic": "total_variation",
        "family": "baddiffusion",
    }
    one, every, cell = (
        scene.line(section.cells[name], bound) for name in ("models", "every model", "judged")
    )
    assert one and every and cell
    names = [line.cell.attack.name for line in (one, every, cell)]
    assert names == ["trojdiff", "all", "trojdiff"]
    assert {line.cell.kind for line in (one, every)} == {"population"} != {cell.cell.kind}
    for line in (one, every):
        assert line.cell.defense == cell.cell.defense and line.seeds == (5, 5)
        interval = line.interval("auroc[models]")
        assert interval and interval.n == 5 and interval.low == pytest.approx(0.499)
    assert one.interval("model_score") is None and cell.seeds == (5, 5)


def test_every_operand_names_a_metric_that_is_measured(world: list[Run]) -> None:
    """A misspelt metric is absent everywhere, which reads as if nothing had been run."""
    known = {
        name.removesuffix("[x]")
        for run in world
        for _, record in run.records
        for name in record.metrics
    }
    used = set()
    for section in SECTIONS:
        used |= {metric for metric in section.metrics}
        for _, one, bound in comparisons(Scene(section, SHARED, dict.fromkeys(section.suites, []))):
            used |= {
                text(operand.metric, bound)
                for operand in (one.left, one.right, one.region.value)
                if isinstance(operand, Operand)
            }
    assert used <= known and len(used) > 20
