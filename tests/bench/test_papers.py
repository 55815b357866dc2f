"""The papers' tables: every number says where it stands, in words of our registry, and a fault in a
file is one line.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from bench import measurements, testbeds
from bench.errors import UserError
from bench.papers import FOLDER, PAPERS, agrees, lookup, published, read_tables
from bench.registry import Registry
from bench.samplers import SUMMARIES
from bench.words import declaration_of, split

NUMBERS = published()
PRINTED = re.compile(r"\d+(\.\d+)?")
MINIMAL = """\
paper: mine
table: "1"
page: 3
setting: {data: d, model: m, sampling: s, samples: n}
blocks:
  - name: FID
    own: [digits-ddpm]
    where: {metric: fid, attack: baddiffusion}
    rows: [{attack.poison_rate: 0.1}, {attack.poison_rate: 0.2}]
    columns: [{attack.target: hat}, {attack.target: shoe}]
    values: |
      1.50±0.10 2
      - 3.0
"""


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    (tmp_path / PAPERS).write_text(
        "mine: {cite: 'One & Two 2020', title: <i>Papers</i>, venue: V, arxiv: '0000.00000'}\n"
    )
    (tmp_path / "mine-1.yaml").write_text(MINIMAL)
    return tmp_path


def test_every_number_cites_its_paper_table_and_page() -> None:
    """The text of the first paper has no pages: there the section says where."""
    assert len(NUMBERS) > 400
    for one in NUMBERS:
        assert one.paper.cite and one.paper.title and one.paper.venue
        assert re.fullmatch(r"\d{4}\.\d{5}", one.paper.arxiv)
        assert re.fullmatch(r"A?\d+a?", one.table)
        assert (one.page or 0) >= 1 or re.fullmatch(r"appendix [A-Z](\.\d)?", one.section)
        assert f"Table {one.table}, " in one.citation and one.paper.cite in one.citation
        assert all((one.setting.data, one.setting.model, one.setting.sampling, one.setting.samples))
        assert one.setting.features or not one.metric.startswith("fid")


def test_numbers_are_as_printed_and_in_range() -> None:
    for one in NUMBERS:
        assert PRINTED.fullmatch(one.printed) and one.unit in ("", "%")
        assert one.deviation == "" or PRINTED.fullmatch(one.deviation)
        if one.unit == "%":
            assert 0 <= one.value <= 100
        if one.name == "AUROC":
            assert 0.5 < one.value < 1


def test_conditions_are_in_the_words_of_the_registry() -> None:
    """A misspelt parameter would match no cell, and nobody would see it."""
    registry, declared = Registry(), measurements.declared()
    for one in NUMBERS:
        names = {*one.where, *one.also}
        assert set(one.own) | set(one.mirrors) <= set(testbeds.names())
        assert declaration_of(declared, f"{split(one.metric)[0]}[x]") or declaration_of(
            declared, one.metric
        )
        assert "anchor" in names or {"attack", "defense"} <= names
        for role, known in (
            ("attack", registry.names("attacks")),
            ("defense", {*registry.names("defenses"), *registry.names("detectors")}),
            ("sampler", SUMMARIES),
        ):
            for name in _choices(one.where.get(role, [])):
                assert name in known, f"{one.citation}: {role} {name}"
        for name in names:
            role, _, parameter = name.partition(".")
            if role in ("attack", "defense") and parameter:
                groups = {"attack": ("attacks",), "defense": ("defenses", "detectors")}[role]
                for plugin in _choices(one.where[role]):
                    fields = {
                        field.name
                        for group in groups
                        if plugin in registry.names(group)
                        for field in dataclasses.fields(registry.get(group, plugin))
                    }
                    assert parameter in fields or plugin == "none", f"{one.citation}: {name}"


def _choices(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def test_no_table_prints_two_numbers_for_one_thing() -> None:
    """Two blocks that overlap would show a cell two numbers of one table."""
    keys = Counter(
        (one.file, one.setting.data, one.own, one.metric, repr(sorted(one.where.items(), key=str)))
        for one in NUMBERS
    )
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize(
    ("file", "conditions", "printed"),
    [
        ("baddiffusion-7", {"anchor": "base_model"}, "14.83"),
        (
            "baddiffusion-7",
            {"attack.trigger": "stop_sign", "attack.target": "shoe", "attack.poison_rate": 0.7},
            "7.35",
        ),
        (
            "baddiffusion-6",
            {"attack.target": "hat", "attack.poison_rate": 0.05, "defense": "clip_x0"},
            "8.42",
        ),
        (
            "bibaddiff-5",
            {"attack.poison_rate": 0.1, "defense.p_filter": 0.05},
            None,  # TA and ASR
        ),
        ("baddiffusion-7", {"attack.target": "cat"}, None),
        ("nothing-1", {"anchor": "base_model"}, None),
    ],
)
def test_a_number_is_looked_up_by_what_it_is_of(
    file: str, conditions: dict[str, object], printed: str | None
) -> None:
    one = lookup(file, conditions)
    assert (one and one.printed) == printed


def test_where_a_paper_prints_a_number_again_it_is_the_same() -> None:
    """Of the Grey Box at 5 %, tables 4, 6 and 7 of BadDiffusion have one FID."""
    what = {"attack.trigger": "grey_box", "attack.target": "hat", "attack.poison_rate": 0.05}
    same = [
        lookup("baddiffusion-4", {**what, "attack.scheme": "finetune"}),
        lookup("baddiffusion-6", {**what, "defense": "none"}),
        lookup("baddiffusion-7", what),
    ]
    assert [one and one.text for one in same] == ["FID 8.53"] * 3


def test_rows_and_columns_become_conditions(folder: Path) -> None:
    first, second, third = read_tables(folder)
    assert (first.text, second.text, third.text) == ("FID 1.50 ± 0.10", "FID 2", "FID 3.0")
    assert (first.value, first.deviation) == (1.5, "0.10")
    assert third.where == {
        "attack": "baddiffusion",
        "attack.poison_rate": 0.2,
        "attack.target": "shoe",
    }
    assert third.citation == "One & Two 2020, Table 1, page 3"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("page: 3\n", "", "mine-1.yaml: needs page, or section where the text has no pages"),
        ("page: 3", "page: 0", "mine-1.yaml: page: must be a page's number, got 0"),
        ("paper: mine", "paper: yours", "mine-1.yaml: paper: must be one of mine, got 'yours'"),
        ('table: "1"', 'table: "2"', "mine-1.yaml: must be named mine-2.yaml, after its paper"),
        ("samples: n", "other: n", "has no key 'other'"),
        (", samples: n", "", "blocks[0]: the setting needs data, model, sampling and samples"),
        ("      - 3.0\n", "", "values: must have 2 lines of 2, got lines of 2"),
        ("- 3.0", "- 3,0", "values: must be numbers as printed, or -, got '3,0'"),
        ("metric: fid, ", "", "values: needs a metric, and an attack or an anchor"),
        ("attack.target: hat", "atack.target: hat", "atack.target: is no condition; known: anchor"),
        ("attack.target: hat", "attack.: hat", "is no condition"),
        ("attack.target: hat", "attack.target: {a: 1}", "must be a value or a list of values"),
    ],
)
def test_a_fault_is_one_line_that_says_where(
    folder: Path, old: str, new: str, problem: str
) -> None:
    assert MINIMAL.count(old) == 1
    (folder / "mine-1.yaml").write_text(MINIMAL.replace(old, new))
    with pytest.raises(UserError) as error:
        read_tables(folder)
    assert problem in str(error.value) and "\n" not in str(error.value)


def test_true_is_not_one() -> None:
    assert agrees(1, 1.0) and agrees(None, [None, 14]) and not agrees(True, 1)
    assert not agrees(0.1, [0.05, 0.2])


def test_the_tables_are_read_from_their_own_folder(tmp_path: Path) -> None:
    """A wheel without them would have a board without a paper column."""
    for path in FOLDER.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    assert read_tables(tmp_path) == NUMBERS
    setup = (FOLDER.parents[1] / "setup.cfg").read_text()
    assert "bench.papers =\n    *.yaml\n" in setup
