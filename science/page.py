"""One science page: from the runs of its suites to Markdown and plots. What it holds stands under
``science/claims``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from bench.record import Run
from leaderboard.board import Entry, boards
from leaderboard.labels import label
from leaderboard.view import failures, overview, provenance
from science.findings import RULE, Claim, Part, difference_text, lines, region_text
from science.scene import Scene
from science.spec import PageSpec, Shared
from science.table import Section, markdown, md

COMMAND = "python -m science --records results --output docs"
PACKAGES = ("torch", "diffusers", "numpy")
NOT_RUN = "not run yet on this code"


def played(page: PageSpec, shared: Shared, runs: Sequence[Run]) -> list[Section]:
    """The page's sections, evaluated on the records of its suites."""
    by_suite = {run.suite: run for run in runs}
    cells = {suite: lines(by_suite.get(suite)) for suite in page.suites}
    return [Scene(spec, shared, cells).section() for spec in page.sections]


def render(
    page: PageSpec, shared: Shared, runs: Sequence[Run], present: Collection[str] = ()
) -> tuple[str, dict[str, str | bytes]]:
    """(the page, file name of a plot -> SVG or PNG). ``present``: existing files beside it that
    another script draws.
    """
    by_suite = {run.suite: run for run in runs if run.suite in page.suites}
    sections = played(page, shared, list(by_suite.values()))
    parts = [_top(page, by_suite), _overview(sections, by_suite)]
    parts += [_section(page, section, by_suite, present) for section in sections]
    parts.append(_problems(page, list(by_suite.values())))
    plots = {
        _file(stem, content): content for section in sections for stem, _, content in section.plots
    }
    return "\n\n".join(part for part in parts if part) + "\n", plots


def progress(run: Run | None) -> str:
    """:data:`NOT_RUN`, ``12 of 63 cells``, ``63 of 63 cells``, and what failed or was skipped; only
    measured cells count.
    """
    if run is None:
        return NOT_RUN
    statuses = [record.status for _, record in run.records]
    total = max(sum(run.counts.values()), len(statuses))
    wrong = [
        f"{statuses.count(status)} {status}"
        for status in ("failed", "skipped")
        if statuses.count(status)
    ]
    return ", ".join([f"{statuses.count('ok')} of {total} cells", *wrong])


def _file(stem: str, content: str | bytes) -> str:
    return f"{stem}.svg" if isinstance(content, str) else f"{stem}.png"


def _top(page: PageSpec, by_suite: Mapping[str, Run]) -> str:
    runs = [by_suite[suite] for suite in page.suites if suite in by_suite]
    overviews = [overview(run) for run in runs]
    known = dict(provenance(runs))
    testbeds = sorted({label(board.testbed) for run in runs for board in boards([run])})
    commits = sorted({commit for view in overviews for commit in view.commits})
    dirty = ", with local changes" if any(view.dirty for view in overviews) else ""
    packages = [
        f"{name} {', '.join(value for value, _ in known[f'packages.{name}'])}"
        for name in PACKAGES
        if f"packages.{name}" in known
    ]
    facts = [
        ("Testbeds", [md(name) for name in testbeds]),
        (
            "Seeds",
            [str(seed) for seed in sorted({seed for view in overviews for seed in view.seeds})],
        ),
        (
            "castlewalls",
            [
                md(version)
                for version in sorted({version for view in overviews for version in view.versions})
            ],
        ),
        ("Git commit", [f"{md(', '.join(commits))}{dirty}"] if commits else []),
        ("Packages", [md(package) for package in packages]),
        ("Device", [md(value) for key in ("device", "cpu") for value, _ in known.get(key, [])]),
    ]
    states = [
        (f"`{suite}`", md(run.description) if (run := by_suite.get(suite)) else "–", _state(run))
        for suite in page.suites
    ]
    return "\n".join(
        [
            f"# {page.title}",
            "",
            "Generated from the records of the suites below; do not edit. `make pages` writes it "
            "again from those under results/:",
            f"`{COMMAND}`; with `--store DIR` in place of `--records` from a store.",
            "",
            page.introduction,
            "",
            *(f"- {name}: {', '.join(values) or 'unknown'}" for name, values in facts),
            "",
            *markdown(("suite", "what it runs", "state"), states),
            "",
            f"**How verdicts are reached.** {RULE}",
            "",
            "Tables give the mean over the seeds and its 95 % interval: of a share for rates, "
            "Student's otherwise. " + page.reading,
        ]
    )


