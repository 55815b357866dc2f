"""The board in real headless Chromium: what a reader does, wide and phone-wide, light and dark, by
mouse and by keyboard.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cells import Cell
from bench.record import PluginSpec, Record, read_runs
from leaderboard.report import build, build_live

SCRIPT = (
    "clip_xt<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)
HOSTILE = PluginSpec(name="strip", label=SCRIPT)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> Path:
    """The synthetic board with one defense whose name is a script."""

    def rename(record: Record) -> Record:
        if record.defense.name != "clip_xt":
            return record
        return dataclasses.replace(
            record,
            defense=PluginSpec(name="clip_xt", label=SCRIPT),
            reason=record.reason and SCRIPT,
        )

    folder = tmp_path_factory.mktemp("browser")
    return build(make_store(folder / "store", rename), folder / "board.html")


@pytest.fixture(scope="module")
def class_board(
    tmp_path_factory: pytest.TempPathFactory, make_class_store: Callable[..., Path]
) -> Path:
    """The synthetic board of poisoned data, with one detector whose name is a script."""

    def rename(record: Record) -> Record:
        return (
            dataclasses.replace(record, defense=HOSTILE)
            if record.defense.name == "strip"
            else record
        )

    folder = tmp_path_factory.mktemp("classes")
    return build(make_class_store(folder / "store", rename), folder / "classes.html")


def in_depth(page: Any) -> Any:
    """The page with the details of every testbed opened, as a reader opens them."""
    for summary in page.locator("details.deep > summary").all():
        summary.click()
    return page


def visible_values(page: Any) -> list[str]:
    return page.locator(".metric:visible td b").all_inner_texts()  # type: ignore[no-any-return]


def test_every_metric_switch_shows_its_own_table(visit: Callable[..., Any]) -> None:
    """One table at a time, the chosen one, with its full name; and no two metrics show the same
    values.
    """
    page = in_depth(visit())
    radios = page.locator(".switch input")
    seen: dict[str, list[str]] = {}
    assert radios.count() == 22
    for index in range(radios.count()):
        radios.nth(index).check()
        name = radios.nth(index).get_attribute("value")
        assert page.locator(".metric:visible").count() == 1
        assert page.locator(".metric:visible .metric-name code").inner_text() == name
        seen[name] = visible_values(page)
    assert {
        "fid[digits-cnn]",
        "kid[digits-cnn]",
        "mse[noise]",
        "ssim[image]",
        "asr[clean]",
        "cost[seconds]",
    } <= seen.keys()
    assert seen["asr[noise]"] != seen["asr[image]"] != seen["fid[digits-cnn]"] != seen["mse[noise]"]
    assert "skipped" in seen["asr[noise]"] and "failed" in seen["asr[noise]"]
    assert len({tuple(values) for values in seen.values()}) >= 16


def test_switch_and_cells_work_by_keyboard(visit: Callable[..., Any]) -> None:
    """Arrows move the switch and walk the matrix, Enter opens a panel, Escape closes it and gives
    the focus back.
    """
    page = in_depth(visit())
    page.locator(".switch input:checked").focus()
    before = visible_values(page)
    page.keyboard.press("ArrowRight")
    assert visible_values(page) != before
    cells = page.locator(".metric:visible tbody tr").nth(2).locator("a.cell")
    cells.nth(0).focus()
    page.keyboard.press("ArrowRight")
    target = page.evaluate("document.activeElement.getAttribute('href')")
    assert target == cells.nth(1).get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert "#" + page.locator("dialog[open]").get_attribute("id") == target
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    # The browser gives the focus back after the dialog has gone, when it finds the time.
    page.wait_for_function(
        "target => document.activeElement.getAttribute('href') === target", arg=target
    )
    page.wait_for_function("location.hash === ''")


def test_a_cell_opens_with_pictures_numbers_and_reasons(visit: Callable[..., Any]) -> None:
    """The panel is where a reader checks why."""
    page = in_depth(visit())
    row = page.locator(".metric:visible tbody tr").nth(2)
    row.locator("a.cell").nth(1).click()
    panel = page.locator("dialog[open]")
    arrives(page, "#" + panel.get_attribute("id"))
    pictures = panel.locator("details[open] .shot")
    assert pictures.count() >= 8 and pictures.first.bounding_box()["width"] >= 16
    assert pictures.evaluate_all(
        "all => all.every(one => getComputedStyle(one).backgroundImage.includes('data:image/png'))"
    )
    text = panel.inner_text()
    for expected in ("asr[noise]", "cost[seconds]", "seed 1", "triggered noise (e + g)"):
        assert expected in text
    assert "Pictures, seed 1" in text and "Pictures, seed 2" not in text
    assert "Pictures of 2 of 3 seeds; what the others drew is in the store." in text
    lines = panel.locator(".noise").first.locator("tbody th").all_inner_texts()
    assert lines == [
        "honest model", "backdoored, no defense", "with clip_x0", "what the defense changes"
    ]  # fmt: skip
    panel.get_by_text("Provenance").click()
    assert "4f1c2d9a0b7e6f5d4c3b2a190817263544536271" in panel.inner_text()
    panel.get_by_label("Close").click()
    assert page.locator("dialog[open]").count() == 0
    page.locator(".metric:visible td.failed a.cell").click()
    # its reason was replaced by the hostile one
    assert "out of memory" not in page.locator("dialog[open]").inner_text()
    assert "<script>" in page.locator("dialog[open] .problem").first.inner_text()
    page.mouse.click(5, 5)
    assert page.locator("dialog[open]").count() == 0


def test_a_panel_closes_by_what_lies_outside_it(visit: Callable[..., Any]) -> None:
    """Its blank margin, or a text marked from inside it to outside, closed it."""
    page = visit()
    page.locator(".whole td.value a.cell").first.click()
    panel = page.locator("dialog[open]")
    box = panel.bounding_box()
    page.mouse.click(box["x"] + 8, box["y"] + box["height"] / 2)
    assert panel.count() == 1
    head = panel.locator("h2").bounding_box()
    page.mouse.move(head["x"] + 9, head["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] / 2, head["y"] + 9, steps=3)
    page.mouse.up()
    assert panel.count() == 1
    page.mouse.click(box["x"] / 2, head["y"] + 9)
    assert panel.count() == 0


def test_an_arrow_with_a_modifier_is_the_browsers(visit: Callable[..., Any]) -> None:
    """Alt and an arrow goes back, and moved the focus instead."""
    page = visit()
    page.locator(".whole td.value a.cell").nth(1).focus()
    before = page.evaluate("document.activeElement.getAttribute('href')")
    for modifier in ("Alt", "Control", "Meta", "Shift"):
        given = page.evaluate(
            """name => !document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {
              key: "ArrowDown", bubbles: true, cancelable: true, [name]: true }))""",
            {"Control": "ctrlKey"}.get(modifier, f"{modifier.lower()}Key"),
        )
        assert not given
        assert page.evaluate("document.activeElement.getAttribute('href')") == before


def test_a_search_without_a_match_leaves_nothing(visit: Callable[..., Any]) -> None:
    """All of the matrix stood there, as if it matched."""
    page = visit(suffix="#text=zzzz")
    assert page.locator(".whole tbody[data-testbed] tr:visible").count() == 0
    assert page.locator("#matrix .nothing").is_visible() and entries(page) == []


def test_a_copied_text_is_not_left_marked(visit: Callable[..., Any]) -> None:
    """A live page waits for as long as something is marked."""
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator(".whole td.value a.cell").first.click()
    panel = page.locator("dialog[open]")
    panel.evaluate("one => one.querySelectorAll('details').forEach(part => { part.open = true; })")
    button = panel.locator("button.copy:visible").first
    button.click()
    page.wait_for_selector("button.copy:has-text('Copied')")
    assert page.evaluate("getSelection().isCollapsed")


def test_heads_of_a_ranking_are_seen_on_a_phone(visit: Callable[..., Any]) -> None:
    """Their buttons took the focus and could not be seen."""
    page = visit(390, 844, has_touch=True, is_mobile=True)
    for head in page.locator("#stops thead th").all():
        button = head.locator(".sort")
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box["width"] > 10 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    head = page.locator("#stops thead th[data-key=worst]")
    head.locator(".sort").tap()
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator(".what").tap()
    assert page.locator(".define:popover-open dt").count() > 3
    page.keyboard.press("Escape")
    for _ in range(60):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement.closest('thead') === null"
            " || document.activeElement.getBoundingClientRect().height > 8"
        )


def test_the_matrix_is_drawn_once_it_comes_near(visit: Callable[..., Any]) -> None:
    """A large one is two thirds of what a browser has to draw before the first screen can be used.
    It is there for a link, for the reader who scrolls, for a search and on paper.
    """
    drawn = (
        "() => document.querySelector('#matrix td').checkVisibility({contentVisibilityAuto: true})"
    )
    page = visit(height=200)
    assert not page.evaluate(drawn)
    page.evaluate("document.getElementById('matrix').scrollIntoView()")
    page.wait_for_function(drawn)
    page = visit(height=200, suffix="#method")
    where = "document.getElementById('method').getBoundingClientRect().y"
    page.wait_for_function(f"() => {where} < 20")
    page.wait_for_timeout(500)
    assert page.evaluate(where) > -20
    page = visit(height=200)
    page.evaluate("find('Every attack against every')")
    page.wait_for_function(drawn)
    page = visit(height=200)
    page.emulate_media(media="print")
    page.wait_for_function(drawn)


def test_a_link_to_a_cell_opens_it(visit: Callable[..., Any]) -> None:
    """What one reader sends another shows the same panel; going back closes it."""
    page = in_depth(visit())
    link = page.locator(".metric:visible a.cell").nth(3).get_attribute("href")
    again = visit(suffix=link)
    assert "#" + again.locator("dialog[open]").get_attribute("id") == link
    page.goto(page.url.split("#")[0] + link)
    assert page.locator("dialog[open]").count() == 1
    page.go_back()
    page.wait_for_selector("dialog[open]", state="detached")


def test_a_script_as_a_name_stays_text(visit: Callable[..., Any]) -> None:
    """In the matrix head, the ranking, the legend and the failures; every test here checks that
    nothing ran.
    """
    page = in_depth(visit())
    for selector in (
        ".entries >> nth=0",
        ".whole thead",
        ".metric:visible thead",
        ".ranking >> nth=0",
        ".legend >> nth=0",
        "#failures",
    ):
        assert SCRIPT in page.locator(selector).inner_text()
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(visit: Callable[..., Any], scheme: str) -> None:
    """Dark is dark, the button overrides it, a cell's text keeps its contrast."""
    page = in_depth(visit(scheme=scheme))

    def brightness(selector: str, what: str) -> float:
        colour = page.locator(selector).first.evaluate(
            f"element => getComputedStyle(element).{what}"
        )
        red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
        return (red + green + blue) / 3

    assert (brightness("body", "backgroundColor") < 60) is (scheme == "dark")
    for theme, dark in (("light", False), ("dark", True), ("system", scheme == "dark")):
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == f"Theme: {theme}"
        assert (brightness("body", "backgroundColor") < 60) is dark
        gap = brightness(".metric:visible td.q10 b", "color") - brightness(
            ".metric:visible td.q10", "backgroundColor"
        )
        assert abs(gap) > 90 and (gap > 0) is dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_the_matrix_not_the_page(visit: Callable[..., Any], scheme: str) -> None:
    """390 px: the page is exactly as wide as the screen, panels too, and the matrix moves inside
    its own box.
    """
    page = in_depth(visit(390, 844, scheme, has_touch=True, is_mobile=True))
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("scrollTo(500, 0)")
    assert page.evaluate("scrollX") == 0
    box = page.locator(".metric:visible .scroll")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    page.locator(".metric:visible a.cell").nth(5).tap()
    panel = page.locator("dialog[open]")
    assert panel.evaluate(
        "panel => panel.scrollWidth <= panel.clientWidth && panel.getBoundingClientRect().right "
        "<= 390"
    )


