"""What a reader does with the board of results that real runs made, in real Chromium: sort by every
column, choose everything that the menus offer, open cells by their addresses.

What must come out is worked out here from what the page says of each row, not by its own script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: With classes, poisoned data and detectors; with noise, repairs and inversions; with models.
SUITES = ("poison", "goals", "model-detectors")


@pytest.fixture(scope="module")
def board(build_published: Callable[..., Path]) -> Path:
    return build_published(*SUITES)


#: What the visible rows of each part of a table have to be sorted by in a column. Parts without
#: such a row are none.
PARTS = """(head) => [...head.closest('table').tBodies].map(body => [...body.rows]
    .filter(row => row.checkVisibility())
    .filter(row => !row.closest('.question') || row.classList.contains('entry'))
    .map(row => row.children[head.cellIndex]?.dataset.v ?? ''))
    .filter(values => values.some(Boolean))"""


def _key(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return 0.0, value


def _sorts(heads: list[Any]) -> None:
    """Each head up, down, and back."""
    for head in heads:
        before = head.evaluate(PARTS)
        for direction in ("ascending", "descending"):
            head.locator(".sort").click()
            assert head.get_attribute("aria-sort") == direction
            for now, was in zip(head.evaluate(PARTS), before, strict=True):
                assert sorted(now) == sorted(was), "rows went lost, or to another testbed"
                filled = [_key(value) for value in now if value]
                assert filled == sorted(filled, reverse=direction == "descending")
                assert "" not in now[: len(filled)], "what has no number stands last"
        head.locator(".sort").click()
        assert head.evaluate(PARTS) == before


def test_every_column_of_every_table_sorts(visit: Callable[..., Any]) -> None:
    page = visit()
    asks = page.locator("a.ask")
    assert asks.count() >= 3
    for ask in asks.all():
        ask.click()
        heads = page.locator(".question:visible table").first.locator("thead th:has(.sort)").all()
        assert len(heads) >= 4
        _sorts(heads)
    heads = page.locator("table.whole thead th:visible:has(.sort)").all()
    assert len(heads) >= 12
    _sorts(heads[1 :: len(heads) // 5])


def _seen(page: Any) -> dict[str, list[str]]:
    """The columns and rows of the matrix, and the entries of the open question."""
    return {
        "columns": page.locator(".whole thead th:visible .sort").all_inner_texts()[1:],
        "rows": page.locator(".whole tbody[data-testbed] tr:visible th").all_inner_texts(),
        "entries": page.locator(".question:visible tr.entry:visible .method b").all_inner_texts(),
    }


def test_all_that_the_menus_offer_narrows_the_view_and_is_an_address(
    visit: Callable[..., Any],
) -> None:
    page = visit()
    every = _seen(page)
    chosen = 0
    for menu in page.locator("select[data-filter]").all():
        options = menu.locator("option").evaluate_all("all => all.map(one => one.value)")
        for index, option in enumerate(one for one in options if one):
            menu.select_option(option)
            # A browser changes the address a moment after the page does.
            page.wait_for_function("location.hash.length > 1")
            seen = _seen(page)
            for part, names in seen.items():
                left = every[part].copy()
                for name in names:
                    assert name in left, (option, part, "what was not there before")
                    left.remove(name)
            assert seen["rows"] or page.locator("#matrix .nothing").is_visible()
            if index == 0:
                again = visit(suffix="#" + page.url.partition("#")[2])
                assert _seen(again) == seen, (menu.get_attribute("data-filter"), option)
                again.context.close()
            menu.select_option("")
            page.wait_for_function("location.hash.length <= 1")
            assert _seen(page) == every
            chosen += 1
    assert chosen >= 12


@pytest.mark.parametrize("where", ["#matrix", "details.deep"])
def test_a_page_that_is_loaded_again_is_where_its_reader_was(
    visit: Callable[..., Any], where: str
) -> None:
    """Each time it was a third of a window further down: the matrix had no height yet."""
    page = visit()
    one = page.locator(where).first
    for _ in range(2):  # the matrix is laid out once it comes near
        one.evaluate("one => one.scrollIntoView({behavior: 'instant'})")
        page.wait_for_timeout(300)
    top = one.bounding_box()["y"]
    for _ in range(3):
        page.reload()
        page.wait_for_timeout(300)
        assert abs(one.bounding_box()["y"] - top) < 3


def test_a_testbed_chosen_leaves_its_rows_alone(visit: Callable[..., Any]) -> None:
    page = visit()
    menu = page.locator("select[data-filter=testbed]")
    for name in menu.locator("option").evaluate_all("all => all.map(one => one.value)")[1:]:
        menu.select_option(name)
        bodies = page.locator(".whole tbody[data-testbed]").evaluate_all(
            "all => all.filter(one => [...one.rows].some(row => row.checkVisibility()))"
            ".map(one => one.dataset.testbed)"
        )
        assert bodies and set(bodies) == {name}


def test_a_cells_numbers_are_its_records_means(visit: Callable[..., Any], board: Path) -> None:
    """Opened by its address, which is what a reader sends: the matrix's number stands in it, and
    each mean is that of the records that its parameters name, as the JSON beside the board has
    them.
    """
    data = json.loads(board.with_suffix(".json").read_text(encoding="utf-8"))
    records = [record for run in data["runs"] for record in run["records"]]
    links = visit().locator(".whole td.value a.cell")
    cells = links.evaluate_all("all => all.map(one => [one.getAttribute('href'), one.innerText])")
    assert len(cells) > 60
    compared = 0
    for address, text in cells[:: len(cells) // 4]:
        page = visit(suffix=address)
        panel = page.locator("dialog[open]")
        assert f"#{panel.get_attribute('id')}" == address
        panel.evaluate("one => one.querySelectorAll('details').forEach(d => { d.open = true; })")
        words = panel.inner_text()
        number = re.search(r"[\d.,]+", text)
        assert number and number[0] in words, (address, text)
        assert "castlewalls run " in words, address
        own = [one for one in records if _same(one, _roles(panel), words)]
        rows = panel.locator(".numbers tbody tr").evaluate_all(
            "all => all.map(row => [...row.children].map(one => one.innerText))"
        )
        assert own and rows
        for name, mean, *seeds in (row for row in rows if len(row) > 1):
            metric = name.split(" ")[0]  # of a cost its label stands beside
            values = [
                one["metrics"][metric]["value"]
                for one in own
                if one["metrics"].get(metric, {}).get("value") is not None
            ]
            printed = _number(mean)
            if printed is None or not values:
                continue
            assert len(values) == sum(_number(one) is not None for one in seeds), (address, metric)
            half = 0.51 * 10.0 ** -len(printed.partition(".")[2])
            assert abs(float(printed) - sum(values) / len(values)) <= half, (address, metric)
            compared += 1
        page.context.close()
    assert compared > 50


def _roles(panel: Any) -> dict[str, tuple[str, Any]]:
    """Role -> a plugin's name and parameters, as the cell shows them."""
    drawn = panel.locator("h4:has(code) + pre").evaluate_all(
        "all => all.map(one => [one.previousElementSibling.innerText, one.innerText])"
    )
    parts = [(*head.rsplit(" ", 1), json.loads(params)) for head, params in drawn]
    return {role: (name, params) for role, name, params in parts}


def _same(record: dict[str, Any], roles: dict[str, tuple[str, Any]], words: str) -> bool:
    one = {role: record[role] and (record[role]["name"], record[role]["params"]) for role in roles}
    return one == roles and record["status"] == "ok" and record["protocol"] in words


def _number(text: str) -> str | None:
    """The first number of a table's field, without thousands' commas."""
    match = re.match(r"[−-]?[\d,]*\.?\d+", text.strip())
    return match[0].replace("−", "-").replace(",", "") if match else None
