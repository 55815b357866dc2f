"""Commands about plugins: which there are, what one is, a new one, and whether it is right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from bench.checking.limits import MEMORY_MB, SECONDS
from bench.cli.group import FAILED, cli
from bench.cli.options import json_option, plugin_option, several
from bench.cli.output import print_json, screen
from bench.scaffold.sorts import SORTS
from bench.text import plain


@cli.command("list")
@click.argument(
    "what",
    type=click.Choice(["attacks", "defenses", "detectors", "samplers", "testbeds", "suites"]),
    required=False,
)
@plugin_option
@json_option
def list_command(what: str | None, plugins: Sequence[str], as_json: bool) -> None:
    """List attacks, defenses, detectors, samplers, testbeds or suites; all of them without an
    argument.

    \b
    castlewalls list
    castlewalls list defenses --plugin my_defense.py
    castlewalls list suites --json
    """
    from bench.catalogue import catalogue

    summaries = catalogue(plugins, what)
    if as_json:
        print_json(summaries)
        return
    width = max((len(name) for entries in summaries.values() for name in entries), default=0)
    for group, entries in summaries.items():
        if what is None:
            click.echo(f"{group}:")
        for name, text in entries.items():
            click.echo(plain(f"  {name:<{width}} {text}"))


@cli.command()
@click.argument("name")
@plugin_option
@json_option
def show(name: str, plugins: Sequence[str], as_json: bool) -> None:
    """Show what NAME is (a plugin, sampler, testbed or suite): its declaration, parameters with
    defaults, and paper.

    \b
    castlewalls show baddiffusion
    castlewalls show digits-ddpm --json
    """
    from bench.catalogue import describe, print_description

    descriptions = describe(name, plugins)
    if as_json:
        print_json(descriptions)
    else:
        print_description(descriptions, screen())


@cli.group()
def new() -> None:
    """Write a plugin to start from, which passes `castlewalls check` as it is written: a folder
    that can be installed, or with --single-file one file for --plugin.

    \b
    castlewalls new defense clip_more --family sampler
    castlewalls new detector long_words --subject prompts --output ~/plugins
    castlewalls new attack white_square --family training --single-file
    """


_new_options = several(
    click.argument("name"),
    click.option(
        "--output", default=".", metavar="DIR", help="Where the folder is made.  [default: here]"
    ),
    click.option("--single-file", is_flag=True, help="One file, NAME.py, and nothing else."),
)


@new.command("attack")
@_new_options
@click.option("--family", type=click.Choice([*SORTS["attack"]]), required=True)
def new_attack(name: str, family: str, output: str, single_file: bool) -> None:
    """Write an attack: on the training (its data or its loss), or on the weights of a trained
    model.

    \b
    castlewalls new attack white_square --family training
    castlewalls new attack last_layer --family editing --single-file
    """
    _write_new("attack", name, family, output, single_file)


@new.command("defense")
@_new_options
@click.option(
    "--family",
    type=click.Choice([*SORTS["defense"]]),
    required=True,
    help="What it replaces; an inversion recovers the backdoor and replaces nothing.",
)
def new_defense(name: str, family: str, output: str, single_file: bool) -> None:
    """Write a defense.

    \b
    castlewalls new defense clip_more --family sampler
    castlewalls new defense brief_tuning --family model --output ~/plugins
    """
    _write_new("defense", name, family, output, single_file)


@new.command("detector")
@_new_options
@click.option(
    "--subject",
    type=click.Choice([*SORTS["detector"]]),
    required=True,
    help="What it judges; samples: training rows and generated images.",
)
def new_detector(name: str, subject: str, output: str, single_file: bool) -> None:
    """Write a detector.

    \b
    castlewalls new detector far_away --subject samples
    castlewalls new detector long_words --subject prompts --single-file
    """
    _write_new("detector", name, subject, output, single_file)


def _write_new(singular: Any, name: str, sort: str, output: str, single_file: bool) -> None:
    from bench.cards import read_cards
    from bench.registry import GROUPS
    from bench.scaffold.new import check_name, write
    from bench.testbeds.data.images import expanded

    check_name(name, ())  # before the registry is built, which takes seconds
    registry = read_cards()
    taken = [one for group in GROUPS for one in registry.names(group)]
    written = write(singular, name, sort, expanded(output), single_file=single_file, taken=taken)
    for path in written:
        click.echo(str(path))
    click.echo(f"next: castlewalls check {written[0]}", err=True)


@cli.command()
@click.argument("name_or_file", metavar="NAME_OR_FILE")
@click.option("--params", metavar="JSON", help="Parameters in place of the defaults.")
@click.option(
    "--timeout",
    type=float,
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="The whole check must end in this time.",
)
@click.option(
    "--memory",
    type=int,
    default=MEMORY_MB,
    show_default=True,
    metavar="MB",
    help="What the plugin's process may take.",
)
@json_option
def check(
    name_or_file: str, params: str | None, timeout: float, memory: int, as_json: bool
) -> None:
    """Check a plugin in less than a minute: a name, a file, or a folder that `castlewalls new`
    wrote.

    Whether it keeps its contract (same seed, same result; rows by themselves; inputs as they were;
    nothing read that is not declared; nothing global moved), and what it does to a backdoor in a
    tiny model. It runs in a process of its own, with limits. Exits with 1 if a check failed.

    \b
    castlewalls check clip_more/
    castlewalls check my_defense.py --params '{"strength": 0.5}'
    castlewalls check strip --json
    """
    from bench.checking.process import check as run_check
    from bench.checking.reporting import parameters, show_plugin, show_report, show_verdict

    silent: dict[str, Any] = {}
    spoken = {"on_plugin": show_plugin, "on_verdict": show_verdict}
    report = run_check(
        name_or_file,
        parameters(params),
        seconds=timeout,
        memory_mb=memory,
        **(silent if as_json else spoken),
    )
    if as_json:
        print_json(report.to_json())
    else:
        show_report(report)
    sys.exit(0 if report.passed else FAILED)
