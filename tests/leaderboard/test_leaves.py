"""Cells, methods' pages and figures in real headless Chromium: pictures, addresses, commands, and
drawings as files.
"""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leaderboard.board import boards
from leaderboard.commands import commands
from leaderboard.report import build, environment
from leaderboard.sources import read_sources

SCRIPT = "clip<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> Path:
    return make_store(tmp_path_factory.mktemp("leaves") / "store")


@pytest.fixture(scope="module")
def board(store: Path) -> Path:
    return build(store, store.parent / "board.html")


@pytest.fixture(scope="module")
def class_board(
    tmp_path_factory: pytest.TempPathFactory, make_class_store: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    return build(make_class_store(folder / "store"), folder / "board.html")


@pytest.fixture
def visit(browser: Any, board: Path) -> Iterator[Callable[..., Any]]:
    """Opens a board; no console message, script error or request but the file's own and its
    pictures'.
    """
    contexts, trouble = [], []

    def open_page(suffix: str = "", board: Path = board, **options: Any) -> Any:
        options = {"viewport": {"width": 1400, "height": 900}} | options
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((board.as_uri(), "data:", "blob:"))
                else trouble.append(request.url)
            ),
        )
        page.goto(board.as_uri() + suffix)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def cell_id(board: Path, who: str, against: str) -> str:
    text = board.read_text(encoding="utf-8")
    match = re.search(rf'<dialog id="(cell={who}[a-z0-9-]*?-{against}-[0-9a-f]{{8}})"', text)
    assert match
    return match[1]


def test_pictures_wait_until_their_cell_is_open(visit: Callable[..., Any], board: Path) -> None:
    """Each stands in the file once, behind what is painted first, and nothing that is visible asks
    for it before a cell is open.
    """
    text = board.read_text(encoding="utf-8")
    named = re.findall(r"--p\d+:url\((data:[^)]*)\)", text)
    assert len(named) == len(set(named)) > 50
    assert text.index("--p0:url(") > text.rindex("</dialog>")
    page = visit()
    assert page.locator("dialog img").count() == page.locator(".shot:visible").count() == 0
    page.evaluate("id => { location.hash = id; }", cell_id(board, "baddiffusion", "clip-x0"))
    page.wait_for_selector("dialog[open] .shot")
    assert 8 <= page.locator(".shot:visible").count() < 30


def test_a_difference_is_that_of_the_two_pictures(
    visit: Callable[..., Any], board: Path, store: Path
) -> None:
    """Pixel by pixel, also where a row of eight images is drawn as two rows of four."""
    page = visit("#" + cell_id(board, "baddiffusion-trigger-grey-box", "none"))
    shot = page.locator("dialog[open] .shot.diff").nth(1)  # of the backdoored model
    assert "triggered noise (e + g), backdoored, no defense" in shot.get_attribute("aria-label")
    corner = "position: fixed; left: 0; top: 0; width: 256px; border-radius: 0; z-index: 9;"
    shot.evaluate("(one, style) => { one.style.cssText += style; }", corner)
    image = page.screenshot(clip={"x": 0, "y": 0, "width": 256, "height": 128})
    drawn = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
    (view,) = boards(read_sources([store]))
    cell = next(one for one in view.all_cells() if f"#{one.id}" in page.url)
    entry = cell.entries[0]
    strips = [
        np.asarray(Image.open(entry.folder / str(entry.record.picture(role)))).astype(int)
        for role in ("call:noise", "clean")
    ]
    row = np.abs(strips[0] - strips[1])  # 16 x 128
    wanted = np.concatenate([row[:, :64], row[:, 64:]])
    assert drawn.shape[:2] == (128, 256)
    assert np.abs(drawn[2::4, 2::4] - wanted).max() <= 2