def _state(run: Run | None) -> str:
    """:func:`progress`, in bold if something is missing."""
    text = progress(run)
    done = (
        run is not None
        and sum(record.status == "ok" for _, record in run.records) >= sum(run.counts.values()) > 0
    )
    return text if done else f"**{text}**"


def _verdict_text(section: Section, claim: Claim, by_suite: Mapping[str, Run]) -> str:
    """The claim's verdict; where nothing of it was measured since a suite was not run, that."""
    measured = any(part.difference for part in claim.parts)
    if not measured and any(suite not in by_suite for suite in section.suites):
        return f"**{NOT_RUN}**"
    return claim.summary()


def _overview(sections: Sequence[Section], by_suite: Mapping[str, Run]) -> str:
    rows = [
        (_link(section.title), _words(claim), _verdict_text(section, claim, by_suite))
        for section in sections
        for claim in section.claims
    ]
    return "\n".join(["## All verdicts", "", *markdown(("section", "claim", "verdict"), rows)])


def _section(
    page: PageSpec, section: Section, by_suite: Mapping[str, Run], present: Collection[str]
) -> str:
    states = ", ".join(f"`{suite}` ({progress(by_suite.get(suite))})" for suite in section.suites)
    parts = [f"## {section.title}", "", f"**{page.lead}:** {section.paper}", "", f"From {states}."]
    if section.rows:
        parts += ["", *markdown(section.columns, section.rows)]
    for note in section.notes:
        parts += ["", note]
    for stem, title, content in section.plots:
        parts += ["", f"![{md(title)}]({page.name}/{_file(stem, content)})"]
    if section.plots and section.whiskers:
        parts += ["", "Whiskers are the 95 % t-intervals, cut at the frame."]
    for file, title in section.figures:
        parts += (
            ["", f"![{md(title)}]({page.name}/{file})"]
            if file in present
            else ["", f"Not drawn yet: {md(title)}."]
        )
    rows = [
        row
        for claim in section.claims
        for row in _claim(claim, _verdict_text(section, claim, by_suite))
    ]
    if rows:
        parts += [
            "",
            *markdown(("claim", "comparison", "claimed", "difference", "seeds", "verdict"), rows),
        ]
    return "\n".join(parts)


def _claim(claim: Claim, summary: str) -> list[tuple[str, ...]]:
    """One row if there is one comparison; else the claim with its verdict, ``summary``, and below
    it each comparison with its own.
    """
    if len(claim.parts) == 1:
        text, region, difference, count, verdict = _part(claim.parts[0], summary)
        return [(_words(claim), text, region, difference, count, verdict)]
    return [
        (
            _words(claim),
            "all of these" if claim.parts else "nothing measured",
            "",
            "",
            "",
            summary,
        )
    ] + [
        ("", *_part(part, _verdict(part, verdict)))
        for part, verdict in zip(claim.parts, claim.verdicts, strict=True)
    ]


def _words(claim: Claim) -> str:
    return f"{claim.text} (our question)" if claim.ours else claim.text


def _verdict(part: Part, verdict: str) -> str:
    """A comparison's verdict among others of its claim."""
    if verdict != part.verdict:
        return f"**{verdict}** (the opposite by itself, not corrected for the others)"
    return Claim("", (part,)).summary()


def _part(part: Part, verdict: str) -> tuple[str, ...]:
    difference = "–" if part.difference is None else difference_text(part.words, part.difference)
    count = str(part.difference.n) if part.difference else "0"
    note = f" ({part.note})" if part.note else ""
    return part.text, region_text(part.words, part.region), difference, count, f"{verdict}{note}"


def _problems(page: PageSpec, runs: Sequence[Run]) -> str:
    rows = [
        (
            f"`{run.suite}`",
            md(label(cell.attack)),
            md(label(cell.defense)),
            status,
            _seeds(entries),
            md(reason),
        )
        for run in sorted(runs, key=lambda run: page.suites.index(run.suite))
        for _, cell, status, reason, entries in failures(boards([run]))
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "## Cells without a result",
            "",
            *markdown(("suite", "attack", "defense", "status", "seeds", "reason"), rows),
        ]
    )


def _seeds(entries: Sequence[Entry]) -> str:
    return ", ".join(str(entry.record.seed) for entry in entries)


def _link(title: str) -> str:
    """A link to a heading, with GitHub's anchor."""
    anchor = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return f"[{title}](#{anchor.replace(' ', '-')})"
