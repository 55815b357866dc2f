"""The page of a run that goes on: how far it is, what is coming, and nothing of it left at the end.

What a browser does with it is in ``test_browser.py``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest

from bench.cells import Cell
from bench.record import PluginSpec, Record, read_runs
from leaderboard.live import Going, in_words
from leaderboard.report import build, build_live, render
from leaderboard.sources import read_sources

SCRIPT = "<script>document.title='owned'</script>"
GOING: dict[str, Any] = {"written": 1.8e9, "every": 14.2, "done": 30, "left": 90, "seconds": 840.0}


def cell(record: Record, **changes: Any) -> Cell:
    """The cell that a record is of."""
    same = ("testbed", "attack", "defense", "probe", "sampler", "seed", "seeds", "kind", "protocol")
    return Cell(**{name: getattr(record, name) for name in same} | {"stage": "key"} | changes)


def cut(store: Path, keep: Callable[[Record], bool]) -> list[Record]:
    """Leaves only some cells in the account of a store's only run, and returns the others'
    records.
    """
    (path,) = (store / "runs").glob("*.json")
    (run,) = read_runs(store)
    account = json.loads(path.read_text())
    pairs = list(zip(account["cells"], (record for _, record in run.records), strict=True))
    account |= {"cells": [entry for entry, one in pairs if keep(one)], "finished": None}
    path.write_text(json.dumps(account))
    return [one for _, one in pairs if not keep(one)]


def rows(page: str) -> list[list[str]]:
    """The cells' text of the table of what is coming."""
    table = page[page.index('<details id="coming">') : page.index("</details>")]
    lines = re.findall(r"<tr><td>(.*?)</tr>", table)
    return [[re.sub("<.*?>", "", one) for one in line.split("</td><td>")] for line in lines]


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> Path:
    return make_store(tmp_path / "store")


def test_a_finished_page_has_nothing_of_the_live_one(store: Path, tmp_path: Path) -> None:
    """The same bytes whether the run wrote pages before or not."""
    plain = build(store, tmp_path / "plain.html").read_bytes()
    live = build_live(store, tmp_path / "page.html", **GOING).read_text()
    assert 'id="live"' in live and "location.reload()" in live and 'http-equiv="refresh"' in live
    assert "<title>25 % · castlewalls · digits</title>" in live
    build(store, tmp_path / "page.html")
    done = (tmp_path / "page.html").read_bytes()
    assert done == plain.replace(b"plain.csv", b"page.csv").replace(b"plain.json", b"page.json")
    for trace in (b'id="live"', b"location.reload", b"refresh", b".live", b"live-"):
        assert trace not in done
    assert list(tmp_path.glob(".*")) == []


def test_data_of_an_earlier_run_is_no_link_of_a_live_page(store: Path, tmp_path: Path) -> None:
    assert "page.csv" not in build_live(store, tmp_path / "page.html", **GOING).read_text()
    assert not (tmp_path / "page.csv").exists()


def test_an_empty_cell_of_the_matrix_says_when_it_is_expected(store: Path, tmp_path: Path) -> None:
    """Not that it is no part of the run, which is what an empty cell says at the end."""
    gone = cut(store, lambda one: one.defense.name != "clip_xt" or "hat" in one.attack.label)
    coming = [(cell(one), 200.0 + index) for index, one in enumerate(gone)]
    pairs = {(one.attack.label, one.probe and one.probe.label) for one in gone}
    assert len(pairs) == 3 and {one.seed for one in gone} == {0, 1, 2}
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    matrix = page[page.index('id="matrix"') : page.index('id="testbeds"')]
    assert matrix.count("still coming") == matrix.count("in 3 min") == 3
    done = build(store, tmp_path / "page.html").read_text()
    assert "still coming" not in done and done.count("not part of this run") >= 3


def words_of(html: str) -> list[str]:
    """The texts of an HTML, without its tags."""
    return [text.strip() for text in re.sub("<[^>]*>", "\n", html).split("\n") if text.strip()]


def part(page: str, start: str, end: str) -> str:
    return page[page.index(start) : page.index(end, page.index(start))]


