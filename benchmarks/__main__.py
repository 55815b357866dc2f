"""``python -m benchmarks``: runs the benchmarks, prints a table, or one JSON document with
``--json``. ``python -m benchmarks gpu`` measures on a GPU, and ``python -m benchmarks cost``
calculates what a suite costs on one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

NAMES = ("share", "steps", "pruning", "resume", "board", "growth", "peers")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar=f"[{'|'.join(NAMES)}]...")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of torch; a run's workers have one.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Of every contender, in turn.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Training steps a repetition.",
)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--num-inference-steps",
    type=click.IntRange(1, 1000),
    help="Sampling steps.  [default: the testbed's]",
)
@click.option(
    "--suite",
    metavar="SUITE",
    help="resume, growth: a suite that is finished in --store, in place of their own.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="See --suite.",
)
@click.option("--quick", is_flag=True, help="peers: so little work that figures say nothing.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="peers: where the units are compared.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def main(
    names: Sequence[str], as_json: bool, suite: str | None, store: Path | None, **options: Any
) -> None:
    """Where the time goes. Without names, all of them. The goals are reported, not enforced: the
    exit code is 0 either way. On a GPU: python -m benchmarks gpu --help, and cost --help.

    \b
    python -m benchmarks
    python -m benchmarks steps --repetitions 9
    python -m benchmarks resume --suite digits --store store
    python -m benchmarks growth --suite poison --store store
    python -m benchmarks peers --batch-size 64 --repetitions 3
    python -m benchmarks peers --device cuda --batch-size 64 --repetitions 3
    """
    # Before torch is imported: as the engine does for its workers.
    os.environ.update(
        dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options["threads"])
        )
    )
    from bench.errors import UserError

    try:
        document = measure(names or NAMES, suite, store, **options)
    except UserError as error:
        click.echo(f"benchmarks: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        console = Console()
        show(document, console if console.is_terminal else Console(width=100))


def measure(
    names: Sequence[str], suite: str | None = None, store: Path | None = None, **options: Any
) -> dict[str, Any]:
    """The JSON document: ``settings``, ``machine``, and ``benchmarks`` as ``{name: [row, ...]}``.
    ``options``: fields of ``Settings``.
    """
    import torch

    from bench.engine.provenance import provenance
    from bench.engine.slots import available_cores
    from bench.errors import UserError
    from benchmarks.board import board
    from benchmarks.growth import growth
    from benchmarks.peers import peers
    from benchmarks.pruning import pruning
    from benchmarks.resume import resume
    from benchmarks.share import share
    from benchmarks.steps import steps
    from benchmarks.timing import Row, Settings

    settings = Settings(**options)
    if (suite is None) != (store is None):
        raise UserError(
            "--suite and --store go together: the rerun of a suite that is finished in that "
            "store is measured"
        )
    functions: dict[str, Callable[[Settings], list[Row]]] = {
        "share": share,
        "steps": steps,
        "pruning": pruning,
        "resume": lambda chosen: resume(chosen, suite, store),
        "board": board,
        "growth": lambda chosen: growth(chosen, suite, store),
        "peers": peers,
    }
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        rows = {
            name: [row.as_json() for row in functions[name](settings)]
            for name in NAMES
            if name in names
        }
    finally:
        torch.set_num_threads(before)
    # A busy machine makes every figure worse; whoever reads them should see that it was one.
    machine = {**provenance(), "cores": available_cores(), "load_average": os.getloadavg()[0]}
    return {"settings": vars(settings), "machine": machine, "benchmarks": rows}


def show(document: dict[str, Any], console: Console) -> None:
    """The document as a table."""
    machine, settings = document["machine"], document["settings"]
    table = Table(box=box.SIMPLE, pad_edge=False, caption_justify="left")
    for title in ("quantity", "median", "min to max", "unit", "goal"):
        table.add_column(
            title, justify="right" if title in ("median", "min to max") else "left", no_wrap=True
        )
    for rows in document["benchmarks"].values():
        for row in rows:
            goal = (
                ""
                if row["goal"] is None
                else f"{_sign(row)} {row['goal']:g}: {'yes' if row['reached'] else 'no'}"
            )
            spread = f"{_short(row['min'])} to {_short(row['max'])}"
            table.add_row(row["quantity"], _short(row["median"]), spread, row["unit"], goal)
        table.add_section()
    table.caption = (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:.1f}; torch "
        f"{machine['packages']['torch']}, "
        f"{settings['threads']} thread(s), batch size {settings['batch_size']}, "
        f"{settings['repetitions']} repetitions"
    )
    console.print(table)


def _sign(row: dict[str, Any]) -> str:
    return ">=" if row["goal_is"] == "at least" else "<="


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def entry(arguments: Sequence[str]) -> None:
    """``cost`` and ``gpu`` are commands of their own, with other arguments."""
    if arguments[:1] == ["cost"]:
        from benchmarks.cost import main as cost

        cost(arguments[1:], prog_name="python -m benchmarks cost")
    elif arguments[:1] == ["gpu"]:
        from benchmarks.gpu import main as gpu

        gpu(arguments[1:], prog_name="python -m benchmarks gpu")
    else:
        main(arguments, prog_name="python -m benchmarks")


if __name__ == "__main__":
    entry(sys.argv[1:])
