"""The pages of a site together: a link leads to the page that has what it names, in the text and in
real Chromium, and what a reader chose on the first page is there when he comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results import published, read_source
from leaderboard.links import joined
from leaderboard.report import build
from leaderboard.site import build_site

AXE = Path(__file__).parent / "axe" / "axe.min.js"


def test_a_link_leads_to_the_page_that_has_its_part() -> None:
    pages = {
        "a.html": '<p id="one"><a href="#one">1</a><a class="x" href="#two">2</a><a href="#no">',
        "b.html": '<td class="q1" id="two"><a href="a.html#three">3</a><a href="#one">1</a>',
        "c.html": '<b id="three"><b id="two"><a href="#two">own</a><a href="b.html#two&amp;q=x">',
    }
    made = joined(pages)
    assert made["a.html"] == pages["a.html"].replace('"#two"', '"b.html#two"')
    assert '<a href="c.html#three">' in made["b.html"] and '<a href="a.html#one">' in made["b.html"]
    assert made["c.html"] == pages["c.html"], "its own parts, and what another page has already"


def test_what_a_record_says_is_no_link() -> None:
    """In a block of parameters quotes stand as they are; what opens a tag never does."""
    text = '<pre>&lt;a href="#two"&gt; id="one" </pre><a href="https://a.b/#two">x</a>'
    pages = {"a.html": text, "b.html": '<i id="two"></i><a href="#one">1</a>'}
    assert joined(pages) == pages


@pytest.fixture(scope="module")
def site(store: Path, class_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.record import read_runs

    folder = tmp_path_factory.mktemp("site")
    build_site([*read_runs(store), *read_runs(class_store)], None, folder)
    return folder


@pytest.fixture(scope="module")
def board(site: Path) -> Path:
    return site / "index.html"


def test_a_cell_opens_on_its_testbeds_page_and_back_keeps_the_filters(
    visit: Callable[..., Any],
) -> None:
    page = visit(site=True)
    page.locator("input[data-filter=text]").fill("clip")
    page.wait_for_function("() => location.hash.includes('text=clip')")
    link = page.locator(".whole td.value:visible a.cell").first
    address = link.get_attribute("href")
    link.click()
    opened = page.locator("dialog[open]")
    opened.wait_for()
    assert page.url.endswith(f"/{address}") and address.startswith("board-")
    assert "Every number" in opened.inner_text() and "Make it anew" in opened.inner_text()
    opened.locator("a.close").click()
    assert page.locator("dialog[open]").count() == 0 and page.locator("table.matrix").count()
    page.go_back()
    page.wait_for_function("() => document.querySelector('#filters') !== null")
    assert page.locator("input[data-filter=text]").input_value() == "clip"


def test_an_address_from_before_the_pages_were_parted_leads_to_its_cell(
    visit: Callable[..., Any], site: Path
) -> None:
    page = visit(site=True)
    address = page.locator(".whole td.value:visible a.cell").first.get_attribute("href")
    file, _, cell = address.partition("#")
    page = visit(site=True, suffix=f"#{cell}")
    page.locator("dialog[open]").wait_for()
    assert page.url.endswith(f"/{file}#{cell}")
    assert page.locator("dialog[open]").get_attribute("id") == cell


def test_a_method_is_found_from_a_cell(visit: Callable[..., Any], site: Path) -> None:
    page = visit(site=True)
    page.locator(".whole td.value:visible a.cell").first.click()
    page.locator("dialog[open] a.method-link").first.click()
    page.locator("dialog.method[open]").wait_for()
    assert "/index.html#method=" in page.url


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_a_testbeds_page_is_accessible_and_fits(
    visit: Callable[..., Any], site: Path, width: int, scheme: str
) -> None:
    for file in sorted(site.glob("board-*.html")):
        page = visit(width=width, scheme=scheme, board=file, site=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{file.name}: {wide} pixels wide"
        page.evaluate(AXE.read_text(encoding="utf-8"))
        violations = page.evaluate("axe.run(document)")["violations"]
        serious = [one["id"] for one in violations if one["impact"] in ("serious", "critical")]
        assert serious == []


def test_many_protocols_of_one_testbed_do_not_push_the_rest_away(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    """Pictures of the protocol with most records stand first, the others one step away: below them
    on one page, on a site with their testbeds.
    """
    runs = read_source(published() / "science-clipping")
    assert len(runs) == 1
    page = visit(board=build(runs, tmp_path / "board.html"))
    further = page.locator("#pictures > details")
    assert "of the same testbeds under other protocols" in further.locator("summary").inner_text()
    first = page.locator("#pictures > .drawings figure").count()
    hidden = further.locator("figure").count()
    assert first >= 2 and hidden >= 3
    build_site(runs, None, tmp_path / "site")
    files = sorted((tmp_path / "site").glob("board-*.html"))
    assert len(files) == 4
    home = visit(board=tmp_path / "site/index.html", site=True)
    assert home.locator("#pictures figure").count() == first
    # Of a testbed's own; a curve over several is on the first page alone.
    own = sum(visit(board=one, site=True).locator("#pictures figure").count() for one in files)
    assert own + home.locator("#pictures figure:has(h3:text(' over '))").count() == first + hidden