def test_a_number_of_a_few_seeds_does_not_look_final(store: Path, tmp_path: Path) -> None:
    """A mean of one seed stood in the matrix, the rankings, the answers and the cell's own page
    like that of all three.
    """
    gone = cut(store, lambda one: one.seed == 0 or one.defense.name == "clip_xt")
    coming = [(cell(one), 200.0) for one in gone]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    matrix = part(page, 'id="matrix"', "</section>")
    marked = re.findall(r'<td class="([^"]*)"[^>]*>\s*<a class="cell" href="#([^"]*)"', matrix)
    assert len(marked) == 24
    for classes, link in marked:
        cut_short = "clip-xt" not in link and "absent" not in classes
        assert ("partial" in classes) == cut_short, link
        cell_page = part(page, f'<dialog id="{link}"', "</dialog>")
        assert ("1 of 3 seeds so far" in cell_page) == ("clip-xt" not in link), link
    assert matrix.count(">1 of 3 seeds so far<") == matrix.count(" partial") > 10
    answers = part(page, '<nav class="asks"', "</nav>").split("</a>")[:-1]
    assert answers and all("1 of 3 seeds so far" in words_of(one) for one in answers)
    ranking = part(page, 'id="stops"', "</section>")
    for entry in ranking.split('<tr class="entry')[1:]:
        assert ("1 of 3 seeds so far" in entry) == ('title="clip_xt"' not in entry)
    deep = part(page, 'id="testbeds"', 'id="method"')
    assert deep.count("1 of 3 seeds so far") > 20


def test_the_marks_go_once_the_seeds_are_there(store: Path, tmp_path: Path) -> None:
    """And a live page without anything partial has none of them, but for a column whose other
    attack is missing.
    """
    whole = build_live(store, tmp_path / "page.html", **GOING).read_text()
    assert "so far" not in whole and " partial" not in whole
    gone = cut(store, lambda one: "hat" in one.attack.label or one.defense.name != "clip_xt")
    coming = [(cell(one), 200.0) for one in gone if not one.probe]
    assert {one.seed for one in gone} == {0, 1, 2}
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    matrix = part(page, 'id="matrix"', "</section>")
    assert " partial" not in matrix and matrix.count("still coming") == 1
    entries = part(page, 'id="stops"', "</section>").split('<tr class="entry')[1:]
    short = [one for one in entries if "1 of 2 attacks so far" in one]
    assert len(short) == 1 and 'title="clip_xt"' in short[0] and len(entries) > 2
    assert "1 of 2 attacks so far" in part(page, '<nav class="asks"', "</nav>")


def test_a_column_that_is_missing_altogether_is_counted(store: Path, tmp_path: Path) -> None:
    """An answer that knows two of three defenses says so."""
    gone = cut(store, lambda one: one.defense.name != "clip_xt")
    coming = [(cell(one), 200.0) for one in gone]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    assert "2 of 3 defenses so far" in part(page, '<nav class="asks"', "</nav>")
    heads = part(page, 'class="matrix whole"', "</thead>")
    assert 'title="clip_xt"' in heads
    assert part(page, 'id="matrix"', "</section>").count("in 3 min") == 4


def test_a_testbed_that_nothing_is_there_of_has_its_lines_and_estimate(
    store: Path, tmp_path: Path, make_class_store: Callable[..., Path]
) -> None:
    """It was in a list that opens, and nowhere else, until its first number came."""
    (other,) = read_runs(make_class_store(tmp_path / "classes"))
    every = [one for _, one in other.records if one.kind != "anchor"]
    records = [one for one in every if one.testbed == every[0].testbed]
    coming = [(cell(one), 100.0 + 60 * index) for index, one in enumerate(records)]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    last = in_words(coming[-1][1])
    news = f"nothing yet, the first in about 2 min, all in about {last}"
    name = records[0].testbed.label.partition("(")[0]
    bar = part(page, '<section id="live"', '<details id="coming"')
    assert words_of(bar)[-2:] == [name, news]
    matrix = part(page, 'id="matrix"', "</section>")
    assert news in words_of(matrix)
    pairs = {(one.attack.identity, one.probe and one.probe.identity) for one in records}
    lines = matrix.split('<tbody class="testbed">')[-1].split("<tr")[2:]
    assert len(lines) == len(pairs)
    assert all(re.search(r">in (\d+ min|[\d.]+ h)<", line) for line in lines)
    # Each defense has a column that it will stay in.
    heads = part(page, 'class="matrix whole"', "</thead>")
    for name in {one.defense.label or one.defense.name for one in records} - {"none"}:
        assert f'title="{escape(name)}"' in heads
    assert "nothing yet" not in "".join(words_of(part(page, 'id="testbeds"', 'id="method"')))
    ids = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', part(page, 'id="matrix"', "</section>")))
    assert links <= ids


