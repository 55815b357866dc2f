"""What a page of this project may do in a browser: its own scripts and styles, by their hashes, and
nothing else; and nothing of the page asks for more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.record import read_runs
from leaderboard.report import build, build_live
from leaderboard.site import build_site

TESTBED = "site/testbed.html"
PAGES = (
    *("board.html", "classes.html", "live.html"),
    *("site/index.html", "site/methods.html", TESTBED),
)


class Asked(HTMLParser):
    """What a page asks a browser for: its policy, the text of its styles and scripts, and the names
    of its attributes. What stands in ``<noscript>`` counts, since dialogs open from there.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.policy = ""
        self.inside = ""
        self.texts: dict[str, list[str]] = {"style": [], "script": []}
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}
        self.inside = tag
        if tag in self.texts:
            self.texts[tag].append("")
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.texts:
            self.texts[self.inside][-1] += data


@pytest.fixture(scope="module")
def folder(store: Path, class_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of page that this project writes."""
    folder = tmp_path_factory.mktemp("pages")
    build(store, folder / "board.html")
    build(class_store, folder / "classes.html")
    going = {"written": 1.8e9, "every": 900.0, "done": 30, "left": 90, "seconds": 840.0}
    build_live(store, folder / "live.html", **going)
    build_site(read_runs(store), None, folder / "site")
    (testbed,) = (folder / "site").glob("board-*.html")
    testbed.rename(folder / TESTBED)
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> Path:
    return folder / "board.html"


def _hashes(texts: list[str]) -> list[str]:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


@pytest.mark.parametrize("name", PAGES)
def test_styles_and_scripts_are_allowed_by_their_hashes_alone(folder: Path, name: str) -> None:
    """With 'unsafe-inline' a record's markup that once got through could change what is seen."""
    page = Asked((folder / name).read_text(encoding="utf-8"))
    allowed = dict(part.strip().partition(" ")[::2] for part in page.policy.split(";"))
    assert allowed.pop("default-src") == allowed.pop("base-uri") == "'none'"
    assert allowed.pop("form-action") == "'none'" and allowed.pop("img-src") == "data:"
    assert allowed.pop("style-src").split() == _hashes(page.texts["style"])
    assert allowed.pop("script-src", "").split() == _hashes(page.texts["script"])
    assert allowed == {} and page.texts["style"]


@pytest.mark.parametrize("name", PAGES)
def test_no_style_and_no_handler_stands_in_an_attribute(folder: Path, name: str) -> None:
    """The policy forbids them, so a picture would have no size and a button do nothing."""
    page = Asked((folder / name).read_text(encoding="utf-8"))
    assert "class" in page.names and "style" not in page.names
    assert [one for one in page.names if one.startswith("on")] == []


def _use(page: Any) -> None:
    """What readers do: sort, filter, switch, open everything, change the theme, print."""
    page.locator("table.entries:visible thead .sort").nth(2).click()
    page.locator(".whole thead .sort").nth(1).click()
    page.locator("input[data-filter=text]").fill("clip")
    page.locator("#reset").click()
    page.locator("a.ask").last.click()
    page.locator(".question:visible thead .what").first.click()
    page.keyboard.press("Escape")
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    for radio in page.locator(".switch input").all()[:3]:
        radio.check()
    for link in (".whole td.value a.cell", ".whole tbody a.about", ".whole thead a.about"):
        page.locator(f"{link}:visible").first.click()
        panel = page.locator("dialog[open]")
        panel.evaluate("one => one.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
    for _ in range(3):
        page.locator("#theme").click()
    page.emulate_media(media="print")
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("name", PAGES)
def test_a_reader_meets_no_violation(visit: Callable[..., Any], folder: Path, name: str) -> None:
    """``visit`` hears of every violation, on the console and by its event."""
    page = visit(board=folder / name)
    if name == TESTBED:
        page.locator("table.matrix td.value:visible a.cell").first.click()
        panel = page.locator("dialog[open]")
        panel.evaluate("one => one.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.keyboard.press("Escape")
    elif name == "site/index.html":
        page.locator("#theme").click()
        page.locator(".question:visible thead .what").first.click()
        page.locator("a.ask").last.click()
    elif name != "site/methods.html":
        _use(page)
    else:
        page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).margin") == "0px"


def test_pictures_keep_their_sizes(visit: Callable[..., Any]) -> None:
    """What a style attribute did: a gallery's at their own width, strips folded to twice that, and
    each with its own image.
    """
    page = visit()
    page.locator(".whole td.value a.cell:visible").nth(1).click()
    shots = page.locator("dialog[open] details[open] .shot")
    seen = set()
    for shot in shots.all():
        box = shot.bounding_box()
        classes = shot.get_attribute("class").split()
        (ratio,) = (one for one in classes if re.fullmatch(r"r\d+-\d+", one))
        width, height = (int(part) for part in ratio[1:].split("-"))
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.05)
        if f"px{width}" in classes:
            assert box["width"] == pytest.approx(width, abs=1)
        seen.add(shot.evaluate("one => getComputedStyle(one).backgroundImage"))
    assert shots.count() >= 8 and len(seen) >= 6
    assert all("data:image/png;base64," in one for one in seen)


def test_the_policy_is_in_force(browser: Any, board: Path) -> None:
    """If a browser took no notice of it, no violation would mean nothing."""
    page = browser.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.goto(board.as_uri())
    page.evaluate(
        """() => {
          document.body.setAttribute("style", "opacity: .5");
          document.body.insertAdjacentHTML("beforeend",
            "<style>body { color: red }</style><p style='color: red' onclick='0'>a</p>");
        }"""
    )
    assert page.evaluate("getComputedStyle(document.body).opacity") == "1"
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    page.evaluate("document.body.style.opacity = '.5'")
    assert page.evaluate("getComputedStyle(document.body).opacity") == "0.5"
    assert sum("Content Security Policy" in line for line in heard) >= 3
    page.close()
