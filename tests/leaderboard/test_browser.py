"""The board in real headless Chromium: what a reader does, wide and phone-wide, light and dark, by
mouse and by keyboard.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.record import PluginSpec, Record
from leaderboard.report import build

sync_api = (
    pytest.importorskip("playwright.sync_api")
    if not os.environ.get("CI")
    else __import__("playwright.sync_api").sync_api
)

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCRIPT = (
    "clip_xt<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)
HOSTILE = PluginSpec(name="strip", label=SCRIPT)


def chromium() -> str:
    executable = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if executable:
        return executable
    reason = (
        "no Chromium: install the system's `chromium` package or set CHROMIUM to its executable"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield running
        running.close()


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


@pytest.fixture
def visit(browser: Any, board: Path) -> Iterator[Callable[..., Any]]:
    """Opens a board; afterwards there must have been no console message, script error or request
    but the file itself.
    """
    contexts, trouble = [], []

    def open_page(
        width: int = 1400,
        height: int = 900,
        scheme: str = "light",
        suffix: str = "",
        board: Path = board,
        **options: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                None if _own(request.url, board) else trouble.append(f"request: {request.url[:80]}")
            ),
        )
        page.goto(board.as_uri() + suffix)
        return page

    yield open_page
    for context in contexts:
        titles = {page.title() for page in context.pages}
        assert titles <= {"castlewalls · digits", "castlewalls · poison"}, (
            "a script from a record ran"
        )
        context.close()
    assert trouble == []


def _own(url: str, board: Path) -> bool:
    return (
        url.split("#")[0] == board.as_uri()
        or url.startswith("data:image/png;base64,")
        or url == "data:,"
    )


def visible_values(page: Any) -> list[str]:
    return page.locator(".metric:visible td .value").all_inner_texts()  # type: ignore[no-any-return]


def test_every_metric_switch_shows_its_own_table(visit: Callable[..., Any]) -> None:
    """One table at a time, the chosen one, with its full name; and no two metrics show the same
    values.
    """
    page = visit()
    radios = page.locator(".switch input")
    seen: dict[str, list[str]] = {}
    assert radios.count() == 20
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
    page = visit()
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
    page = visit()
    row = page.locator(".metric:visible tbody tr").nth(2)
    row.locator("a.cell").nth(1).click()
    panel = page.locator("dialog[open]")
    assert page.url.endswith("#" + panel.get_attribute("id"))
    pictures = panel.locator("details[open] img")
    assert pictures.count() == 4
    assert pictures.evaluate_all(
        "images => images.every(image => image.complete && image.naturalWidth >= 16)"
    )
    text = panel.inner_text()
    for expected in ("asr[noise]", "cost[seconds]", "seed 2", "triggered noise (e + g), clip_x0"):
        assert expected in text
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


def test_a_link_to_a_cell_opens_it(visit: Callable[..., Any]) -> None:
    """What one reader sends another shows the same panel; going back closes it."""
    page = visit()
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
    page = visit()
    for selector in (".metric:visible thead", ".ranking >> nth=0", ".legend >> nth=0", "#failures"):
        assert SCRIPT in page.locator(selector).inner_text()
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(visit: Callable[..., Any], scheme: str) -> None:
    """Dark is dark, the button overrides it, a cell's text keeps its contrast."""
    page = visit(scheme=scheme)

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
        gap = brightness(".metric:visible td.q10 .value", "color") - brightness(
            ".metric:visible td.q10", "backgroundColor"
        )
        assert abs(gap) > 90 and (gap > 0) is dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_the_matrix_not_the_page(visit: Callable[..., Any], scheme: str) -> None:
    """390 px: the page is exactly as wide as the screen, panels too, and the matrix moves inside
    its own box.
    """
    page = visit(390, 844, scheme, has_touch=True, is_mobile=True)
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
    page = visit(java_script_enabled=False)
    assert page.locator(".metric").count() == page.locator(".metric:visible").count() == 20
    link = page.locator(".metric a.cell").nth(0).get_attribute("href")
    page = visit(java_script_enabled=False, suffix=link)
    assert page.locator(f"dialog{link}").is_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
def test_detectors_and_compositions_are_drawn(
    visit: Callable[..., Any], class_board: Path, scheme: str, width: int
) -> None:
    """The bars stand in the open, the ROC curves one click away, in colours that differ from the
    card behind them.
    """
    page = visit(width, 900, scheme, board=class_board)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    bars = page.locator("section[aria-labelledby$='-composition'] svg.stacked")
    assert bars.count() == 12 and bars.first.bounding_box()["width"] >= 140
    section = page.locator("section[aria-labelledby$='-detectors']").first
    curve = section.locator("details.curves .twin .roc").first
    assert not curve.is_visible() and SCRIPT in section.inner_text()
    section.locator("details.curves summary").first.click()
    assert curve.is_visible()
    stroke, behind = (
        [
            float(part)
            for part in re.findall(
                r"[\d.]+", element.evaluate(f"element => getComputedStyle(element).{what}")
            )[:3]
        ]
        for element, what in (
            (curve, "stroke"),
            (section.locator(".pair").first, "backgroundColor"),
        )
    )
    assert max(abs(one - other) for one, other in zip(stroke, behind, strict=True)) > 90
    assert page.locator("script").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_print_keeps_the_matrix_and_drops_the_controls(visit: Callable[..., Any]) -> None:
    """Paper has no buttons."""
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    assert (
        not page.locator("#theme").is_visible() and not page.locator(".switch").first.is_visible()
    )
    assert page.locator(".metric:visible table").count() == 1