def test_without_scripts_every_table_is_there(visit: Callable[..., Any]) -> None:
    """A mail viewer that runs no scripts shows all tables, and a cell's link still opens its
    panel.
    """
    page = in_depth(visit(java_script_enabled=False))
    assert page.locator(".metric").count() == page.locator(".metric:visible").count() == 22
    link = page.locator(".metric a.cell").nth(0).get_attribute("href")
    page = visit(java_script_enabled=False, suffix=link)
    assert page.locator(f"dialog[id='{link[1:]}']").is_visible()
    assert page.locator("dialog:target .shot").first.is_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_detectors_and_compositions_are_drawn(
    visit: Callable[..., Any], class_board: Path, scheme: str, width: int
) -> None:
    """The bars stand in the open, the ROC curves one click away, in colours that differ from the
    card behind them.
    """
    page = in_depth(visit(width, 900, scheme, board=class_board))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    bars = page.locator("section[aria-labelledby$='-composition'] svg.stacked")
    assert bars.count() == 12 and bars.first.bounding_box()["width"] >= 140
    section = page.locator("section[aria-labelledby$='-detectors']").first
    assert SCRIPT in section.inner_text()
    link = section.locator("table.detections td a").first.get_attribute("href")
    page.evaluate("link => { location.hash = link; }", link)
    panel = page.locator("dialog[open]")
    curve = panel.locator(".twin .roc").first
    curve.scroll_into_view_if_needed()
    assert curve.is_visible()
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    stroke, behind = (
        [
            float(part)
            for part in re.findall(
                r"[\d.]+", element.evaluate(f"element => getComputedStyle(element).{what}")
            )[:3]
        ]
        for element, what in (
            (curve, "stroke"),
            (panel, "backgroundColor"),
        )
    )
    assert max(abs(one - other) for one, other in zip(stroke, behind, strict=True)) > 90
    assert page.locator("script").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_print_keeps_the_matrix_and_drops_the_controls(visit: Callable[..., Any]) -> None:
    """Paper has no buttons."""
    page = in_depth(visit(scheme="dark"))
    for _ in ("light", "dark"):
        page.locator("#theme").click()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 31, 38)"
    assert (
        not page.locator("#theme").is_visible() and not page.locator(".switch").first.is_visible()
    )
    assert page.locator(".metric:visible table").count() == 1
    assert page.locator("table.whole").is_visible() and not page.locator("#filters").is_visible()
    assert page.locator(".question:visible").count() == page.locator(".question").count() == 3
    table, scene = (
        page.locator("#stops").locator(part).bounding_box() for part in (".entries", ".scene")
    )
    assert table["y"] + table["height"] <= scene["y"]


