"""The static site: from results alone and without torch, the same bytes twice, every page under one
navigation and a strict policy, and nothing in a Markdown file that a page would run or fetch.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from zipfile import ZipFile

import pandas
import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import UserError
from bench.record import read_runs
from bench.results import RECORDS, published
from leaderboard.prose import read_prose
from leaderboard.report import build
from leaderboard.site import build_site

ROOT = Path(__file__).resolve().parents[2]
#: As ``python -m bench`` with these packages out of reach.
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers", "matplotlib"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from bench.cli import main
main()
"""
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


class Page(HTMLParser):
    """Ids, links and what else a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.names.add(name)
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "srcset", "href") and tag not in ("a", "use"):
                self.sources.append(value or "")


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "plots").mkdir()
    (folder / "plots/a.png").write_bytes(PNG)
    (folder / "submit.md").write_text("# Send *it*\n\nSee [why](why.md#a-reason).\n")
    (folder / "why.md").write_text(
        "# Why\n\n## A reason\n\n![a plot](plots/a.png)\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
    )
    return folder


@pytest.fixture(scope="module")
def site(store: Path, docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(read_runs(store), docs, folder)
    return folder


def test_the_projects_own_site_needs_results_and_docs_and_no_torch(tmp_path: Path) -> None:
    """Who reads results has no machine to train on. Every link leads somewhere."""
    if not any(published().glob(f"*/{RECORDS}")):
        pytest.skip("no results are published")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "site", "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = {Path(line).name for line in done.stdout.splitlines()}
    assert {"index.html", "methods.html", "board.csv.zip", "board.json.zip"} <= made
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= made
    pages = {path.name: Page(path.read_text(encoding="utf-8")) for path in tmp_path.glob("*.html")}
    assert pages.keys() == {name for name in made if name.endswith(".html")}
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        assert all(source.startswith(("data:", "#")) for source in page.sources), name
        for link in page.links:
            file, _, part = link.partition("#")
            if not link.startswith("https://"):
                target = pages.get(file or name)
                assert target is not None or (tmp_path / file).is_file(), f"{name}: {link}"
                # What follows & in the board's fragment is its view.
                part = unquote(part).partition("&")[0]
                assert not part or target is None or part in target.ids, f"{name}: {link}"


def test_the_same_results_give_the_same_bytes(
    site: Path, store: Path, docs: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "site", str(store)]
        + ["--docs", str(docs), "--output", str(tmp_path)],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (site, tmp_path)
    )
    assert one == other and len(one) == 7


def test_every_page_has_the_navigation_and_a_policy_of_its_own(site: Path) -> None:
    files = ["index.html", "methods.html", "submit.html", "why.html"]
    for name in files:
        text = (site / name).read_text(encoding="utf-8")
        nav = re.search(r'<nav class="site".*?</nav>', text, re.S)
        assert nav is not None and Page(nav[0]).links == files
        assert f'href="{name}" aria-current="page"' in nav[0]
        assert "default-src 'none'" in text and "base-uri 'none'" in text
        assert "'unsafe-inline'" not in text and "style" not in Page(text).names
        if name != "index.html":
            assert "script-src" not in text and "script" not in Page(text).tags
    assert '<a href="submit.html">How to submit</a>' in (site / "index.html").read_text("utf-8")
    assert "<title>Send it · castlewalls</title>" in (site / "submit.html").read_text("utf-8")


def test_a_page_of_an_earlier_site_is_named_and_stays(store: Path, tmp_path: Path) -> None:
    """Who publishes the folder would publish numbers that no page leads to any more."""
    stale = tmp_path / "board-digits-ddpm-00000000.html"
    stale.write_text("old")
    arguments = ["site", str(store), "--docs", str(tmp_path), "--output", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0 and stale.read_text() == "old"
    warned = f"castlewalls: warning: {stale} is of another site: no page leads to it"
    assert warned in done.output.splitlines()
    assert done.output.count("no page leads to it") == 1


def test_many_pages_stand_behind_a_word(store: Path, tmp_path: Path) -> None:
    """They would take a third of a phone's screen; on one of them the list is open."""
    docs, names = tmp_path / "docs", [f"{letter}-notes" for letter in "abcdef"]
    docs.mkdir()
    for name in ("submit", *names):
        (docs / f"{name}.md").write_text(f"# {name}\n")
    build_site(read_runs(store), docs, tmp_path / "site")
    for name, opened in (("index", False), ("submit", False), ("c-notes", True)):
        text = (tmp_path / f"site/{name}.html").read_text(encoding="utf-8")
        nav = re.search(r'<nav class="site".*?</nav>', text, re.S)
        assert nav is not None
        before, _, behind = nav[0].partition("<details")
        assert Page(before).links == ["index.html", "methods.html", "submit.html"]
        assert Page(behind).links == [f"{name}.html" for name in names]
        assert behind.startswith(" open>") is opened


def test_a_page_holds_its_pictures_and_tables(site: Path) -> None:
    text = (site / "why.html").read_text(encoding="utf-8")
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in text
    assert '<h2 id="a-reason">' in text and '<td class="right">2</td>' in text
    assert 'href="why.html#a-reason"' in (site / "submit.html").read_text(encoding="utf-8")


