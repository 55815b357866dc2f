"""What papers printed stands beside a cell that does the same, in words of its own, and nowhere
else: no metric, ranking or interval sees it.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from bench.papers import Paper, Published, published
from bench.record import PluginSpec, Record, Run, read_runs
from leaderboard import beside, export
from leaderboard.beside import OTHER, OWN, of_metric, of_record
from leaderboard.report import render

NOTE = re.compile(r'<div class="published".*?</div>', re.DOTALL)
IN_CELLS = re.compile(r'<(small|p) class="(?:scale )?printed[ "].*?</\1>', re.DOTALL)
HOSTILE = "<script>alert(1)</script>\"'--><img src=x onerror=alert(2)>{{ 7*7 }}"
EMBEDDED = PluginSpec(
    name="digits-ddpm", params={"sampler": "ddpm", "num_inference_steps": 50, "clip": "none"}
)
PAPERS = PluginSpec(
    name="cifar10-ddpm", params={"sampler": "ddpm", "num_inference_steps": 1000, "clip": "none"}
)
NONE = PluginSpec(name="none")


def attack(**params: object) -> PluginSpec:
    """BadDiffusion as Table 7 has it, with changes."""
    whole = {
        "trigger": "grey_box", "target": "hat", "trigger_size": None, "poison_rate": 0.1,
        "poisoned_image": "blend", "stride": 1, "scheme": "finetune", "training_steps": None,
    }  # fmt: skip
    return PluginSpec(name="baddiffusion", params=whole | params)


def record(**changes: object) -> Record:
    fields = {"testbed": PAPERS, "attack": attack(), "defense": NONE, "seed": 0, "kind": "control"}
    return Record(status="ok", **(fields | changes))  # type: ignore[arg-type]


def sources(one: Record) -> list[str]:
    """``7: FID 8.81`` for each number beside it."""
    return [f"{item.published.table}: {item.published.text}" for item in of_record(one)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["6: FID 8.81", "7: FID 8.81"]),
        ({"attack": attack(trigger_size=14)}, ["6: FID 8.81", "7: FID 8.81"]),
        ({"attack": attack(trigger_size=8)}, []),
        ({"attack": attack(poison_rate=0.15)}, []),
        ({"attack": attack(target="cat")}, []),
        ({"attack": attack(training_steps=9)}, []),
        ({"attack": attack(trigger="stop_sign", target="shoe")}, ["7: FID 7.48"]),
        ({"attack": attack(scheme="scratch", poison_rate=0.05)}, ["4: FID 18.01"]),
        ({"defense": PluginSpec(name="clip_x0"), "kind": "sampler"}, ["6: FID 8.82"]),
        ({"defense": PluginSpec(name="clip_xt"), "kind": "sampler"}, ["6: FID 8.82"]),
        ({"defense": PluginSpec(name="clip_x0_ddim"), "kind": "sampler"}, []),
        ({"attack": attack(trigger="stop_sign", target="no_shift")}, ["7: FID 7.62"]),
        (
            {
                "attack": attack(trigger="stop_sign", target="no_shift"),
                "sampler": PluginSpec(name="dpm_solver++", params={"num_inference_steps": 20}),
            },
            ["3: FID 10.22"],
        ),
        ({"attack": PluginSpec(name="base_model"), "kind": "anchor"}, ["7: FID 14.83"]),
        ({"attack": PluginSpec(name="base_model")}, []),
        ({"attack": NONE, "probe": attack()}, []),
        ({"kind": "population", "seeds": (0, 1)}, []),
        ({"testbed": PluginSpec(name="celebahq-ddpm", params=PAPERS.params)}, []),
        ({"testbed": PluginSpec(name="a-strangers", params=PAPERS.params)}, []),
    ],
)
def test_a_number_stands_beside_what_it_is_of(
    changes: dict[str, object], expected: list[str]
) -> None:
    """Any other parameter than the paper's is another thing, and so is another sampler."""
    assert sources(record(**changes)) == expected


