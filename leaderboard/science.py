"""``python -m leaderboard.science --store DIR --output FILE``: the paper's claims against the shipped science suites, as Markdown.

A pure function of the records: the same store gives the same bytes. Plots are SVG files in a folder beside the page.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from bench.engine.record import Run, read_runs
from bench.errors import UserError
from leaderboard import _science_attack, _science_defense
from leaderboard._findings import RULE, Claim, Part, difference_text, lines, region_text
from leaderboard._science_table import Found, Section, md
from leaderboard.board import Entry, boards, label
from leaderboard.view import failures, overview, provenance

SUITES = (
    "science-rates",
    "science-schemes",
    "digits",
    "science-longer",
    "science-samplers",
    "science-triggers",
    "science-anp",
)
#: Everything a page may have beside it: what a new page does not draw is removed.
PLOTS = ("rates-mse", "rates-asr", "rates-fid", "triggers-mse", "anp")
PACKAGES = ("torch", "diffusers", "numpy")


def sections(found: Found) -> list[Section]:
    """In the page's order. ``found``: suite -> its cells, empty for a suite that was not run."""
    attack, defense = _science_attack, _science_defense
    return [
        attack.rates(found),
        attack.schemes(found),
        defense.clipping(found),
        attack.samplers(found),
        attack.sizes(found),
        defense.anp(found),
        defense.longer(found),
    ]


def render(runs: Sequence[Run], folder: str = "science") -> tuple[str, dict[str, str]]:
    """(the page, plot's file name -> SVG). ``folder``: where the page links its plots to."""
    by_suite = {run.suite: run for run in runs if run.suite in SUITES}
    shown = sections({suite: lines(by_suite.get(suite)) for suite in SUITES})
    parts = [_top(by_suite), _overview(shown)]
    parts += [_section(section, by_suite, folder) for section in shown]
    parts.append(_problems(list(by_suite.values())))
    plots = {f"{stem}.svg": svg for section in shown for stem, _, svg in section.plots}
    return "\n\n".join(part for part in parts if part) + "\n", plots


def build(store: Path, output: Path) -> Path:
    """Writes the page and, in a folder named like it, its plots; removes plots it no longer draws. Raises ``UserError`` for a
    store without runs or a place that cannot be written."""
    if not (store / "runs").is_dir():
        raise UserError(f"{store} holds no runs yet; `castlewalls run science-rates --store {store}` makes the first")
    page, plots = render(read_runs(store), output.stem)
    folder = output.parent / output.stem
    if folder == output:
        raise UserError(f"the page needs a suffix such as .md, since its plots go into the folder {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in PLOTS:
            if f"{name}.svg" not in plots:
                (folder / f"{name}.svg").unlink(missing_ok=True)
        for name, svg in plots.items():
            (folder / name).write_text(svg, encoding="utf-8", newline="\n")
        output.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"cannot write the page to {output}: {error.strerror}") from error
    return output


def progress(run: Run | None) -> str:
    """``not run``, ``12 of 63 cells``, ``63 of 63 cells``, and what failed or was skipped; only measured cells count."""
    if run is None:
        return "not run"
    statuses = [record.status for _, record in run.records]
    total = max(sum(run.counts.values()), len(statuses))
    wrong = [f"{statuses.count(status)} {status}" for status in ("failed", "skipped") if statuses.count(status)]
    return ", ".join([f"{statuses.count('ok')} of {total} cells", *wrong])


def _top(by_suite: Mapping[str, Run]) -> str:
    runs = [by_suite[suite] for suite in SUITES if suite in by_suite]
    seen = [overview(run) for run in runs]
    known = dict(provenance(runs))
    testbeds = sorted({label(board.testbed) for run in runs for board in boards([run])})
    commits = sorted({commit for view in seen for commit in view.commits})
    dirty = ", with local changes" if any(view.dirty for view in seen) else ""
    packages = [
        f"{name} {', '.join(value for value, _ in known[f'packages.{name}'])}"
        for name in PACKAGES
        if f"packages.{name}" in known
    ]
    facts = [
        ("Testbeds", [md(name) for name in testbeds]),
        ("Seeds", [str(seed) for seed in sorted({seed for view in seen for seed in view.seeds})]),
        ("castlewalls", [md(version) for version in sorted({version for view in seen for version in view.versions})]),
        ("Git commit", [f"{md(', '.join(commits))}{dirty}"] if commits else []),
        ("Packages", [md(package) for package in packages]),
        ("Device", [md(value) for key in ("device", "cpu") for value, _ in known.get(key, [])]),
    ]
    return "\n".join(
        [
            "# BadDiffusion's claims, at a small scale",
            "",
            "Generated by `make science` from the records of the suites below; do not edit. To write it again from a store:",
            "`python -m leaderboard.science --store DIR --output docs/science.md`.",
            "",
            "The paper is Chou, Chen, Ho: *How to Backdoor Diffusion Models?*, CVPR 2023, arXiv 2212.05400. Its experiments are on",
            "CIFAR-10 and CelebA-HQ with 10,000 samples; these run on a small embedded testbed. A claim that shows here holds *here*;",
            "one that does not is no refutation of the paper. FIDs are in the features of the testbed's own extractor: compare them",
            "on this page only.",
            "",
            *(f"- {name}: {', '.join(values) or 'unknown'}" for name, values in facts),
            "",
            *_table(
                ("suite", "what it runs", "state"),
                [(f"`{suite}`", md(run.description) if (run := by_suite.get(suite)) else "–", _state(run)) for suite in SUITES],
            ),
            "",
            f"**How verdicts are reached.** {RULE}",
            "",
            "Tables give the mean over the seeds and its 95 % t-interval, not cut at a metric's ends (so an ASR's may leave 0 to 1). "
            "`[noise]`: samples drawn from noise plus trigger, the paper's invocation; `[image]`: from noise plus an image that carries "
            "the trigger; `[clean]`: from clean noise, the control. MSE is to the target, pixels in 0 to 1; ASR counts samples closer "
            "to the target than clean data or a flat image is.",
        ]
    )


