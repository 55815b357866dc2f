"""``python -m science --store DIR``: the papers' claims against the shipped science suites, as
Markdown pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.errors import UserError
from science.pages import PAGES, build


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
def main(store: Path, output: Path, chosen: tuple[str, ...]) -> None:
    """Hold the papers' claims against the runs in a store, as Markdown pages with plots."""
    try:
        for file in build(
            store, output, [page for page in PAGES if not chosen or page.name in chosen]
        ):
            click.echo(str(file))
    except UserError as error:
        click.echo(f"science: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