def arrives(page: Any, ending: str) -> None:
    """Until the address ends like this: a browser changes it a moment after the page does."""
    page.wait_for_function("ending => location.href.endsWith(ending)", arg=ending)


def entries(page: Any) -> list[str]:
    """The defenses that the open question lists, top to bottom."""
    return page.locator(  # type: ignore[no-any-return]
        ".question:visible tr.entry:visible .method b"
    ).all_inner_texts()


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1400, 900, "light"), (1400, 900, "dark"), (390, 844, "light")]
)
def test_the_first_screen_says_which_defense_holds(
    visit: Callable[..., Any], width: int, height: int, scheme: str
) -> None:
    """Without scrolling: every question with its answer and its testbed, the same noise undefended
    and defended, and the first rank with its interval; on a wide screen all of the ranking.
    """
    page = visit(width, height, scheme)
    asks = page.locator("a.ask")
    assert asks.locator(".ask-title").all_inner_texts() == [
        "Stops the backdoor",
        "Recovers the trigger",
        "Recovers the target",
    ]
    assert "clip_x0" in asks.nth(0).inner_text() and "85 % → 2 %" in asks.nth(0).inner_text()
    first = page.locator(".question:visible tr.entry").first
    assert first.locator("td.rank").inner_text().split() == ["1", "1", "to", "1"]
    assert "clip_x0" in first.inner_text() and "[" in first.locator("td.worst").inner_text()
    assert "3 × 128" in first.locator("td.count").inner_text()
    assert "digits-ddpm" in asks.nth(0).inner_text()
    drawn = page.locator(".question:visible .scene svg.folded").all()
    inside = [*asks.all(), first, *drawn, page.locator("#theme")]
    assert len(drawn) == 2
    for column in ("mean", "time", "needs", "paper-cell"):
        assert first.locator(f"td.{column}").is_visible(), column
    if width > 1000:
        inside += page.locator(".question:visible tr.entry").all()
    for element in inside:
        box = element.bounding_box()
        assert box["y"] + box["height"] <= height and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_question_is_an_address(visit: Callable[..., Any]) -> None:
    """A click shows the other ranking and changes the address; the address shows the same."""
    page = visit()
    assert page.locator(".question:visible").count() == 1
    for index, question in ((1, "recovers-trigger"), (2, "recovers")):
        page.locator("a.ask").nth(index).click()
        arrives(page, f"#q={question}")
        assert entries(page) == ["anp"]
    for suffix in ("#q=recovers", "#recovers"):
        again = visit(suffix=suffix)
        arrives(again, "#q=recovers")
        assert entries(again) == ["anp"]
    page.locator("a.ask").nth(0).click()
    arrives(page, ".html")
    assert entries(page)[0] == "clip_x0"