def _state(run: Run | None) -> str:
    """:func:`progress`, in bold where something is missing."""
    text = progress(run)
    done = run is not None and sum(record.status == "ok" for _, record in run.records) >= sum(run.counts.values()) > 0
    return text if done else f"**{text}**"


def _overview(shown: Sequence[Section]) -> str:
    rows = [(_link(section.title), _words(claim), claim.summary()) for section in shown for claim in section.claims]
    return "\n".join(["## All verdicts", "", *_table(("section", "claim", "verdict"), rows)])


def _section(section: Section, by_suite: Mapping[str, Run], folder: str) -> str:
    states = ", ".join(f"`{suite}` ({progress(by_suite.get(suite))})" for suite in section.suites)
    parts = [f"## {section.title}", "", f"**The paper:** {section.paper}", "", f"From {states}."]
    if section.rows:
        parts += ["", *_table(section.columns, section.rows)]
    for note in section.notes:
        parts += ["", note]
    for stem, title, _ in section.plots:
        parts += ["", f"![{md(title)}]({folder}/{stem}.svg)"]
    if section.plots:
        parts += ["", "Whiskers are the 95 % t-intervals, cut at the frame."]
    rows = [row for claim in section.claims for row in _claim(claim)]
    parts += ["", *_table(("claim", "comparison", "claimed", "difference", "seeds", "verdict"), rows)]
    return "\n".join(parts)


def _claim(claim: Claim) -> list[tuple[str, ...]]:
    """One row if there is one comparison; else the claim with its verdict, and below it each comparison with its own."""
    if len(claim.parts) == 1:
        text, region, difference, count, verdict = _part(claim.parts[0])
        return [(_words(claim), text, region, difference, count, verdict)]
    return [(_words(claim), "all of these" if claim.parts else "nothing measured", "", "", "", claim.summary())] + [
        ("", *_part(part)) for part in claim.parts
    ]


def _words(claim: Claim) -> str:
    return f"{claim.text} (our question)" if claim.ours else claim.text


def _part(part: Part) -> tuple[str, ...]:
    difference = "–" if part.difference is None else difference_text(part.metric, part.difference)
    count = str(part.difference.n) if part.difference else "0"
    note = f" ({part.note})" if part.note else ""
    return part.text, region_text(part.metric, part.region), difference, count, f"{Claim('', (part,)).summary()}{note}"


def _problems(runs: Sequence[Run]) -> str:
    rows = [
        (f"`{run.suite}`", md(label(cell.attack)), md(label(cell.defense)), status, _seeds(entries), md(reason))
        for run in sorted(runs, key=lambda run: SUITES.index(run.suite))
        for _, cell, status, reason, entries in failures(boards([run]))
    ]
    if not rows:
        return ""
    return "\n".join(
        ["## Cells without a result", "", *_table(("suite", "attack", "defense", "status", "seeds", "reason"), rows)]
    )


def _seeds(entries: Sequence[Entry]) -> str:
    return ", ".join(str(entry.record.seed) for entry in entries)


def _link(title: str) -> str:
    """To a heading, as GitHub names it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return f"[{title}](#{kept.replace(' ', '-')})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


@click.command()
@click.option(
    "--store", default="store", show_default=True, metavar="DIR", type=click.Path(path_type=Path), help="Where the runs are."
)
@click.option(
    "--output", default="docs/science.md", show_default=True, metavar="FILE", type=click.Path(path_type=Path), help="The page."
)
def main(store: Path, output: Path) -> None:
    """Hold the paper's claims against the runs in a store, as a Markdown page with plots."""
    try:
        click.echo(str(build(store, output)))
    except UserError as error:
        click.echo(f"leaderboard.science: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