def test_the_papers_testbed_and_an_embedded_one_differ_in_the_words() -> None:
    """On the paper's own testbed nothing is to be said but what was done otherwise."""
    own, other = of_record(record()), of_record(record(testbed=EMBEDDED))
    assert {item.whose for item in own} == {OWN} and {item.whose for item in other} == {OTHER}
    assert [item.differences for item in own] == [(), ()]
    assert of_record(record(attack=attack(poisoned_image="trigger_only")))[0].differences == (
        "poisoned image: blend in the paper, trigger_only here",
    )
    assert other[0].differences == ("num inference steps: 1000 in the paper, 50 here",)
    (clipped,) = of_record(record(defense=PluginSpec(name="clip_x0"), kind="sampler"))
    assert clipped.differences == (clipped.published.differs,) != ("",)


def test_a_testbeds_part_binds_the_papers_own_testbed_alone() -> None:
    """ImageNette's tables have a column for each classifier. The digits' own stands for ResNet-50;
    what is cut down from the two others stands for them alone.
    """
    poisoned = PluginSpec(
        name="badnets", params={"pattern": "badnets1", "poison_rate": 0.01, "scheme": "finetune"}
    )

    def printed(name: str, **params: object) -> list[str]:
        testbed = PluginSpec(name=name, params=params)
        items = of_record(record(testbed=testbed, attack=poisoned))
        return [item.published.text for item in of_metric(items, "ta")]

    assert printed("imagenette-sd", classifier="vgg16") == ["TA 98.445 %"]
    assert printed("imagenette-sd", classifier="resnet50") == ["TA 99.524 ± 0.078 %"]
    assert printed("imagenette-sd", classifier="resnet18") == []
    both = ["TA 99.524 ± 0.078 %", "TA 99.833 ± 0.000 %"]
    assert printed("digits-sd") == both
    assert printed("digits-cfg") == [*both, "TA 94.85 %"]  # and ResNet-18 on CIFAR-10
    for name in ("digits-sd", "digits-cfg"):
        assert printed(name, classifier="vgg") == ["TA 98.445 %"]
    assert printed("digits-cfg", classifier="densenet") == ["TA 99.261 %"]
    assert printed("digits-cfg", classifier="resnet18") == []


def test_a_family_is_every_metric_of_it() -> None:
    """FIDs are named after what extracts their features; an AUROC after what is judged."""
    items = of_record(record())
    assert of_metric(items, "fid[digits-cnn]") == of_metric(items, "fid") == items != ()
    assert of_metric(items, "kid[digits-cnn]") == of_metric(items, "fid_other_classes[x]") == ()


@pytest.fixture()
def run(store: Path) -> Run:
    """A run of the synthetic store, on an embedded testbed and with the paper's parameters."""

    def moved(one: Record) -> Record:
        params = {**attack().params, **one.attack.params}
        named = one.attack.name == "baddiffusion"
        return dataclasses.replace(
            one,
            testbed=dataclasses.replace(one.testbed, name="digits-ddpm"),
            attack=dataclasses.replace(one.attack, params=params) if named else one.attack,
        )

    (run,) = read_runs(store)
    return dataclasses.replace(run, records=[(path, moved(one)) for path, one in run.records])


def put(monkeypatch: pytest.MonkeyPatch, numbers: tuple[Published, ...]) -> None:
    """In place of the papers' numbers."""
    monkeypatch.setattr(beside, "_numbers", lambda testbed: numbers)
    monkeypatch.setattr(beside, "_of_facts", inspect.unwrap(beside._of_facts))


def table(run: Run) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(export.to_csv([run])))