def test_every_column_sorts_inside_its_testbed_and_keeps_its_address(
    visit: Callable[..., Any], class_board: Path
) -> None:
    """Up, down and back to the rank; missing numbers stay last; the address sorts alike."""
    page = visit(board=class_board)
    ranked = entries(page)
    heads = page.locator("#stops thead th")
    for index in range(heads.count()):
        head = heads.nth(index)
        key = head.get_attribute("data-key")
        head.locator(".sort").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        arrives(page, f"#sort=stops.{key}.up")
        for body in page.locator("#stops tbody").all():
            cells = body.locator(f"tr.entry > :nth-child({index + 1})")
            values = [cell.get_attribute("data-v") for cell in cells.all()]
            numbers = [float(value) for value in values if value]
            assert numbers == sorted(numbers) and "" not in values[: len(numbers)]
        ascending = entries(page)
        assert entries(visit(board=class_board, suffix=f"#sort=stops.{key}.up")) == ascending
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") is None and entries(page) == ranked
    page.locator(".whole th[data-family] .sort").first.click()
    for body in page.locator(".whole tbody[data-testbed]").all():
        values = [
            float(value)
            for cell in body.locator("tr > :nth-child(2)").all()
            if (value := cell.get_attribute("data-v"))
        ]
        assert values == sorted(values)


