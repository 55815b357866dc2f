"""What a large board costs: to build, to send, and to open in a browser.

20 attacks, 20 defenses and detectors, 3 testbeds and 3 seeds: the published records of one suite,
each under new names as often as that takes, with its numbers moved a little, so that no two cells
are alike. Pictures come along once. Beside it the board of the published default suites as it is.
Opening is timed in headless Chromium, from a file, until everything that the page does on its own
is done, and until the first text or picture is painted (Paint Timing's
``first-contentful-paint``); without Playwright and Chromium both are left out.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.record import Metric, PluginSpec, Record, Run
from bench.results import published, read_results
from benchmarks.timing import Moment, Row, Settings
from leaderboard.report import build

SUITE = "digits"
ATTACKS, DEFENSES, TESTBEDS, SEEDS = 20, 20, 3, 3
GOAL_SECONDS, GOAL_MEGABYTES, GOAL_OPEN = 10.0, 25.0, 2.0
#: The suites that a first board is cut from, and what its page may weigh and its first paint take.
DEFAULT, DEFAULT_MEGABYTES, GOAL_PAINT = ("digits", "poison", "sd"), 4.0, 1.0
#: How far numbers are moved, at most, as a share of themselves.
MOVED = 0.05


def board(settings: Settings) -> list[Row]:
    """Wall and CPU seconds (of the process that makes the page and of the one beside it that writes
    the records as data), megabytes of the page, elements, and wall seconds until it is painted and
    open, of the large board and of the default one. Raises ``UserError`` if no results of the suite
    are published.
    """
    runs = read_results(published())
    run = large(next((one for one in runs if one.suite == SUITE), None))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "board.html"
        seconds, cpu = [], []
        for _ in range(settings.repetitions):
            before, others = Moment.now(), _of_children()
            build([run], page)
            took = Moment.now() - before
            seconds.append(took.wall)
            cpu.append(took.cpu + _of_children() - others)
        rows = [
            _goal(f"a board of {len(run.records)} records", "s", seconds, GOAL_SECONDS),
            Row(quantity="its CPU", unit="s", values=tuple(cpu)),
            _goal("its page", "MB", [page.stat().st_size / 1e6], GOAL_MEGABYTES),
        ]
        rows += _opened(page, "", settings.repetitions)
        build([one for one in runs if one.suite in DEFAULT], page)
        weight = [page.stat().st_size / 1e6]
        rows.append(_goal("the default board's page", "MB", weight, DEFAULT_MEGABYTES))
        return rows + _opened(page, "the default board: ", settings.repetitions)


def _of_children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _goal(quantity: str, unit: str, values: list[float], goal: float) -> Row:
    return Row(quantity=quantity, unit=unit, values=tuple(values), goal=goal, at_least=False)


def large(run: Run | None) -> Run:
    """``run`` with its records under as many names as the benchmark asks for."""
    if run is None:
        raise UserError(f"no results of {SUITE} are published with this castlewalls")
    records = [pair for pair in run.records if pair[1].seed < SEEDS and pair[1].kind != "anchor"]
    made = [
        (folder, copy)
        for folder, record in records
        for attack in _names(record.attack, [one.attack for _, one in records], ATTACKS)
        for defense in _names(record.defense, [one.defense for _, one in records], DEFENSES)
        for testbed in range(TESTBEDS)
        for copy in [_renamed(record, attack, defense, testbed)]
    ]
    return dataclasses.replace(run, records=made)


def _names(spec: PluginSpec, among: list[PluginSpec], count: int) -> Iterator[PluginSpec]:
    """The new names of one plugin, ``count`` being those of all: every which-th."""
    if spec.name == "none":
        yield spec
        return
    known = sorted({(one.name, str(one.params)) for one in among if one.name != "none"})
    position = known.index((spec.name, str(spec.params)))
    for number in range(position, count, len(known)):
        yield dataclasses.replace(spec, name=f"{spec.name}_{number}", label=f"{spec.name}_{number}")


def _renamed(record: Record, attack: PluginSpec, defense: PluginSpec, testbed: int) -> Record:
    key = f"{attack.name} {defense.name} {testbed} {record.seed}"
    share = 1 - MOVED * (zlib.crc32(key.encode()) % 1000) / 1000
    return dataclasses.replace(
        record,
        attack=attack,
        defense=defense,
        testbed=dataclasses.replace(record.testbed, name=f"{record.testbed.name}-{testbed}"),
        protocol=f"{record.protocol}{testbed}",
        metrics={name: _moved(metric, share) for name, metric in record.metrics.items()},
        pictures=record.pictures if testbed == 0 and attack.name.endswith("_0") else (),
    )


def _moved(metric: Metric, share: float) -> Metric:
    value, low, high = (
        None if one is None else one * share
        for one in (metric.value, metric.ci_low, metric.ci_high)
    )
    return dataclasses.replace(metric, value=value, ci_low=low, ci_high=high)


def _opened(page: Path, named: str, repetitions: int) -> list[Row]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return []
    seconds: list[float] = []
    painted: list[float] = []
    elements = 0
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(repetitions):
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            before = Moment.now()
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate("() => new Promise(requestAnimationFrame)")
            seconds.append((Moment.now() - before).wall)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            tab.wait_for_function(paint)
            painted.append(tab.evaluate(paint) / 1000)
            elements = tab.evaluate("document.querySelectorAll('*').length")
            tab.close()
        browser.close()
    return [
        _goal(f"{named}first paint", "s", painted, GOAL_PAINT),
        _goal(f"{named}opening it", "s", seconds, GOAL_OPEN),
        Row(quantity=f"{named}its elements", unit="", values=(float(elements),)),
    ]
