"""Commands for who submits a defense, who verifies it, and who sets sealed tests."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.group import FAILED, cli, interrupt
from bench.cli.options import json_option, plugin_option, store_option
from bench.cli.output import print_json
from bench.errors import UserError
from bench.text import plain


@cli.command()
@click.argument("name")
@click.option("--suite", required=True, metavar="SUITE", help="A shipped suite's name, or a file.")
@store_option
@plugin_option
@click.option(
    "--output", metavar="DIR", help="The bundle's folder, which must be new.  [default: NAME-SUITE]"
)
@click.option(
    "--author",
    "authors",
    multiple=True,
    metavar="NAME",
    help="Name, Name <mail> or Name (ORCID); repeatable.",
)
@click.option("--licence", default="", metavar="SPDX", help="Of the bundle, such as Apache-2.0.")
@click.option(
    "--paper", default="", metavar="TEXT", help="An address, a DOI or a title [default: the card's]"
)
@click.option(
    "--allow-incomplete", is_flag=True, help="Also if cells failed or are missing, or card texts."
)
@click.option("--allow-dirty", is_flag=True, help="Also if no git commit holds the code that ran.")
@click.option("--sign", metavar="FILE", help="Sign it with this private key (Ed25519, PEM).")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@json_option
def submit(
    name: str,
    suite: str,
    store: str,
    plugins: Sequence[str],
    output: str | None,
    allow_incomplete: bool,
    allow_dirty: bool,
    sign: str | None,
    dry_run: bool,
    as_json: bool,
    **description: Any,
) -> None:
    """Write the bundle of NAME, a defense, an inversion or a detector: its column of SUITE out of a
    store, with the controls, the plugin's source and witnesses of the numbers.

    Nothing is run. The same store gives the same bytes.

    \b
    castlewalls submit my_defense --suite digits --plugin my_defense.py --author "Ada L." \\
        --licence Apache-2.0
    """
    from bench.bundle.crate import Description
    from bench.bundle.submit import submit as write_bundle

    made = write_bundle(
        name,
        suite,
        Path(store),
        plugins=plugins,
        output=None if output is None else Path(output),
        description=Description(**description),
        incomplete=allow_incomplete,
        dirty=allow_dirty,
        dry_run=dry_run,
        sign=None if sign is None else Path(sign),
    )
    if as_json:
        print_json({**vars(made), "folder": str(made.folder)})
        return
    cells = ", ".join(f"{count} {status}" for status, count in made.cells.items() if count)
    verb = "would be" if dry_run else "is"
    lacks = f", {made.missing} missing" if made.missing else ""
    click.echo(f"{made.folder} {verb} {made.size / 1e6:.1f} MB: {cells} cells{lacks}")
    if not dry_run:
        click.echo(f"manifest {made.sha256}")
        if made.signature:
            click.echo(f"signature {made.signature}")


@cli.command()
@click.argument("bundle")
@click.option("--suite", default="", metavar="FILE", help="Of a suite that is not shipped.")
@click.option(
    "--published",
    metavar="DIR",
    help="Results whose controls it must agree with [default: those of castlewalls]",
)
@click.option(
    "--rerun",
    type=click.IntRange(min=1),
    metavar="K",
    help="Make K cells again, drawn by lot, and compare them. Needs --trust.",
)
@click.option("--trust", is_flag=True, help="Run the code in the bundle, which you have read.")
@click.option(
    "--nonce", metavar="TEXT", help="What the lot is drawn with [default: drawn at random]"
)
@click.option(
    "--store",
    metavar="DIR",
    help="Where the cells are made, to go on after an interruption [default: a folder for now]",
)
@click.option("--jobs", type=int, metavar="N", help="Stages at one time, as of `run`.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--key", metavar="FILE", help="The public key of who must have signed the bundle.")
@click.option("--sign", metavar="FILE", help="Sign the result of --rerun with this private key.")
@json_option
def verify(
    bundle: str,
    suite: str,
    published: str | None,
    key: str | None,
    sign: str | None,
    as_json: bool,
    **again: Any,
) -> None:
    """Check BUNDLE, which `submit` wrote: whether it is whole (level 1), complete and consistent
    with itself and with the published controls (level 2), and with --rerun whether cells drawn by
    lot come out the same (level 3).

    Below level 3 no model is run and the plugin is never imported. --rerun writes what it gave
    beside the bundle. Exits with 1 if a check refuses the bundle.

    \b
    castlewalls verify my_defense-digits
    castlewalls verify my_defense-digits --json
    castlewalls verify my_defense-digits --rerun 3 --trust
    """
    from bench.bundle import statement
    from bench.bundle import verify as checks

    if sign is not None and again["rerun"] is None:
        raise UserError("--sign signs the result of --rerun K, which is missing")
    private = None if sign is None else Path(sign)
    if private is not None:
        statement.signer_of(private)  # before hours of a rerun
    if published is not None and not Path(published).is_dir():
        raise UserError(f"--published {published}: must be a folder of results, and is not there")
    with tempfile.TemporaryDirectory(prefix="castlewalls-") as work:
        result = checks.verify(
            Path(bundle),
            suite,
            None if published is None else Path(published),
            (lambda verdict: None) if as_json else _show_verdict,
            _rerun(Path(work), as_json, **again),
            None if key is None else Path(key),
        )
    written = result.rerun and checks.write_result(Path(bundle), result, again["device"], private)
    if as_json:
        print_json(result.to_json() | ({"statement": str(written)} if written else {}))
    else:
        click.echo(result.summary())
        if written:
            click.echo(str(written))
    sys.exit(0 if result.passed else FAILED)


def _rerun(
    work: Path,
    quiet: bool,
    rerun: int | None,
    trust: bool,
    nonce: str | None,
    store: str | None,
    jobs: int | None,
    device: str,
) -> Any:
    """What of a bundle is to be made again, in ``work`` unless a store is named."""
    from bench.bundle.verify import Rerun
    from bench.engine.progress import reporter_for

    if rerun is None:
        return None
    if not trust:
        raise UserError(
            "--rerun runs the code in the bundle; read its data/plugin, then add --trust"
        )
    if nonce is not None and not (nonce.isascii() and nonce.isprintable() and 0 < len(nonce) < 200):
        raise UserError(f"--nonce must be 1 to 199 plain letters, got {nonce[:40]!r}")
    signal.signal(signal.SIGTERM, interrupt)
    return Rerun(
        count=rerun,
        nonce=secrets.token_hex(16) if nonce is None else nonce,
        store=work / "store" if store is None else Path(store),
        work=work / "bundle",
        reporter=reporter_for(Console(stderr=True), quiet),
        options={"jobs": jobs, "device": device},
    )


def _show_verdict(verdict: Any) -> None:
    for line in verdict.printed():
        click.echo(plain(line))


@cli.command()
@click.option(
    "--output",
    required=True,
    metavar="FILE",
    help="Where the secret is written; it must not exist.",
)
def seal(output: str) -> None:
    """Make a secret for `run --sealed`, and print the hash to publish before anybody submits a
    defense.

    Publish the secret itself with the results: then everybody can check the hash and repeat the
    run.

    \b
    castlewalls seal --output secret.txt
    castlewalls run poison --sealed secret.txt --defenses my_defense
    """
    from bench.sealed import commitment, new_secret

    secret, ours = new_secret(), False
    try:
        with open(output, "x", encoding="utf-8") as file:
            ours = True
            os.chmod(output, 0o600)
            file.write(secret + "\n")
    except OSError as error:
        if ours:  # an empty file would be in the way of the next secret
            Path(output).unlink(missing_ok=True)
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from error
    click.echo(commitment(secret))