def test_filters_narrow_rankings_and_matrix_and_keep_their_address(
    visit: Callable[..., Any], class_board: Path
) -> None:
    """By family, testbed, status, call and text: what does not match is gone, what it is compared
    with stays, and the address shows the same to whom it is sent.
    """
    page = visit(board=class_board)

    def heads(page: Any) -> list[str]:
        return page.locator(".whole thead th:visible .sort").all_inner_texts()[1:]  # type: ignore[no-any-return]

    every = heads(page)
    assert {"no defense", "clip_x0", "train_on_generated", "cognitive_distillation"} <= {*every}
    menu = page.locator("select[data-filter=family]")
    menu.select_option("data")
    assert heads(page) == ["no defense", "no defense", "train_on_generated"]
    assert entries(page) == [] and page.locator("#stops .nothing").is_visible()
    page.locator("a.ask", has_text="Classifies safely").click()
    assert entries(page) == ["train_on_generated", "no defense"]
    arrives(page, "#q=classifies&family=data")
    again = visit(board=class_board, suffix="#q=classifies&family=data")
    assert entries(again) == entries(page) and heads(again) == heads(page)
    assert again.locator("select[data-filter=family]").input_value() == "data"
    page.locator("#reset").click()
    arrives(page, "#q=classifies")
    assert heads(page) == every
    lines = page.locator(".whole tbody[data-testbed] tr:visible")
    total = lines.count()
    page.locator("select[data-filter=testbed]").select_option("digits-ddpm")
    assert 0 < lines.count() < total
    page.locator("select[data-filter=testbed]").select_option("")
    page.locator("input[data-filter=text]").fill("COGNITIVE")
    assert heads(page) == ["no defense", "no defense", "cognitive_distillation"]
    # A paper's words are none of the head's text.
    page.locator(".whole th[title^=cognitive]").evaluate("head => head.dataset.words = 'Huang'")
    page.locator("input[data-filter=text]").fill("huang")
    assert heads(page) == ["no defense", "no defense", "cognitive_distillation"]
    page.locator("input[data-filter=text]").fill("badnets2")
    assert heads(page) == every and 0 < lines.count() < total
    assert "of" in page.locator("#count").inner_text()


def test_access_and_threat_model_are_filters(visit: Callable[..., Any], class_board: Path) -> None:
    """What can be used by who has no more than is chosen, against who alters no more; of what is
    not known nothing is claimed. In the address, too.
    """
    page = visit(board=class_board)

    def heads(page: Any) -> set[str]:
        return {*page.locator(".whole thead th:visible .sort").all_inner_texts()} - {"attack"}

    page.locator("select[data-filter=needs]").select_option("weights")
    usable = {"no defense", "clip_x0", "train_on_generated", "diffusion_classifier"}
    assert usable <= heads(page) <= usable | {"noise_shift"}
    arrives(page, "#needs=weights")
    page.locator("#reset").click()
    page.locator("select[data-filter=alters]").select_option("data")
    lines = page.locator(".whole tbody[data-testbed] tr:visible th").all_inner_texts()
    assert any("badnets" in line for line in lines)
    assert not any("baddiffusion" in line for line in lines)
    view = "#alters=data&needs=classifier%2C%20training%20data"
    again = visit(board=class_board, suffix=view)
    assert again.locator("select[data-filter=needs]").input_value() == "classifier, training data"
    assert any(head.startswith("clip_xt<script>") or head == "strip" for head in heads(again))
    assert "cognitive_distillation" not in heads(again)
    row = again.locator("#finds tr.entry", has_text="classifier, training data")
    again.locator("a.ask", has_text="Finds").click()
    assert row.first.locator("td.needs").inner_text() == "classifier, training data"


def test_a_cell_keeps_the_view_it_was_opened_from(visit: Callable[..., Any]) -> None:
    """The address of the two together opens both; closing leaves the view."""
    page = visit(suffix="#family=sampler")
    link = page.locator(".whole td.value a.cell:visible").nth(1)
    target = link.get_attribute("href")
    link.click()
    arrives(page, f"{target}&family=sampler")
    again = visit(suffix=f"{target}&family=sampler")
    assert "#" + again.locator("dialog[open]").get_attribute("id") == target
    assert again.locator("select[data-filter=family]").input_value() == "sampler"
    page.keyboard.press("Escape")
    page.wait_for_function("location.hash === '#family=sampler'")


@pytest.mark.parametrize(
    "suffix",
    ["#q=nothing&family=zzz&sort=x.y.z", "#sort=stops", "#%E0%A4%A&text=%", "#__proto__=1&q=&&="],
)
def test_an_address_from_anywhere_is_only_a_view(visit: Callable[..., Any], suffix: str) -> None:
    """A damaged or invented view breaks nothing."""
    page = visit(suffix=suffix)
    assert page.locator(".question:visible").count() == 1
    page.locator("#reset").click()
    arrives(page, ".html")
    assert entries(page)[0] == "clip_x0"


def test_a_view_of_what_is_not_on_this_board_hides_nothing(visit: Callable[..., Any]) -> None:
    """A link from another board, with a testbed that this one lacks, showed an empty page."""
    page = visit(suffix="#testbed=elsewhere&family=sampler")
    arrives(page, "#family=sampler")
    assert entries(page) == entries(visit(suffix="#family=sampler")) != []


