"""A real run, from its first page to its last, with a reader beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.record import read_runs
from leaderboard.report import build

#: With what `tiny_digits` has.
SUITE = {
    "name": "digits",
    "defenses": ["clip_x0"],
    "detectors": ["noise_shift"],
    "seeds": [0, 1],
}
NEWS = "1 of 2 seeds so far"
#: A run that writes its page every two seconds, not every ten.
RUN = "from bench.engine import live; live.EVERY = 2.0; from bench.cli import main; main()"
VIEW = """() => [
    location.hash,
    scrollY,
    document.querySelector('[data-filter=text]').value,
    [...document.querySelectorAll('th[aria-sort]')].map(one => one.dataset.key),
    document.querySelector('details.deep').open,
    document.documentElement.dataset.theme || document.documentElement.style.colorScheme,
]"""

#: Whether it is that of a page that stands, with the matrix where the reader left it.
SAME = f"""(wanted) => document.readyState === 'complete'
    && JSON.stringify(({VIEW})().filter((_, index) => index !== 1)) === JSON.stringify(wanted)
    && Math.abs(document.getElementById('matrix').getBoundingClientRect().y) < 130"""


@pytest.mark.timeout(900)
def test_the_page_of_a_run_fills_keeps_the_view_and_stops(
    browser: Any, tiny_digits: dict[str, Any], tmp_path: Path
) -> None:
    """Filter, sorting, theme, an opened part and where the reader was, over every refresh; marks of
    what is not all there, and none of them at the end.
    """
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(SUITE | tiny_digits))
    store, trouble = tmp_path / "store", list[str]()
    command = [sys.executable, "-c", RUN, "run", "suite.yaml", "--store", store, "--jobs", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            page = _watch(run, browser, store / "report.html", trouble)
        finally:
            run.send_signal(signal.SIGCONT)
            run.terminate()
        assert run.wait() == 0, run.stderr and run.stderr.read()
    assert trouble == []
    assert "so far" not in page.content() and page.locator(".partial").count() == 0
    (made,) = read_runs(store)
    assert {record.status for _, record in made.records} == {"ok"}
    last = (store / "report.html").read_bytes()
    assert build(store, tmp_path / "report.html").read_bytes() == last


def _watch(run: subprocess.Popen[str], browser: Any, board: Path, trouble: list[str]) -> Any:
    """Looks at the page until the run has ended, and returns it; ``trouble``: what the browser
    says.
    """
    while not board.exists():
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.2)
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.goto(board.as_uri())
    while NEWS not in board.read_text(encoding="utf-8"):
        assert run.poll() is None, f"the run ended, and no page said {NEWS}"
        time.sleep(0.2)
    run.send_signal(signal.SIGSTOP)  # or a slow machine's reader would come too late for it
    news = f"td.partial .so-far:text-is('{NEWS}')"
    page.wait_for_selector(news, state="attached")
    run.send_signal(signal.SIGCONT)
    # A refresh would come between.
    page.get_by_role("button", name="Pause").click()
    assert page.locator(".live-boards li").count() == 1 and page.locator("#live-left").is_visible()
    page.locator("#theme").click()
    page.locator("[data-filter=text]").fill("baddiffusion")
    page.locator("table.whole th[data-family] .sort").nth(1).click()
    page.locator("details.deep > summary").first.click()
    page.evaluate("document.getElementById('matrix').scrollIntoView({behavior: 'instant'})")
    before, loaded = page.evaluate(VIEW), page.evaluate("performance.timeOrigin")
    assert before[1] > 100 and before[2:5] == ["baddiffusion", [before[3][0]], True] and before[5]
    page.get_by_role("button", name="Go on").evaluate("one => one.click()")
    page.wait_for_function("then => performance.timeOrigin !== then", arg=loaded)
    page.wait_for_selector("#matrix")
    _same(page, before)
    page.wait_for_selector("#live", state="detached", timeout=600_000)
    _same(page, before)
    loaded = page.evaluate("performance.timeOrigin")
    run.wait()
    page.wait_for_timeout(5000)
    assert page.evaluate("performance.timeOrigin") == loaded, "a finished page stays"
    return page


def _same(page: Any, before: list[Any]) -> None:
    """The reader sees the matrix where it was; what is above it may have grown or gone. A page that
    is just being loaded again is waited for.
    """
    wanted = [before[0], *before[2:]]
    try:
        page.wait_for_function(SAME, arg=wanted)
    except Exception:
        after = page.evaluate(VIEW)
        assert [after[0], *after[2:]] == wanted
        raise
    assert page.locator("#matrix-title").is_visible()
