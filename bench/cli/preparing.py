"""Commands that bring in or make what runs need, and say what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.group import FAILED, cli
from bench.cli.options import json_option, store_option
from bench.cli.output import print_json


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="TESTBED...")
@click.option("--params", metavar="JSON", help="Parameters, such as where its files go.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and stop.")
@json_option
def fetch(names: Sequence[str], params: str | None, dry_run: bool, as_json: bool) -> None:
    """Download what a paper's testbed needs: data sets, weights at pinned commits, Inception's
    features. Each file is checked by its SHA-256; a pickle is converted by a process of its own
    that runs nothing of it. What is here already is left alone.

    Exits with 1 if something is still missing: what only a person can fetch, or what failed.

    \b
    castlewalls fetch cifar10-ddpm --dry-run
    castlewalls fetch cifar10-ddpm
    castlewalls fetch celebahq-ddpm --params '{"data": "/data/celebahq"}'
    """
    from bench import testbeds
    from bench.checking.reporting import parameters
    from bench.importing.fetching import Fetched, fetch

    def tell(result: Fetched) -> None:
        step = result.step
        size = f", {step.size / 1e6:,.0f} MB" if step.size else ""
        terms = f" ({step.terms})" if step.terms else ""
        click.echo(f"{result.state:<9} {step.what}{size} -> {step.target}{terms}", err=as_json)
        if result.detail:
            click.echo(f"          {result.detail}", err=as_json)

    beds = [testbeds.build(name, parameters(params)) for name in names]
    results = [one for bed in beds for one in fetch(bed, dry_run=dry_run, tell=tell)]
    if as_json:
        print_json([one.to_json() for one in results])
    elif not results:
        click.echo(f"{', '.join(names)}: nothing has to be fetched")
    left = [one for one in results if one.state in ("to fetch", "by hand", "failed")]
    sys.exit(FAILED if left else 0)


@cli.command("import")
@click.argument("model")
@click.option("--as", "what", type=click.Choice(["attack"]), required=True, help="What it becomes.")
@click.option("--testbed", default="", metavar="NAME", help="Whose networks its weights are of.")
@click.option("--params", metavar="JSON", help="Parameters of the testbed.")
@click.option("--card", "card_file", metavar="FILE", help="What is known of it (docs/import.md).")
@click.option("--name", metavar="NAME", help="Of the attack, in place of the card's.")
@click.option("--trigger-image", metavar="FILE", help="The trigger's picture.")
@click.option("--target-image", metavar="FILE", help="The target's picture.")
@click.option("--entry", default="", metavar="NAME", help="Which of the weights in a pickle.")
@click.option("--revision", metavar="COMMIT", help="Of a repository on the hub.")
@click.option(
    "--output", default=".", metavar="DIR", help="Where the folder is made.  [default: here]"
)
@json_option
def import_command(model: str, what: str, as_json: bool, **options: Any) -> None:
    """Make an attack of MODEL, weights with a backdoor that others have published: a folder or a
    file (diffusers, one safetensors, LoRA, or a pickle, which a process of its own opens without
    running it), or a repository of the hub.

    What its trigger and target are is read from a card, or from the name of a published model that
    is known. Writes a plugin, and a suite that puts it on the board beside the controls.

    \b
    castlewalls import backdoored/ --as attack --testbed digits-ddpm --card backdoored.yaml
    castlewalls import newsyctw/res_DDPM-CIFAR10-32_CIFAR10_ep50_c1.0_p0.9_SM_BOX_MED-BOX_new-set-1
        --as attack --revision COMMIT
    castlewalls import eviledit_trigger-beautifuldog_target-cat.pt --as attack
    """
    from bench.importing.command import import_attack

    made = import_attack(model, **options)
    plugin, suite = made.files[0], made.files[1]
    if as_json:
        print_json(
            {
                "plugin": str(plugin),
                "suite": str(suite),
                "layout": made.weights.layout,
                "networks": list(made.weights.parts),
                "left_out": made.weights.left_out,
            }
        )
        return
    for path in made.files:
        click.echo(str(path))
    click.echo(f"read {made.weights.layout}: {', '.join(made.weights.parts)}", err=True)
    for name in made.weights.left_out:
        click.echo(f"left out, since it is no tensor: {name}", err=True)
    click.echo(f"next: castlewalls run {suite} --plugin {plugin}", err=True)


@cli.command()
@click.argument("testbed")
@click.option("--output", required=True, metavar="DIR", help="Where the weights are written.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="[default: cpu, and for an evaluation classifier a GPU if there is one]",
)
def pretrain(testbed: str, output: str, device: str | None) -> None:
    """Train what TESTBED needs and nobody else publishes: shipped weights anew, or a paper
    testbed's evaluation classifier.

    \b
    castlewalls pretrain digits-ddpm --output bench/testbeds/assets
    castlewalls pretrain fashion-cfg --output bench/testbeds/assets --device cuda
    """
    from bench import testbeds
    from bench.diffusion.precision import exact_float32
    from bench.engine.progress import step_progress
    from bench.engine.slots import make_slots

    if device == "cuda":
        make_slots(device)  # or one line that says why not
        exact_float32()
    with step_progress(Console(stderr=True)) as progress:
        reached = testbeds.pretrain(testbed, Path(output), progress, device)
    for name, value in reached.items():
        click.echo(f"{name} {value:.4g}")
    click.echo(output)


@cli.command()
@store_option
@json_option
def doctor(store: str, as_json: bool) -> None:
    """Check this machine: packages, cores, memory, disk, GPUs, shipped files, and what the
    paper-scale testbeds still lack.

    Exits with 1 if something that every run needs is not right.

    \b
    castlewalls doctor
    castlewalls doctor --store /data/store --json
    """
    from bench.doctor import examine

    checks = examine(Path(store))
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{check.status:<8} {check.name:<22} {check.detail}")
    sys.exit(FAILED if any(check.status == "problem" for check in checks) else 0)
