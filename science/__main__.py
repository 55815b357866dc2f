"""``python -m science --records results``: the papers' claims against the shipped science suites,
as Markdown pages; with ``--store DIR`` from a store.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.errors import UserError
from bench.results import Submitted, read_source
from science.pages import PAGES, build, stale, write


@click.command()
@click.option(
    "--store",
    default="store",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the runs are.",
)
@click.option(
    "--records",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Results in place of a store: a folder that `castlewalls export` wrote.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; say which files are not as the records would make them now.",
)
@click.option(
    "--output",
    default="docs",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the pages and their folders of plots go.",
)
@click.option(
    "--page",
    "chosen",
    multiple=True,
    type=click.Choice([page.name for page in PAGES]),
    help="Only this page; may be repeated. By default all of them.",
)
def main(
    store: Path, records: Path | None, check: bool, output: Path, chosen: tuple[str, ...]
) -> None:
    """Hold the papers' claims against the runs in a store, or in results, as Markdown pages with
    plots.
    """
    pages = [page for page in PAGES if not chosen or page.name in chosen]
    try:
        if records is None and not check:
            files = build(store, output, pages)
        else:
            read = read_source(store if records is None else records)
            # The pages are of what was measured here, whoever else's bundles results may hold.
            runs = [run for run in read if not isinstance(run, Submitted)]
            for problem in (problem for run in runs for problem in run.problems):
                click.echo(f"science: warning: {problem}", err=True)
            if check:
                _tell(stale(runs, output, pages))
                return
            files = write(runs, output, pages)
    except UserError as error:
        click.echo(f"science: {error}", err=True)
        sys.exit(2)
    for file in files:
        click.echo(str(file))


def _tell(lines: list[str]) -> None:
    for line in lines:
        click.echo(f"science: {line}; `make pages` writes it again", err=True)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
