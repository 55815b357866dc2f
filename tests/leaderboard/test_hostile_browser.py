"""Records, bundles and methods that attack their reader, in real Chromium: whatever stands in a
name, a parameter, a card, a paper's BibTeX, a flag, a reason, a picture's file name or a bundle's
name is text and no more, and stays inside its box.

``visit`` fails for a script error, dialog, request, console message or violation of the policy.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cells import Cell
from bench.export import results_of
from bench.record import Flag, Metric, Picture, PluginSpec, Record, read_runs
from leaderboard.report import build, build_live
from leaderboard.site import build_site
from leaderboard.sources import read_sources

OWNED = "document.title='owned'"
PAYLOADS = (
    f"<script>{OWNED}</script>",
    f'"><img src=x onerror="{OWNED}">',
    f"' onmouseover={OWNED} onfocus={OWNED} autofocus tabindex=0 x='",
    f"</noscript></dialog></table><script>{OWNED}</script>",
    f"</style><style>*{{display:none}}</style></script><svg onload={OWNED}>",
    f"<![CDATA[<script>{OWNED}</script>]]><!-- --><p style='position:fixed;inset:0'>",
    f"&lt;script&gt;{OWNED}&lt;/script&gt;&amp;lt;img src=x onerror={OWNED}&amp;gt;",
    f"javascript:{OWNED}",
    "https://evil.example/?<a href=https://evil.example/>x</a>",
    "{{ 7*7 }}{% for x in range(9) %}${7*7}#{7*7}",
    ");background:url(https://evil.example/x.png);}*{display:none}",
    "\u202egnp.exe\u2066\u2067\u200b\u200d\ufeff\x00\x1b[2J\udcff",
    "#method=x&q=y|z%00%0d%0a\r\n=HYPERLINK(1)",
    "W" * 10_000,
    "\u0489" * 5_000 + "ﷺ" * 5_000,
)
#: What no browser may make of one.
MADE = (
    "img[src=x], svg[onload], [onmouseover], [onerror], [style], p[style], iframe, object, embed,"
    " form, base, link:not([rel=icon]), a[href^='javascript' i], a[href*='evil.example']"
)
#: Letters of a name that reading takes.
LONGEST = 300
WIDTHS = ((1400, 900), (390, 844))


def nasty(*key: object) -> str:
    """One of the payloads, the same for the same words."""
    return PAYLOADS[zlib.crc32(repr(key).encode()) % len(PAYLOADS)]


def spoiled(spec: PluginSpec) -> PluginSpec:
    if spec.name == "none":
        return spec
    return dataclasses.replace(
        spec,
        name=nasty("name", spec.name) if spec.name == "clip_xt" else spec.name,
        label=f"{spec.name}({nasty('label', spec.name, spec.label)})",
        params={**spec.params, **{one[:100]: one[:600] for one in PAYLOADS}},
    )


def hostile(record: Record) -> Record:
    """The same record with hostile text wherever text can stand, names of the most letters."""
    key = (record.attack.label, record.defense.name, record.seed)
    papers = [
        {
            "title": nasty(*key, "title", index),
            "authors": nasty(*key, "authors", index),
            "year": 2000 + index,
            "arxiv": nasty(*key, "arxiv", index),
            "bibtex": "@misc{" + "\n".join(PAYLOADS) + "}",
        }
        for index in range(3)
    ]
    names = [one[:LONGEST] for one in PAYLOADS]
    return dataclasses.replace(
        record,
        testbed=dataclasses.replace(record.testbed, label=f"digits_ddpm({nasty('testbed')})"),
        attack=spoiled(record.attack),
        probe=record.probe and spoiled(record.probe),
        defense=spoiled(record.defense),
        kind=PAYLOADS[1] if record.kind == "model" else record.kind,
        metrics={**record.metrics, **dict.fromkeys(names, Metric(value=0.5, n=8))}
        if record.metrics
        else {},
        cost={**record.cost, nasty(*key, "cost")[:LONGEST]: 1.0},
        flags=(
            *record.flags,
            *(Flag("odd", "asr", one) for one in PAYLOADS[:4]),
            Flag("odd", nasty(*key, "metric")[:LONGEST], nasty(*key, "flag")),
        ),
        provenance={
            **record.provenance,
            **{f"{nasty(*key, 'tool')}": one for one in PAYLOADS[:6]},
            "papers": papers,
        },
        pictures=tuple(
            dataclasses.replace(
                one, role=one.role, treatment=one.treatment or nasty("treatment")[:LONGEST]
            )
            for one in record.pictures
        )
        + tuple(
            Picture("clean", f"{index} {one}"[:LONGEST], one) for index, one in enumerate(names)
        ),
        absent={**record.absent, **{one: nasty(*key, "absent") for one in PAYLOADS[:4]}},
        reason=record.reason and nasty(*key, "reason"),
        trace="\n".join(PAYLOADS) if record.status == "failed" else record.trace,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> Path:
    """A store of a hostile run with hostile methods, and a bundle of a hostile name."""
    folder = tmp_path_factory.mktemp("hostile")
    store = make_store(folder / "store", hostile)
    (account,) = (store / "runs").glob("*.json")
    words = json.loads(account.read_text())
    words["description"] = " ".join(PAYLOADS)
    words["methods"] += [
        {"name": name, "sentences": list(PAYLOADS[:3]), "alters": ["data"], "needs": [PAYLOADS[0]]}
        for name in ("baddiffusion", "clip_x0", "clip_xt", "finetune")
    ]
    words["metrics"][0]["sentence"] = PAYLOADS[0]
    account.write_text(json.dumps(words))
    other = words | {"suite": PAYLOADS[3], "started": PAYLOADS[0], "cells": words["cells"][:12]}
    (store / "runs" / "other.json").write_text(json.dumps(other))
    run = read_runs(store)[0]
    bundle = folder / "b<img src=x onerror=alert(1)>'\"{{7*7}}"
    mine = [one for one in run.records if one[1].defense.name in ("none", "clip_x0")]
    for path, data in results_of(dataclasses.replace(run, records=mine)).items():
        (bundle / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / "data" / path).write_bytes(data)
    (bundle / "bagit.txt").write_text("BagIt-Version: 1.0\n")
    about = {"column": "clip_x0", "files": [{"name": PAYLOADS[1], "sha256": PAYLOADS[0]}]}
    (bundle / "data" / "plugin.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> Path:
    """Of the store and the bundle, as they are read."""
    sources = [folder / "store", *(one for one in folder.iterdir() if one.name.startswith("b<"))]
    runs = read_sources(sources)
    assert len(runs) == 3 and not any(run.problems for run in runs[:2])
    return build(runs, folder / "a<b>&'\"{{7*7}}.html")


def _intact(page: Any, width: int) -> None:
    """Nothing was made of the texts, and nothing stands outside the window but what its own box
    scrolls.
    """
    assert page.locator(MADE).count() == 0
    assert page.locator("script").count() + page.locator("style").count() <= 4
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".whole thead .sort").evaluate_all(
        "all => all.every(one => one.scrollWidth <= one.parentElement.clientWidth)"
    )
    text = page.evaluate("document.documentElement.textContent")
    assert not set(text) & {*"\u202e\u2066\u2067\x00\x1b"}
    assert "49#{49}" not in text and "$49" not in text


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_hostile_records_stay_text(
    visit: Callable[..., Any], board: Path, width: int, height: int
) -> None:
    """The first screen, the matrix, and all that can be opened in place."""
    page = visit(width, height)
    _intact(page, width)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    for radio in page.locator(".switch").first.locator("input").all()[::6]:
        radio.check()
    for ask in page.locator("a.ask").all():
        ask.click()
    _intact(page, width)
    text = page.locator("body").inner_text()
    for payload in (PAYLOADS[0], PAYLOADS[9][:9], PAYLOADS[7]):
        assert payload in text


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_hostile_cells_and_methods_stay_text(
    visit: Callable[..., Any], board: Path, width: int, height: int
) -> None:
    """Their texts become elements only when they are opened."""
    page = visit(width, height)
    names = page.locator("dialog").evaluate_all("all => all.map(one => one.id)")
    assert len(names) > 20 and sum(name.startswith("method") for name in names) >= 5
    methods = [name for name in names if name.startswith("method")]
    for name in [*names[: -len(methods)][::4], *methods]:
        page.evaluate("name => { location.hash = name; }", name)
        page.wait_for_function(
            "name => document.querySelector('dialog[open]')?.id === name", arg=name
        )
        panel = page.locator("dialog[open]")
        panel.evaluate("one => one.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert panel.evaluate("one => one.scrollWidth <= one.clientWidth"), name
        assert panel.evaluate("one => one.getBoundingClientRect().right") <= width
        _intact(page, width)


def test_hostile_menus_filter_and_leave_an_address(visit: Callable[..., Any], board: Path) -> None:
    """What a reader sends on is read back as the same view, or as none."""
    page = visit()
    page.locator("select[data-filter=family]").select_option(PAYLOADS[1])
    again = visit(suffix="#" + page.url.partition("#")[2])
    assert again.locator("select[data-filter=family]").input_value() == PAYLOADS[1]
    assert again.locator(".whole thead .sort:visible").all_inner_texts()[1:] == [
        "no defense",
        "finetune",
    ]
    page.locator("#reset").click()
    for payload in PAYLOADS[::3]:
        page.locator("input[data-filter=text]").fill(payload[:300])
    _intact(page, 1400)


def test_a_hostile_run_that_goes_on_stays_text(visit: Callable[..., Any], folder: Path) -> None:
    run = read_runs(folder / "store")[0]
    same = ("testbed", "attack", "defense", "probe", "sampler", "seed", "seeds", "kind", "protocol")
    cells = [Cell(**{name: getattr(hostile(one), name) for name in same}) for _, one in run.records]
    board = build_live(
        folder / "store",
        folder / "live.html",
        written=1.8e9,
        every=900.0,
        done=3,
        left=9,
        seconds=60.0,
        coming=[(cell, 40.0) for cell in cells],
        running=PAYLOADS,
    )
    for width, height in WIDTHS:
        page = visit(width, height, board=board)
        page.locator("#coming > summary").click()
        _intact(page, width)


def test_a_hostile_site_stays_text(visit: Callable[..., Any], folder: Path) -> None:
    """The board's first page, the methods', the testbeds', and what a submission's words became."""
    docs = folder / "docs"
    docs.mkdir()
    (docs / "page.md").write_bytes("\n\n".join(("# T", *PAYLOADS)).encode("utf-8", "replace"))
    build_site(read_runs(folder / "store"), docs, folder / "site")
    testbeds = [path.name for path in sorted((folder / "site").glob("board-*.html"))]
    assert testbeds
    for name in ("index.html", "methods.html", "page.html", *testbeds):
        for width, height in WIDTHS:
            _intact(visit(width, height, board=folder / "site" / name), width)
