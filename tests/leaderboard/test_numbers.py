"""Every table of a board: a number stands beside its n, and its column's head opens what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import results
from bench.record import read_runs
from leaderboard.aggregate import Interval
from leaderboard.names import RATE
from leaderboard.report import render
from leaderboard.values import NO_VALUE, Value, amount, difference, percent, value

#: A measured number as text, and the count beside it.
NUMBER = re.compile(r"[+−]?\d[\d,]*(\.\d+)?( (%|s|MiB))?(?![\d-])")
COUNT = re.compile(r"\bn\xa0\d")
#: Heads of what counts, orders or lists, so that no n belongs to it.
COUNTS = {"rank", "n", "level", "paper", "seeds", "backdoored", "honest", "each seed"}


class Tables(HTMLParser):
    """Each table as rows of cells; a cell is its tag, attributes, text and the cards that it
    opens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[dict] = []
        self.cards: set[str] = set()
        self.by_label: dict[str, list[str]] = {}
        self._open: list[dict] = []
        self._cell: dict | None = None
        self._label: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        attrs = {name: text or "" for name, text in attributes}
        if tag == "table":
            self._open.append({"attrs": attrs, "rows": []})
            self.tables.append(self._open[-1])
        elif tag == "tr" and self._open:
            self._open[-1]["rows"].append([])
        elif tag in ("td", "th") and self._open:
            self._cell = {"tag": tag, "attrs": attrs, "text": "", "opens": []}
            self._open[-1]["rows"][-1].append(self._cell)
        elif tag == "p":
            self._label = self.by_label.setdefault(attrs.get("id", ""), [])
        if "popovertarget" in attrs and "what" in attrs.get("class", "").split():
            for opens in (self._cell["opens"] if self._cell else None, self._label):
                if opens is not None:
                    opens.append(attrs["popovertarget"])
        if "popover" in attrs:
            self.cards.add(attrs["id"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._open.pop()
        if tag in ("table", "td", "th"):
            self._cell = None
        if tag == "p":
            self._label = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell["text"] += data


def bare(cell: dict) -> str:
    """Its text without the question mark of its definition."""
    text = " ".join(cell["text"].replace("\n", " ").split(" ")).strip()
    return text.removesuffix("?").strip() if cell["opens"] else text


def columns(rows: list[list[dict]]) -> tuple[dict[int, list[dict]], int]:
    """Column -> the heads above it, and the number of rows that are heads alone."""
    above: dict[int, list[dict]] = {}
    taken: set[tuple[int, int]] = set()
    depth = 0
    for number, row in enumerate(rows):
        if any(cell["tag"] == "td" and NUMBER.match(bare(cell)) for cell in row):
            break
        if any(cell["attrs"].get("scope") in ("row", "rowgroup") for cell in row):
            break
        depth, at = number + 1, 0
        for cell in row:
            while (number, at) in taken:
                at += 1
            wide, high = (int(cell["attrs"].get(name, 1)) for name in ("colspan", "rowspan"))
            for column in range(at, at + wide):
                above.setdefault(column, []).append(cell)
                taken |= {(number + down, column) for down in range(high)}
            at += wide
    return above, depth


def faults(page: str) -> Iterator[str]:
    """Each number of a table without a definition or without its n."""
    # With scripts, what is in <noscript> is the page's too.
    tables = Tables()
    tables.feed(page)
    assert len(tables.tables) > 10 and tables.cards
    for table in tables.tables:
        above, depth = columns(table["rows"])
        name = table["attrs"].get("aria-labelledby", "")
        for row in table["rows"][depth:]:
            names = {bare(head) for at, _ in enumerate(row) for head in above.get(at, [])}
            counted = bool(names & {"n", "backdoored"})
            for at, cell in enumerate(row):
                if cell["tag"] != "td" or not NUMBER.match(bare(cell)):
                    continue
                heads = above.get(at, [])
                rows_head = [one for one in row if one["tag"] == "th"]
                opens = [one for head in heads + rows_head for one in head["opens"]]
                opens += tables.by_label.get(name, [])
                where = f"{[bare(head) for head in heads]}: {bare(cell)!r}"
                if not opens:
                    yield f"no definition, {where}"
                if unwritten := [one for one in opens if one not in tables.cards]:
                    yield f"opens nothing, {where}: {unwritten}"
                counts = any(bare(head).lower() in COUNTS for head in heads)
                if not (counted or counts or COUNT.search(cell["text"])):
                    yield f"no n, {where}"


@pytest.mark.parametrize("suite", ["digits", "poison", "model-detectors"])
def test_no_table_of_published_results_has_a_number_without_n_or_definition(suite: str) -> None:
    """Of records that the engine made: noise and data attacks, detectors, compositions, inversions
    and populations.
    """
    runs = results.read_source(results.published() / suite)
    assert list(faults(render(runs))) == []


def test_no_table_has_a_number_without_n_or_definition(store: Path, class_store: Path) -> None:
    """With cells that failed or were skipped, and two testbeds."""
    page = render([*read_runs(store), *read_runs(class_store)])
    assert list(faults(page)) == []


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (r" ?<small>n\xa0[^<]*</small>", "no n"),
        (r'<button class="what".*?</button>', "no definition"),
        (r'(?<=class="define" id=")def-', "opens nothing"),
    ],
)
def test_the_walk_sees_what_is_missing(class_store: Path, taken: str, expected: str) -> None:
    page = re.sub(taken, "", render(read_runs(class_store)))
    assert any(fault.startswith(expected) for fault in faults(page))


def test_a_number_is_written_with_all_that_belongs_to_it() -> None:
    """Once, for every table; and what records say stays text."""
    one = value(RATE, Interval(0.5, 0.25, 0.75, 3), 64)
    assert one == Value("0.50", "[0.25, 0.75]", "3 × 64")
    assert amount(one) == "0.50 <i>[0.25, 0.75]</i> <small>n\xa03 × 64</small>"
    assert amount(one, True, to="x").startswith('<b><a href="#x">0.50</a></b> <i>')
    assert amount(NO_VALUE) == "–" and value(RATE, None) == NO_VALUE
    assert value(RATE, Interval(0.5, None, None, 1), alone="one seed").interval == "one seed"
    assert difference(RATE, Interval(0.5, 0.25, 0.75, 3)) == Value("+0.50", "[0.25, 0.75]", "3")
    assert percent(Interval(-0.5, None, None, 1)) == Value("−50.0 %", "", "1")
    hostile = Value("<b>", "<i>", "<u>")
    assert "<u>" not in amount(hostile) and "&lt;b&gt;" in amount(hostile, True, to='"<')
    assert '"<' not in amount(hostile, to='"<')