def test_every_head_opens_its_definition(visit: Callable[..., Any], class_board: Path) -> None:
    """By keyboard, of each question's columns and the matrix's; what is ranked by says direction,
    denominator, reference set, steps, interval and the test for ties.
    """
    page = visit(board=class_board)
    for ask in page.locator("a.ask").all():
        ask.click()
        heads = page.locator(".question:visible thead th, .whole thead th[data-family]")
        assert heads.count() >= 9
        for head in heads.all():
            head.locator(".what").focus()
            page.keyboard.press("Enter")
            card = page.locator(".define:popover-open")
            assert card.locator("dt").count() >= 1
            terms = set(card.locator("dt").all_inner_texts())
            if head.get_attribute("data-key") == "worst" and "recovers" not in page.url:
                assert {"Direction", "Out of", "Reference set", "Interval", "Ties"} <= terms
                assert "steps" in card.inner_text() or "not declared" in card.inner_text()
            page.keyboard.press("Escape")
            assert page.locator(".define:popover-open").count() == 0


def test_without_scripts_every_question_is_there(visit: Callable[..., Any]) -> None:
    """All rankings one under the other, no menu that does nothing."""
    page = visit(java_script_enabled=False)
    assert page.locator(".question:visible").count() == 3
    assert not page.locator("#filters").is_visible()


def test_a_metric_in_a_panel_leads_to_its_definition(visit: Callable[..., Any]) -> None:
    """Also where there is no mouse to hover with."""
    page = visit()
    page.locator(".whole td.value a.cell").first.click()
    page.locator("dialog[open] .numbers th a", has_text="asr[noise]").first.click()
    page.wait_for_selector("dialog[open]", state="detached")
    line = page.locator("#metrics tr", has=page.locator("code", has_text="asr[noise]")).first
    assert line.is_visible() and len(line.inner_text()) > 40


@pytest.fixture(scope="module")
def published_board(build_published: Callable[..., Path]) -> Path:
    """Records that a real run made: of classes, of noise with an adversary's own sampler and
    repairs, and of models. Of all published ones axe takes minutes.
    """
    return build_published("sd", "goals", "model-detectors")