def test_cells_and_methods_have_addresses_and_back_works(
    visit: Callable[..., Any], board: Path
) -> None:
    """From the matrix to a method, to one of its cells, and back twice; a view stays beside."""
    page = visit("#family=sampler")
    page.locator(".whole thead a.about", has_text="about").nth(0).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open][id^='method=clip_x0']")
    opened = page.locator("dialog[open]")
    assert opened.locator("h2").inner_text() == "clip_x0"
    opened.locator(".weak a").first.click()
    page.wait_for_selector("dialog[open][id^='cell=']")
    assert page.locator("dialog[open]").count() == 1 and "clip_x0" in opened.inner_text()
    opened.locator(".method-link", has_text="About baddiffusion").click()
    page.wait_for_selector("dialog[open][id^='method=baddiffusion']")
    page.go_back()
    page.wait_for_selector("dialog[open][id^='cell=']")
    page.go_back()
    page.wait_for_selector("dialog[open][id^='method=clip_x0']")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    again = visit("#method=baddiffusion")
    assert again.locator("dialog[open] h2").inner_text() == "baddiffusion"


def test_what_a_cell_cost_stands_first_among_its_numbers(
    visit: Callable[..., Any], board: Path, store: Path
) -> None:
    target = cell_id(board, "baddiffusion-trigger-grey-box", "anp[a-z0-9-]*")
    (view,) = boards(read_sources([store]))
    cell = next(one for one in view.all_cells() if one.id == target)
    page = visit(f"#{target}")
    texts = [one.inner_text() for one in page.locator("dialog[open] .numbers tbody tr").all()]
    first, *rows = [text.split()[0] for text in texts]
    results = rows.index("Results")
    wanted = {f"cost[{name}]" for entry in cell.entries for name in entry.record.cost}
    assert first == "Cost" and set(rows[:results]) == wanted and wanted
    assert not any(name.startswith("cost[") for name in rows[results:])
    assert len(rows) > results + 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("</pre><script>", "&lt;/pre&gt;&lt;script&gt;"),
        ("&#34; & '", "&amp;#34; &amp; &#39;"),
    ],
)
def test_only_quotes_stand_as_they_are_between_tags(text: str, wanted: str) -> None:
    assert environment().filters["in_text"](text) == wanted


def test_the_command_is_copied_as_it_stands(
    visit: Callable[..., Any], board: Path, store: Path
) -> None:
    """What is pasted is the command that the planner was asked with (test_commands.py)."""
    target = cell_id(board, "baddiffusion-trigger-grey-box", "anp[a-z0-9-]*")
    page = visit(f"#{target}", permissions=["clipboard-read", "clipboard-write"])
    page.locator("dialog[open] .command .copy").first.click()
    page.wait_for_function("document.querySelector('dialog[open] .copy').textContent === 'Copied'")
    (view,) = boards(read_sources([store]))
    (command,) = commands(next(one for one in view.all_cells() if one.id == target))
    assert page.evaluate("navigator.clipboard.readText()") == command.text
    assert command.text.startswith("castlewalls run digits --seeds 0,1,2 --attacks baddiffusion")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_drawing_is_a_file_that_stands_alone(
    visit: Callable[..., Any], class_board: Path, scheme: str
) -> None:
    """As a vector file with its styles in it, light whatever the page is."""
    page = visit(board=class_board, color_scheme=scheme)
    buttons = page.locator("#pictures button.save")
    assert buttons.count() >= 4
    for button in buttons.all():
        with page.expect_download() as download:
            button.click()
        assert re.fullmatch(r"[a-z0-9-]{5,80}\.svg", download.value.suggested_filename)
        text = Path(download.value.path()).read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and int(root.get("width", "0")) >= 400
        assert "class=" not in text and "var(" not in text and "light-dark(" not in text
        assert "<script" not in text and "href" not in text
        names = [one for one in root.iter() if one.tag.endswith("text")]
        assert names and all(sum(_rgb(one.get("fill", ""))) < 400 for one in names)
        drawn = re.sub(r"\s+", "", "".join(one.text or "" for one in names))
        figure = button.locator("xpath=ancestor::figure")
        for part in ("h3", ".legend > span", "figcaption"):
            for words in figure.locator(part).all_text_contents():
                for word in words.split():
                    assert word in drawn, (word, "is on the page and not in the file")
    assert (page.evaluate("document.documentElement.dataset.theme") or "") == ""


