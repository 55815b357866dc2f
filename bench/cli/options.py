"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from bench.errors import UserError

#: In place of a number of GB.
DECLARED = "declared"
F = Callable[..., Any]


def split(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Names with commas between."""
    return None if value is None else [item.strip() for item in value.split(",") if item.strip()]


def split_seeds(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> list[int] | None:
    """Whole numbers with commas between; raises :class:`UserError` for others."""
    try:
        return None if value is None else [int(item) for item in value.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds must be whole numbers with commas between, got {value!r}"
        ) from None


def gigabytes(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | str | None:
    """A number, or :data:`DECLARED`; raises :class:`UserError` for others."""
    if value is None or value == DECLARED:
        return value
    try:
        return float(value)
    except ValueError:
        raise UserError(
            f"--gpu-memory must be a number of GB, or {DECLARED}, got {value!r}"
        ) from None


def several(*options: F) -> Callable[[F], F]:
    """One decorator of several options, in the order in which ``--help`` has them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


store_option = click.option(
    "--store", default="store", show_default=True, metavar="DIR", help="Where results are kept."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output, for scripts."
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="A file with more plugins; repeatable.",
)
#: Which cells of a suite, and with what of this machine.
choosing = several(
    click.option(
        "--seeds",
        callback=split_seeds,
        metavar="0,1",
        help="Only these seeds, in place of the suite's.",
    ),
    click.option(
        "--attacks",
        callback=split,
        metavar="A,B",
        help="Only these of the suite's attacks (controls stay).",
    ),
    click.option(
        "--defenses",
        callback=split,
        metavar="C,D",
        help="Only these of the suite's defenses (controls stay).",
    ),
    click.option(
        "--detectors", callback=split, metavar="E,F", help="Only these of the suite's detectors."
    ),
    click.option(
        "--samplers",
        callback=split,
        metavar="G,H",
        help="Only these of the suite's samplers, or these in place of the testbed's own.",
    ),
    click.option(
        "--sealed",
        metavar="FILE",
        help="Draw seeds and triggers from this secret (castlewalls seal).",
    ),
    click.option(
        "--cells",
        callback=split,
        metavar="CODE",
        help="Only these cells; a cell on the board has the command with its code.",
    ),
    click.option("--limit", type=int, metavar="N", help="Only the first N cells."),
    click.option(
        "--jobs",
        type=int,
        metavar="N",
        help="Stages at one time (default: one per core, or per GPU).",
    ),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    click.option(
        "--gpus-per-stage",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="GPUs that train one model.",
    ),
    click.option(
        "--gpu-memory",
        callback=gigabytes,
        metavar="GB",
        help="What a stage takes of a GPU's memory, or 'declared', what its testbed says it does: "
        "as many run on each as fit (default: one).",
    ),
    plugin_option,
    store_option,
    json_option,
)
