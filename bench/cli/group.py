"""The command that all others are of: what its errors, an interrupt and bad options end in."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import click

import bench
from bench.cli.output import Output
from bench.errors import UserError
from bench.text import one_line, plain

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Commands(click.Group):
    """A group that turns bad input into one line on standard error, and Ctrl-C into another."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, with our two endings."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"castlewalls: {plain(str(error))}", err=True)
            ctx.exit(BAD_INPUT)
        except click.UsageError as error:
            _refuse_usage(error, ctx)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            if error.filename is None:
                raise
            named = one_line(os.fsdecode(error.filename), 300)
            click.echo(f"castlewalls: {named} cannot be used: {error.strerror}", err=True)
            ctx.exit(BAD_INPUT)
        except RuntimeError as error:
            # What pathlib raises for links that lead to each other, before Python 3.13.
            if not str(error).startswith("Symlink loop"):
                raise
            click.echo(f"castlewalls: {one_line(str(error), 300)}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("castlewalls: interrupted", err=True)
            ctx.exit(INTERRUPTED)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with our ending for an option that there is not."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _refuse_usage(error, ctx)
        except UserError as error:  # --help and --version are written here
            click.echo(f"castlewalls: {plain(str(error))}", err=True)
            ctx.exit(BAD_INPUT)


def _refuse_usage(error: click.UsageError, ctx: click.Context) -> NoReturn:
    """Click takes four lines to name an option, and says whose it is in the first."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    command = (error.ctx or ctx).command_path
    line = one_line(error.format_message()).rstrip(".")
    click.echo(f"castlewalls: {line} (see {command} --help)", err=True)
    ctx.exit(BAD_INPUT)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(bench.__version__, prog_name="castlewalls")
def cli() -> None:
    """A security benchmark for diffusion models: attacks meet defenses in one matrix, every cell
    measured the same way.

    \b
    castlewalls run digits          run the shipped suite, offline, on two cores
    castlewalls show clip_xt        what a plugin is, and its parameters
    castlewalls doctor              whether this machine is ready
    """


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = Output(sys.stdout, needed=True)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = Output(sys.stderr, needed=False)
    cli(prog_name="castlewalls")


def interrupt(number: int, frame: object) -> None:
    """A signal's handler: it ends the command as Ctrl-C does."""
    raise KeyboardInterrupt