def test_pictures_of_closed_cells_are_not_decoded(browser: Any, board: Path) -> None:
    """By Chromium's own account: of the page's many pictures the first paint decodes those of the
    first screen, and a cell's own come when it is opened.
    """
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()

    def decoded(act: Callable[[], object]) -> int:
        browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline"])
        act()
        # A frame for the picture to be asked for, and one for it to be there.
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 700)))")
        events = json.loads(browser.stop_tracing())["traceEvents"]
        return sum(event["name"] == "Decode Image" for event in events)

    first = decoded(lambda: page.goto(board.as_uri()))
    pictures = set(re.findall(r"--p\d+:url", board.read_text(encoding="utf-8")))
    assert 1 <= first <= 12 and len(pictures) >= 4 * first
    target = cell_id(board, "baddiffusion-trigger-grey-box", "clip-x0")
    assert decoded(lambda: page.evaluate("name => { location.hash = name; }", target)) >= 2
    context.close()


def test_no_name_in_a_drawing_covers_another(
    visit: Callable[..., Any], board: Path, class_board: Path
) -> None:
    """Names of defenses that end at the same place were drawn over each other."""
    for one in (board, class_board):
        page = visit(board=one)
        for plot in page.locator("#pictures svg.plot").all():
            boxes = plot.locator("text.level-name").evaluate_all(
                "all => all.map(one => [one.getBoundingClientRect(), one.textContent])"
                ".map(([box, text]) => [box.left, box.top, box.right, box.bottom, text])"
            )
            frame = plot.bounding_box()
            assert frame is not None
            for at, (left, top, right, bottom, text) in enumerate(boxes):
                assert frame["x"] <= left and right <= frame["x"] + frame["width"] + 1, text
                for other in boxes[at + 1 :]:
                    apart = right <= other[0] or other[2] <= left
                    # Lines of text are taller than their letters.
                    apart = apart or bottom <= other[1] + 2 or other[3] <= top + 2
                    assert apart, (text, other[4])