def test_no_defense_is_awaited_in_its_own_metric_alone(
    store: Path, tmp_path: Path, make_class_store: Callable[..., Path]
) -> None:
    """Of two testbeds that are measured otherwise, each has a column of no defense."""
    (run,) = read_runs(store)
    (other,) = read_runs(make_class_store(tmp_path / "classes"))
    kept = [(folder, one) for folder, one in run.records if one.defense.name != "none"]
    gone = [one for _, one in run.records if one.defense.name == "none" and one.kind != "anchor"]
    pairs = {(one.attack.identity, one.probe and one.probe.identity) for one in gone}
    going = Going(**GOING, coming=[(cell(one), 200.0) for one in gone])
    page = render([dataclasses.replace(run, records=kept), other], going=going)
    matrix = part(page, 'id="matrix"', "</section>")
    heads = part(matrix, "<thead>", "</thead>")
    assert heads.count('title="none"') == 2 and matrix.count("in 3 min") == len(pairs)


def test_a_population_is_expected_though_its_cells_are_there() -> None:
    """Its column showed the last of its cells as a number that would never come."""
    results = Path(__file__).resolve().parents[2] / "results" / "model-detectors"
    (run,) = read_sources([results])
    kept = [(folder, one) for folder, one in run.records if one.kind != "population"]
    coming = [(cell(one), 300.0) for _, one in run.records if one.kind == "population"]
    going = Going(**GOING, coming=coming)
    page = render([dataclasses.replace(run, records=kept)], going=going)
    matrix = part(page, 'id="matrix"', "</section>")
    assert matrix.count("in 5 min") > 5 and " partial" not in matrix
    assert "in 5 min" not in part(render([run], going=Going(**GOING)), 'id="matrix"', "</section>")


def test_what_is_coming_is_a_line_for_each_pair(store: Path, tmp_path: Path) -> None:
    gone = cut(store, lambda one: one.defense.name != "clip_xt")
    pairs = {(one.attack.label, one.probe and one.probe.label) for one in gone}
    coming = [(cell(one), 30.0 + 400 * index) for index, one in enumerate(gone)]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    lines = rows(page)
    assert len(lines) == len(pairs) == len({line[1] for line in lines})
    assert {line[3] for line in lines} == {"0, 1, 2"}
    assert lines[0][4].startswith("30 s to ")
    assert f"30 of 120 stages, {len(gone)} cells still coming" in page


def test_a_page_without_records_says_so(tmp_path: Path, store: Path) -> None:
    gone = cut(store, lambda one: False)
    coming = [(cell(one), 60.0) for one in gone]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    assert "No number yet." in page and len(rows(page)) > 5
    ended = build_live(store, tmp_path / "page.html", written=0.0, every=0.0, ended=True)
    text = ended.read_text()
    assert "ended before its first number" in text and 'http-equiv="refresh"' not in text


def test_text_of_plugins_is_escaped(store: Path, tmp_path: Path) -> None:
    (run,) = read_runs(store)
    one = run.records[0][1]
    hostile = PluginSpec(name="x", label=SCRIPT)
    coming = [(cell(one, attack=hostile, defense=hostile, testbed=hostile, probe=hostile), 1.0)]
    page = build_live(store, tmp_path / "p.html", **GOING, coming=coming, running=[SCRIPT])
    text = page.read_text()
    assert SCRIPT not in text
    assert part(text, 'id="matrix"', "</section>").count("&lt;script&gt;document") > 3
    assert part(text, '<section id="live"', "</section>").count("&lt;script&gt;document") > 3


def test_a_list_of_thousands_is_cut(store: Path, tmp_path: Path) -> None:
    (run,) = read_runs(store)
    one = cell(run.records[0][1])
    coming = [
        (dataclasses.replace(one, attack=PluginSpec(name=f"a{index}")), 1.0 * index)
        for index in range(1000)
    ]
    page = build_live(store, tmp_path / "page.html", **GOING, coming=coming).read_text()
    assert len(rows(page)) == 200 and "and 800 more" in page


def test_an_estimate_is_no_more_exact_than_it_is() -> None:
    assert [in_words(seconds) for seconds in (0, 12, 54, 61, 240, 5000, 9000)] == [
        "5 s",
        "10 s",
        "55 s",
        "1 min",
        "4 min",
        "83 min",
        "2.5 h",
    ]