@pytest.fixture(scope="module")
def live_board(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> Path:
    """The page of a run that goes on, with more seeds coming of half of the cells, and all of a
    testbed that nothing is there of.
    """
    folder = tmp_path_factory.mktemp("live")
    store = make_store(folder / "store")
    (run,) = read_runs(store)
    same = ("testbed", "attack", "defense", "probe", "sampler", "seed", "seeds", "kind", "protocol")
    cells = [Cell(**{name: getattr(one, name) for name in same}) for _, one in run.records]
    half = [dataclasses.replace(cell, seed=cell.seed + 3) for cell in cells[::2]]
    other = [dataclasses.replace(cell, protocol="f" * 16) for cell in cells]
    coming = [(cell, 40.0 * index) for index, cell in enumerate(half + other)]
    return build_live(
        store, folder / "board.html", **_going(every=900.0), coming=coming, running=["train it"]
    )


AXE = Path(__file__).parent / "axe" / "axe.min.js"
RULES = {"resultTypes": ["violations"]}


@pytest.mark.parametrize(
    ("kind", "scheme", "width"),
    [
        ("board", "light", 1400),
        ("class_board", "dark", 390),
        ("published_board", "dark", 390),
        ("live_board", "light", 390),
        ("live_board", "dark", 1400),
    ],
)
def test_a_reader_with_assistive_technology_can_use_it(
    browser: Any, request: pytest.FixtureRequest, kind: str, scheme: str, width: int
) -> None:
    """axe-core finds nothing, neither on the page as it opens, nor with every part opened, nor in a
    cell: names, roles, order of headings, contrast.
    """
    board: Path = request.getfixturevalue(kind)
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(board.as_uri())
    page.add_script_tag(path=AXE)
    assert _violations(page) == []
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert _violations(page) == []
    page.locator(".whole td.value a.cell:visible").first.click()
    page.wait_for_selector("dialog[open]")  # it opens on the change of the address, after the click
    assert _violations(page, "dialog[open]") == []
    context.close()


def test_axe_sees_what_is_wrong(browser: Any) -> None:
    """A page with a nameless button and faint text has its findings, so none means none."""
    page = browser.new_page()
    page.set_content("<p style='color:#ccc;background:#fff'>faint</p><button></button>")
    page.add_script_tag(path=AXE)
    assert {"button-name", "color-contrast"} <= {
        finding.split()[1] for finding in _violations(page)
    }
    page.close()


def _violations(page: Any, within: str = "html") -> list[str]:
    """What axe-core finds, one line each: its severity, rule and the first element."""
    results = page.evaluate("([within, rules]) => axe.run(within, rules)", [within, RULES])
    return [
        f"{finding['impact']} {finding['id']} {finding['nodes'][0]['target']}"
        for finding in results["violations"]
    ]


def _going(**changes: Any) -> dict[str, Any]:
    """The progress of a run that writes its page every second."""
    going = {"written": time.time(), "every": 1.0, "done": 30, "left": 90, "seconds": 840.0}
    return going | changes


def _news(page: Any, text: str) -> None:
    """Waits until the page shows what was written meanwhile."""
    page.wait_for_selector(f"#live:has-text('{text}')")


def test_a_live_page_takes_what_is_new_and_keeps_the_view(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """Sorting, filter, metric, opened parts, focus, and the row that was read, though there are
    other rows above it now; and when the run ends, it stays as it is.
    """
    store = make_store(tmp_path / "store")
    (account,) = (store / "runs").glob("*.json")
    whole = account.read_text()
    cells = json.loads(whole)["cells"]
    records = [
        (store / one["record"]).read_text() if "record" in one else json.dumps(one) for one in cells
    ]
    part = [one for one, text in zip(cells, records, strict=True) if "hat" not in text]
    assert 0 < len(part) < len(cells)
    account.write_text(json.dumps(json.loads(whole) | {"cells": part}))
    board = build_live(store, tmp_path / "board.html", **_going())
    page = visit(board=board)
    page.locator("[data-filter=text]").fill("corner")
    page.locator("table.entries th[data-key=mean] .sort").first.click()
    page.locator("#coming > summary").click()
    page.locator("details.deep > summary").first.click()
    radios = page.locator(".switch input")
    radios.nth(3).check()
    chosen = radios.nth(3).get_attribute("value")
    row = page.locator(".metric:visible tbody tr", has_text="corner").first
    row.evaluate("row => scrollBy(0, row.getBoundingClientRect().top - 110)")
    top = row.bounding_box()["y"]
    row.locator("a.cell").first.focus()
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    view = page.url

    account.write_text(whole)
    build_live(store, board, **_going(done=60, left=60))
    _news(page, "60 of 120 stages")
    assert page.url == view and "text=corner" in view and "sort=" in view
    assert page.locator("#coming").evaluate("one => one.open")
    assert page.locator("details.deep").first.evaluate("one => one.open")
    assert page.locator(".switch input:checked").get_attribute("value") == chosen
    assert page.locator(".metric:visible tbody tr", has_text="hat").count() > 0
    assert abs(row.bounding_box()["y"] - top) < 3 and page.evaluate("scrollY") > 300
    assert page.evaluate("document.activeElement.getAttribute('href')") == focused

    for _ in range(5):  # an hour of a run is hundreds of times
        page.reload()
    assert abs(row.bounding_box()["y"] - top) < 3

    build(store, board)
    page.wait_for_selector("#live", state="detached")
    loaded = page.evaluate("performance.timeOrigin")
    assert page.url == view and abs(row.bounding_box()["y"] - top) < 3
    assert page.locator(".switch input:checked").get_attribute("value") == chosen
    page.wait_for_timeout(3000)
    assert page.evaluate("performance.timeOrigin") == loaded, "a finished page stays"


def test_a_live_page_keeps_an_open_cell(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path / "store")
    board = build_live(store, tmp_path / "board.html", **_going())
    page = visit(board=board)
    page.locator("table.whole a.cell").nth(2).click()
    panel = page.locator("dialog[open]")
    name = panel.get_attribute("id")
    panel.get_by_text("Provenance").click()
    panel.evaluate("one => { one.scrollTop = 150; }")
    scrolled = panel.evaluate("one => one.scrollTop")
    assert scrolled > 0
    build_live(store, board, **_going(done=60, left=60))
    _news(page, "60 of 120 stages")
    assert page.locator("dialog[open]").get_attribute("id") == name
    assert page.locator("dialog[open]").evaluate("one => one.scrollTop") == scrolled
    assert page.locator("dialog[open] details", has_text="Provenance").last.evaluate("d => d.open")
    build(store, board)
    page.wait_for_selector("#live", state="detached")


def test_a_live_page_can_be_paused_and_notices_a_dead_run(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """A reader of details may want it to stand still; a run that was killed cannot say so."""
    store = make_store(tmp_path / "store")
    board = build_live(store, tmp_path / "board.html", **_going())
    page = visit(board=board)
    page.get_by_role("button", name="Pause").click()
    build_live(store, board, **_going(done=60, left=60, written=time.time() - 1000))
    page.wait_for_timeout(4000)
    assert "30 of 120 stages" in page.locator("#live").inner_text()
    assert "Paused." in page.locator("#live").inner_text()
    page.get_by_role("button", name="Go on").click()
    _news(page, "60 of 120 stages")
    assert "No news for 17 min" in page.locator("#live-news").inner_text()
    loaded = page.evaluate("performance.timeOrigin")
    page.wait_for_timeout(3000)
    assert page.evaluate("performance.timeOrigin") == loaded, "seldom, once nothing comes"
    build(store, board)
    page.reload()


def test_a_live_page_that_was_away_is_not_called_dead(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """Hidden or paused for hours, it said that the run had ended and never looked again."""
    store = make_store(tmp_path / "store")
    board = build_live(store, tmp_path / "board.html", **_going(every=900.0))
    page = visit(board=board)
    later = "Date.now = (now => () => now() + 3 * 3600 * 1000)(Date.now)"
    page.evaluate(later)
    page.wait_for_timeout(1500)
    assert "No news" not in page.locator("#live").inner_text()
    loaded = page.evaluate("performance.timeOrigin")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("before => performance.timeOrigin !== before", arg=loaded)
    page.get_by_role("button", name="Pause").click()
    page.evaluate(later)
    page.wait_for_timeout(1500)
    assert "Paused." in page.locator("#live").inner_text()
    build_live(store, board, **_going(every=900.0, done=60, left=60))
    page.get_by_role("button", name="Go on").click()
    _news(page, "60 of 120 stages")
    assert "No news" not in page.locator("#live").inner_text()
    build(store, board)
    page.reload()


def test_a_refresh_keeps_the_question_when_a_new_one_comes_first(
    visit: Callable[..., Any], class_board: Path, tmp_path: Path
) -> None:
    """The first question has no word in the address."""
    text = class_board.read_text()
    board = tmp_path / "board.html"
    asked, ranked = '<a class="ask" href="#stops".*?</a>', '<section class="question" id="stops"'
    # Without its first question, as before that one had an entry.
    board.write_text(re.sub(f"{asked}|{ranked}.*?</section>", "", text, flags=re.DOTALL))
    page = visit(board=board)
    assert page.locator(".question:visible").get_attribute("id") == "finds"
    board.write_text(text)
    page.reload()
    assert page.locator("a.ask").first.get_attribute("href") == "#stops"
    assert page.locator(".question:visible").get_attribute("id") == "finds"
    arrives(page, "#q=finds")


def test_a_live_page_without_scripts_loads_itself_again(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path / "store")
    board = build_live(store, tmp_path / "board.html", **_going())
    page = visit(board=board, java_script_enabled=False)
    build(store, board)
    page.wait_for_selector("#live", state="detached")


def test_a_definition_opens_in_an_open_cell_and_again_outside(visit: Callable[..., Any]) -> None:
    """An open dialog makes all that lies outside it inert: a definition there could not be closed
    or read out, and one that stayed in a closed dialog could not be opened on the page.
    """
    page = visit()
    page.locator(".whole td[data-v] a.cell").first.click()
    dialog = page.locator("dialog[open]")
    dialog.locator(".numbers .what").first.click()
    card = dialog.locator(".define:popover-open")
    assert "Interval" in card.inner_text()
    card.locator("button").click()
    assert dialog.count() == 1 and page.locator(".define:popover-open").count() == 0
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.locator(".question:visible thead .what").first.click()
    assert page.locator("body > .define:popover-open").count() == 1


def test_the_picture_beside_a_ranking_is_of_the_testbed_that_is_filtered_for(
    visit: Callable[..., Any], class_board: Path
) -> None:
    """One at a time. A filter left an empty place where the picture was of another testbed."""
    page = visit(board=class_board)
    page.locator("a.ask", has_text="Finds").click()
    seen = page.locator(".question:visible .scene:visible figcaption")
    first = seen.inner_text()
    for testbed in ("digits-ddpm", "digits-cfg"):
        page.locator("select[data-filter=testbed]").select_option(testbed)
        assert seen.inner_text().startswith(f"On {testbed}.")
    page.locator("select[data-filter=testbed]").select_option("")
    assert seen.inner_text() == first


def test_an_answer_goes_with_its_testbed_and_stays_with_its_entries(
    visit: Callable[..., Any], class_board: Path
) -> None:
    """A filter of testbeds leaves out their answers; one of entries changes no answer, and says
    so. Each answer with a number has its n.
    """
    page = visit(board=class_board)
    finds = page.locator("a.ask", has_text="Finds")
    every = finds.locator(".answer:not(.more):visible").all_inner_texts()
    assert any("n\N{NO-BREAK SPACE}3 ×" in one for one in every)
    page.locator("select[data-filter=testbed]").select_option("digits-ddpm")
    left = finds.locator(".answer:not(.more):visible").all_inner_texts()
    assert left and all("digits-ddpm" in one for one in left)
    assert page.locator("a.ask.out").count() >= 1
    page.locator("select[data-filter=testbed]").select_option("")
    page.locator("select[data-filter=family]").select_option("sample detector")
    assert finds.locator(".answer:not(.more):visible").all_inner_texts() == every
    assert "answers and ranks: of all entries" in page.locator("#count").inner_text()