def _rgb(colour: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def test_the_figures_are_those_that_the_records_have_numbers_for(
    visit: Callable[..., Any], board: Path, class_board: Path
) -> None:
    """What is left against what it costs everywhere; stacks and the plane where there are classes
    and detectors of samples.
    """
    page = visit()
    titles = page.locator("#pictures h3").all_inner_texts()
    assert len(titles) == 1 and titles[0].startswith("Stops the backdoor: what is left")
    marks = page.locator("#pictures svg.plot g > title").evaluate_all(
        "all => all.map(one => one.textContent)"
    )
    assert {mark.partition(":")[0] for mark in marks} >= {"no defense", "clip_x0", "finetune"}
    page = visit(board=class_board)
    titles = page.locator("#pictures h3").all_inner_texts()
    for start in ("Stops", "Classifies", "What the adversary’s class", "Detectors on the training"):
        assert any(title.startswith(start) for title in titles), titles


def test_a_methods_page_says_what_was_measured_against_it(
    visit: Callable[..., Any], board: Path
) -> None:
    """Its words, trigger and target, its row with links, its parameters, and its weaknesses."""
    page = visit("#method=baddiffusion")
    opened = page.locator("dialog[open]")
    text = opened.inner_text()
    assert "Stopped by clip_x0 in 2 of 2 rows" in text and "called by noise" in text
    assert opened.locator(".drawn figure").count() == 2
    assert opened.locator(".drawn .shot").count() == 4
    assert opened.locator("table.matrix td.value a.cell").count() >= 6
    opened.get_by_text("Parameters: 2 configurations").click()
    assert '"poison_rate": 0.1' in opened.inner_text()
    page = visit("#method=finetune")
    text = page.locator("dialog[open]").inner_text()
    assert "Worst case: " in text and "finetune: loss is NaN at step 12" in text


def test_a_measured_weakness_says_of_how_many(board: Path) -> None:
    lists = re.findall(r'<ul class="weak">(.*?)</ul>', board.read_text(), re.DOTALL)
    lines = [line for one in lists for line in re.findall(r"<li>(.*?)</li>", one, re.DOTALL)]
    measured = [
        line
        for line in lines
        if re.search(r"\b[01]\.\d\d", line) and not line.startswith(("Flag", "Failed", "Skipped"))
    ]
    kinds = ("Worst case", "Stopped by")
    assert all(any(line.startswith(kind) for line in measured) for kind in kinds), lines
    assert [line for line in measured if not re.search(r", n \d", line)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cells_and_methods_fit_a_phone(
    visit: Callable[..., Any], board: Path, class_board: Path, scheme: str
) -> None:
    """Nothing sticks out; wide tables move inside their own boxes."""
    phone = {
        "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True,
        "color_scheme": scheme,
    }  # fmt: skip
    for source, suffix in (
        (board, "#method=baddiffusion"),
        (board, "#" + cell_id(board, "baddiffusion", "clip-x0")),
        (class_board, "#method=badnets"),
        (class_board, "#" + cell_id(class_board, "badnets", "strip[a-z0-9-]*")),
    ):
        page = visit(suffix, board=source, **phone)
        opened = page.locator("dialog[open]")
        assert opened.evaluate("one => one.scrollWidth <= one.clientWidth"), suffix
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_print_leaves_the_open_cell_alone(visit: Callable[..., Any], board: Path) -> None:
    """One cell on paper, without what surrounds it and without buttons."""
    page = visit("#" + cell_id(board, "baddiffusion", "clip-x0"))
    page.emulate_media(media="print")
    assert page.locator("dialog[open] .shot").first.is_visible()
    assert not page.locator("#main").is_visible()
    assert not page.locator("dialog[open] .copy").first.is_visible()


def test_a_script_as_a_methods_name_stays_text(
    visit: Callable[..., Any], tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """As a name, a label and a description; it has an address all the same, and no command."""
    import dataclasses
    import json

    from bench.record import PluginSpec, Record

    def rename(record: Record) -> Record:
        hostile = PluginSpec(name=SCRIPT, label=SCRIPT)
        return (
            dataclasses.replace(record, defense=hostile)
            if record.defense.name == "clip_x0"
            else record
        )

    folder = make_store(tmp_path / "store", rename)
    (account,) = (folder / "runs").glob("*.json")
    data = json.loads(account.read_text())
    data["methods"] = [
        {"name": "baddiffusion", "sentences": [SCRIPT, "It does harm."]},
        {"name": "broken", "sentences": "one"},
    ]
    account.write_text(json.dumps(data))
    page = visit("#method=baddiffusion", board=build(folder, tmp_path / "board.html"))
    opened = page.locator("dialog[open]")
    assert SCRIPT in opened.inner_text() and "It does harm." in opened.inner_text()
    page.evaluate("document.querySelector('dialog[open]').close()")
    links = page.locator(".whole thead a.about")
    targets = [one.get_attribute("href") for one in links.all()]
    (odd,) = [one for one in targets if re.fullmatch(r"#method=[0-9a-f]{12}", one)]
    page.evaluate("link => { location.hash = link; }", odd)
    page.wait_for_selector("dialog[open]")
    assert "<script>" in page.locator("dialog[open] h2").inner_text()
    assert page.title() == "castlewalls · digits" and page.locator("img[src=x]").count() == 0


AXE = Path(__file__).parent / "axe" / "axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_an_open_cell_or_method(
    visit: Callable[..., Any], class_board: Path, scheme: str
) -> None:
    """With every part of it open: names, roles, order of headings, contrast."""
    strip = cell_id(class_board, "badnets", "strip[a-z0-9-]*")
    for suffix in ("#method=badnets", f"#{strip}"):
        page = visit(suffix, board=class_board, color_scheme=scheme, bypass_csp=True)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        page.add_script_tag(path=AXE)
        violations = page.evaluate("axe.run(document.querySelector('dialog[open]'))")["violations"]
        assert [(one["id"], one["nodes"][0]["target"]) for one in violations] == []