def test_no_metric_ranking_or_interval_sees_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With absurd numbers in place of the papers', and with none, the page differs in its notes
    alone, and the files in their own field.
    """
    absurd = tuple(dataclasses.replace(one, printed="777777") for one in published())
    pages, tables, documents = [], [], []
    for numbers in (absurd, ()):
        put(monkeypatch, numbers)
        pages.append(render([run]))
        tables.append(table(run))
        documents.append(json.loads(export.to_json([run])))
    with_them, without = pages
    assert len(NOTE.findall(with_them)) >= 3 and "777777" in with_them
    assert not NOTE.findall(without)
    assert "777777" in "".join(one[0] for one in IN_CELLS.finditer(with_them))
    bare = [re.sub(r"\s*\n\s*", "\n", IN_CELLS.sub("", NOTE.sub("", page))) for page in pages]
    assert bare[0] == bare[1]
    assert tables[0].published.notna().any() and not tables[1].published.notna().any()
    assert set(tables[0][tables[0].published.notna()].metric) == {"fid[digits-cnn]"}
    assert tables[0].drop(columns="published").equals(tables[1].drop(columns="published"))
    lines = [document.pop("published") for document in documents]
    assert documents[0] == documents[1] and lines[1] == []
    assert {line["value"] for line in lines[0]} == {777777.0}


def test_the_files_say_whose_number_it_is(run: Run) -> None:
    """As text in the CSV, which no mean over a column takes for ours."""
    cells = [text for text in table(run).published.dropna().unique() if "8.81" in text]
    assert cells == [
        "FID 8.81 (Chou et al. 2023, Table 6, appendix F.3; the paper’s, on other data and "
        "networks); FID 8.81 (Chou et al. 2023, Table 7, appendix F.4; the paper’s, on other data "
        "and networks)"
    ]
    lines = json.loads(export.to_json([run]))["published"]
    (line,) = [
        line
        for line in lines
        if line["table"] == "7" and line["beside"]["attack"]["params"].get("target") == "hat"
    ]
    assert (line["printed"], line["metric"], line["own_testbed"]) == ("8.81", "fid", False)
    assert line["paper"]["arxiv"] == "2212.05400" and line["beside"]["defense"]["name"] == "none"


def test_a_number_printed_twice_is_one_line_with_both_sources(run: Run) -> None:
    (text,) = [text for text in NOTE.findall(render([run])) if "8.81" in text]
    assert text.count("<li>") == 1
    assert "Table 6, appendix F.3; Chou et al. 2023, Table 7, appendix F.4; CIFAR-10;" in text
    assert OTHER in text and "published" in text


def test_a_cell_of_a_table_has_the_number_and_the_table_its_source(run: Run) -> None:
    """Where a reader compares: in the table of that metric, and in no other."""
    page = render([run])
    (block,) = re.findall(
        r'<div class="metric"[^>]*data-metric="fid\[digits-cnn\]".*?</div>', page, re.DOTALL
    )
    # With a star: the paper took 1000 steps, which the cell's panel says.
    assert 'class="printed">paper 8.81*, CIFAR-10</small>' in block
    sources = re.search(r'<p class="scale printed">(.*?)</p>', page)
    for where in ("Table 6, appendix F.3", "Table 7, appendix F.4"):
        assert sources and f"{where} (CIFAR-10; the paper’s, on other data" in sources[1]
    assert page.count("paper 8.81*, CIFAR-10") == block.count("paper 8.81*, CIFAR-10") == 1


def test_hostile_words_stay_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's own, and a record's parameter that a difference quotes."""
    paper = Paper(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    spoilt = tuple(
        dataclasses.replace(
            one,
            paper=paper,
            name=HOSTILE,
            section=HOSTILE,
            differs=HOSTILE,
            setting=dataclasses.replace(one.setting, data=HOSTILE),
        )
        for one in published()
    )
    put(monkeypatch, spoilt)

    def spoil(one: Record) -> Record:
        params = {**one.attack.params, "poisoned_image": HOSTILE}
        return dataclasses.replace(one, attack=dataclasses.replace(one.attack, params=params))

    page = render(
        [dataclasses.replace(run, records=[(path, spoil(one)) for path, one in run.records])]
    )
    notes = NOTE.findall(page)
    assert notes and all("&lt;script&gt;" in note for note in notes)
    assert any("blend in the paper, &lt;script&gt;" in note for note in notes)
    cells = [one[0] for one in IN_CELLS.finditer(page)]
    assert cells and all("&lt;script&gt;" in cell for cell in cells)
    assert "<script>alert" not in page and "<img src=x" not in page and "{{ 7*7 }}" in page
