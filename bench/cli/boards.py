"""Commands that write or compare boards, of a store, of published results, of bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bench.cli.group import cli
from bench.cli.options import json_option, split, store_option
from bench.cli.output import print_json
from bench.errors import UserError
from bench.text import one_line, plain


@cli.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@store_option
@click.option("--published", is_flag=True, help="The results that come with castlewalls.")
@click.option(
    "--output",
    metavar="FILE",
    help="The HTML file.  [default: report.html in the store, or here if there are other sources]",
)
@click.option(
    "--statement",
    "statements",
    multiple=True,
    metavar="FILE",
    help="What `verify --rerun` wrote, by somebody you trust: raises its bundle to level 3.",
)
@click.option("--key", metavar="FILE", help="The public key that must have signed the statements.")
@click.pass_context
def report(
    ctx: click.Context,
    sources: Sequence[str],
    store: str,
    published: bool,
    output: str | None,
    statements: Sequence[str],
    key: str | None,
) -> None:
    """Write the HTML board of everything in a store, and print its path; or of every SOURCE, a
    store, a folder of results or a bundle, on one board.

    Of two sources that hold one cell, the one named first is shown, after --published, and bundles
    last; if their numbers differ, the board says so. Other protocols stand apart. Bundles are
    verified first, without importing a plugin: the board shows the level of each, and none of what
    is refused.

    \b
    castlewalls report
    castlewalls report --published
    castlewalls report results/ /data/store --output board.html
    castlewalls report --published mine-digits --statement mine-digits.svr-0123456789ab.json
    """
    from bench.results import published as published_results
    from bench.results import read_results

    paths = [published_results()] if published else []
    if published and not any(read_results(paths[0])):
        raise UserError(
            "no results come with this castlewalls yet; `castlewalls run SUITE` makes your own"
        )
    paths += [Path(source) for source in sources]
    named = ctx.get_parameter_source("store") is not ParameterSource.DEFAULT
    if not paths or named:
        paths.append(Path(store))
    if paths == [Path(store)] and not paths[0].is_dir():
        raise UserError(f"there is no store at {store}")
    alone = len(paths) == 1 and (paths[0] / "runs").is_dir()
    default = paths[0] / "report.html" if alone else Path("report.html")
    levels = _levels(paths, statements, key)
    click.echo(str(write_board(paths, default if output is None else Path(output), levels)))


def _levels(
    paths: Sequence[Path], statements: Sequence[str], key: str | None
) -> dict[Path, int | str]:
    from bench.results import SUBMISSIONS, bundles_in, published

    bundles = [bundle for path in paths for bundle in bundles_in(path)]
    if not bundles:
        if statements:
            raise UserError("--statement is about a bundle, and none of the sources has one")
        return {}
    from bench.bundle.levels import levels_of

    public = None if key is None else Path(key)
    accepted = published() / SUBMISSIONS
    return levels_of(bundles, [Path(one) for one in statements], public, accepted)


@cli.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--output", default="site", show_default=True, metavar="DIR", help="Where it goes.")
@click.option(
    "--docs",
    metavar="DIR",
    help="Markdown files, each a page.  [default: docs/ of this checkout]",
)
def site(sources: Sequence[str], output: str, docs: str | None) -> None:
    """Write a static site: the board of the results that come with castlewalls, or of every SOURCE,
    its methods, and a page for each Markdown file.

    Each testbed with its cells has a page of its own; the records are beside them, as
    board.csv.zip and board.json.zip. Every page is one file that loads nothing. The same results
    give the same bytes.

    \b
    castlewalls site
    castlewalls site results/ bundle/ --output public
    """
    from bench.results import published
    from leaderboard.site import build_site

    default = published().parent / "docs"
    folder = Path(docs) if docs is not None else default if default.is_dir() else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"--docs {docs}: there is no such folder")
    paths = [Path(source) for source in sources] or [published()]
    made = build_site(read_runs(paths, _levels(paths, (), None)), folder, Path(output))
    for path in made:
        click.echo(str(path))
    for path in sorted({*Path(output).glob("board-*.html")} - {*made}):
        text = f"{path} is of another site: no page leads to it"
        click.echo(f"castlewalls: warning: {plain(text)}", err=True)


def read_runs(sources: Sequence[Path], levels: dict[Path, int | str] | None = None) -> list[Any]:
    """The runs of all sources; what is wrong with them goes to standard error."""
    from leaderboard.sources import read_sources

    runs = read_sources(sources, levels)
    for problem in (problem for run in runs for problem in run.problems):
        click.echo(f"castlewalls: warning: {problem}", err=True)
    return runs


def write_board(
    sources: Sequence[Path], output: Path, levels: dict[Path, int | str] | None = None
) -> Path:
    """The path of the board of ``sources``, which is written to ``output``. Raises
    :class:`UserError` if it cannot be.
    """
    from leaderboard.report import build

    try:
        return build(read_runs(sources, levels), output)
    except OSError as error:
        raise UserError(
            f"the board cannot be written: {error.strerror or error} ({error.filename})"
        ) from error


@cli.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--within", metavar="SOURCE", help="Where A and B are entries of.  [default: published results]"
)
@click.option("--metrics", callback=split, metavar="M,N", help="In place of those ranked by.")
@click.option("--across-protocols", is_flag=True, help="Compare what was measured otherwise, too.")
@json_option
def compare(
    first: str,
    second: str,
    within: str | None,
    metrics: list[str] | None,
    across_protocols: bool,
    as_json: bool,
) -> None:
    """Compare B with A: paired differences of every cell that both have, with their intervals.

    A and B are stores, folders of results, or a board's JSON; SOURCE::ENTRY is one defense or
    detector of it, and of two entries each attack is compared that both met. A line begins with +
    where B is better for the defender beyond doubt, with - where it is worse, else with =.

    \b
    castlewalls compare results/ store
    castlewalls compare old/report.json store/report.json --json
    castlewalls compare clip_x0 clip_xt --metrics robust_asr,fid
    castlewalls compare results/::clip_x0 store::my_defense
    """
    from bench.results import published
    from leaderboard.compare import compare as compare_sides
    from leaderboard.compare import lines, read_side
    from leaderboard.sources import read_sources

    entries = [one for one in (first, second) if "::" not in one and not Path(one).exists()]
    # What is odd about the published results is no news to who compares two of their entries.
    read = read_sources if within is None else read_runs
    runs = read([published() if within is None else Path(within)]) if entries else []
    comparison = compare_sides(
        read_side(first, runs), read_side(second, runs), metrics or (), across_protocols
    )
    for line in comparison.problems:
        click.echo(f"castlewalls: {plain(one_line(line, 600))}", err=True)
    if as_json:
        print_json(comparison.to_json())
    else:
        for line in lines(comparison):
            click.echo(plain(line))


@cli.command()
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option(
    "--output",
    metavar="DIR",
    help="Where it goes.  [default: results, or the format's name]",
)
@click.option("--partial", is_flag=True, help="Also if cells are missing or failed.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["results", "every-eval-ever", "hf", "latex", "markdown", "bibtex"]),
    default="results",
    show_default=True,
    help="What is written; all but the first also from a folder of results (--store results).",
)
@click.option("--dataset", default="", metavar="OWNER/NAME", help="Of hf: the hub's data set.")
@store_option
@json_option
def export(
    suites: Sequence[str],
    output: str | None,
    partial: bool,
    form: str,
    dataset: str,
    store: str,
    as_json: bool,
) -> None:
    """Write the results of SUITE, text of up to a megabyte to commit, send or show with
    `report`; without SUITE, of all complete runs in the store. Or, with --format, the board's
    numbers for others: records of Every Eval Ever, Hugging Face's evaluation results, tables for a
    paper, BibTeX.

    The same store gives the same bytes. Pictures but a few stay in the store.

    \b
    castlewalls export digits
    castlewalls export digits --store /data/store --output results
    castlewalls export --format latex --store results --output tables
    castlewalls export --format hf --dataset me/castlewalls --store results
    """
    if form != "results":
        _export_to(form, suites, Path(store), Path(output or form), dataset, as_json)
        return
    from bench.export import export as write_results
    from bench.export import finished_suites

    chosen, left = (
        (list(dict.fromkeys(suites)), {}) if suites else finished_suites(Path(store), partial)
    )
    done = []
    for suite in chosen:
        one = write_results(Path(store), suite, Path(output or "results"), partial=partial)
        done.append(one)
        if not as_json:
            under = ", ".join(f"{testbed} {protocol}" for testbed, protocol in one.protocols)
            before = f"; in place of {one.replaced}" if one.replaced else ""
            click.echo(
                f"{one.folder}: {one.records} records, {one.size / 1000:.0f} kB, protocol of "
                f"{under or 'none'}{before}"
            )
    for suite, why in left.items():
        click.echo(f"castlewalls: {suite} is left out: {why}", err=True)
    if as_json:
        print_json([{**vars(one), "folder": str(one.folder)} for one in done])


def _export_to(
    form: str, suites: Sequence[str], source: Path, output: Path, dataset: str, as_json: bool
) -> None:
    from leaderboard.exchange import write_format

    written = write_format(form, read_runs([source]), suites, output, dataset)
    if as_json:
        print_json([str(path) for path in written])
    else:
        click.echo(f"{output}: {len(written)} file{'s' if len(written) != 1 else ''}")