def test_methods_have_their_boards_and_papers(site: Path) -> None:
    text = (site / "methods.html").read_text(encoding="utf-8")
    page, board = Page(text), Page((site / "index.html").read_text(encoding="utf-8"))
    for name in ("clip_x0", "clip_xt", "finetune", "anp", "baddiffusion"):
        assert name in text.replace("<wbr>", "")
    for cells in ("sampling steps</td><td>nothing", "weights</td><td>clean data, weights"):
        assert f"<td>{cells}</td>" in text
    assert re.search(r"<td>[^<]*noise[^<]*</td><td>data, objective</td>", text)
    linked = [link.partition("#")[2] for link in page.links if link.startswith("index.html#")]
    assert linked and set(linked) <= set(board.ids)
    assert {"method=clip_x0", "method=anp", "method=baddiffusion"} <= set(linked)
    (testbed,) = site.glob("board-*.html")
    assert f"{testbed.name}#{testbed.stem}" in page.links


def test_a_testbed_and_its_cells_have_a_page_of_their_own(site: Path) -> None:
    """Who looks at the first screen, on a phone perhaps, fetches no cell of all testbeds."""
    (testbed,) = site.glob("board-*.html")
    home = Page((site / "index.html").read_text(encoding="utf-8"))
    page = Page(testbed.read_text(encoding="utf-8"))
    cells = {one for one in page.ids if one.startswith("cell=")}
    assert len(cells) >= 20 and not cells & set(home.ids)
    led = {link for link in home.links if "#cell=" in link}
    assert led and led <= {f"{testbed.name}#{cell}" for cell in cells}
    assert testbed.name in home.links, "the list of testbeds"
    # What is said once for all of them is on the first page, and found from here.
    assert any(link.startswith("index.html#m-") for link in page.links)
    assert "index.html#method=clip_x0" in page.links
    assert "method=clip_x0" in home.ids and "method=clip_x0" not in page.ids


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_the_records_are_packed_as_a_board_has_them(
    site: Path, store: Path, tmp_path: Path, ending: str
) -> None:
    build(store, tmp_path / "board.html")
    with ZipFile(site / f"board.{ending}.zip") as archive:
        assert archive.namelist() == [f"board.{ending}"] and archive.testzip() is None
        assert archive.read(f"board.{ending}") == (tmp_path / f"board.{ending}").read_bytes()
    assert f"board.{ending}.zip" in Page((site / "index.html").read_text("utf-8")).links


def test_a_reader_of_tables_reads_the_packed_csv(site: Path, tmp_path: Path, store: Path) -> None:
    build(store, tmp_path / "board.html")
    packed = pandas.read_csv(site / "board.csv.zip")
    pandas.testing.assert_frame_equal(packed, pandas.read_csv(tmp_path / "board.csv"))
    assert len(packed) > 100


@pytest.mark.parametrize(
    "line",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](data:text/html,x)",
        "[a](file:///etc/passwd)",
        "[a](//evil.example/x)",
        "[a](../secret.md)",
        "[a](unknown.md)",
        "![a](https://evil.example/x.png)",
        "![a](//evil.example/x.png)",
        "![a](../outside.png)",
        "![a](plots/%2e%2e/%2e%2e/outside.png)",
        "![a](linked.png)",
        "![a](/etc/hostname.png)",
        "![a](plots/missing.png)",
        "![a](page.md)",
        '[a](https://x.example "onmouseover=alert(1)")',
        '<a href="javascript:alert(1)">a</a>',
        '<!-- --> <b onclick="x">a</b> <!-- -->',
        "<javascript:alert(1)>",
        "## <style>a</style>",
    ],
)
def test_nothing_in_a_page_runs_or_fetches(line: str, tmp_path: Path) -> None:
    """A submission's own words may become a page."""
    folder = tmp_path / "docs"
    (folder / "plots").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "linked.png").symlink_to(tmp_path / "outside.png")
    (folder / "page.md").write_text(f"# T\n\n{line}\n")
    page = Page(read_prose(folder / "page.md", ["page"]).html)
    assert set(page.tags) <= {"h1", "h2", "p", "a"}
    assert page.names <= {"id", "href", "rel", "title"} and page.sources == []
    assert page.links in ([], ["https://x.example"])


def test_comments_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# T\n\n<!-- made by hand -->\n\na <!-- b --> c\n")
    text = read_prose(tmp_path / "page.md", []).html
    assert "made by hand" not in text and "<p>a  c</p>" in text


def test_bad_input_is_one_line(store: Path, tmp_path: Path) -> None:
    runs = read_runs(store)
    (tmp_path / "methods.md").write_text("# M\n")
    with pytest.raises(UserError, match=r"methods\.md would take the place of a page"):
        build_site(runs, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no records for a site yet"):
        build_site([], None, tmp_path / "out")
    (tmp_path / "methods.md").rename(tmp_path / "m.md")
    (tmp_path / "m.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"m\.md cannot be read"):
        build_site(runs, tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the site"):
        build_site(runs, None, tmp_path / "file")
    done = CliRunner().invoke(cli, ["site", str(store), "--docs", str(tmp_path / "absent")])
    assert done.exit_code == 2 and "there is no such folder" in done.output


def test_pages_open_in_a_browser_without_a_word(site: Path) -> None:
    """A policy whose hash is not that of its style would show a bare page."""
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if executable is None:
        pytest.skip("no Chromium")
    heard: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        for path in sorted(site.glob("*.html")):
            page.goto(path.as_uri())
            box = page.locator("nav.site .page")
            assert box.evaluate("one => getComputedStyle(one).display") == "flex"
        page.goto((site / "why.html").as_uri())
        page.click("nav.site a:first-child")
        assert page.url == (site / "index.html").as_uri()
        browser.close()
    assert heard == []
