"""What commands write to: standard streams that never end in a traceback."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from typing import Any

import click
from rich.console import Console

from bench.errors import UserError


def screen() -> Console:
    """Standard output; wide if it is not a terminal, so that a log has one row per line."""
    console = Console()
    return console if console.is_terminal else Console(width=220)


def print_json(value: Any) -> None:
    """One document on standard output; ``value`` has no number that JSON lacks."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


class Output(io.TextIOWrapper):
    """A standard stream that never fails on encoding or on a closed pipe: it escapes what it cannot
    encode, and is silent once nobody reads.

    ``needed``: whether the output is a result; then a full disk is an error of one line.
    """

    def __init__(self, stream: io.TextIOWrapper, needed: bool) -> None:
        # A buffer of its own: PYTHONUNBUFFERED leaves none, and then failures go unnoticed.
        buffer = io.BufferedWriter(io.FileIO(stream.fileno(), "wb", closefd=False))
        super().__init__(buffer, encoding=stream.encoding, errors="backslashreplace")
        self.needed = needed

    def write(self, text: str) -> int:
        """As any stream's."""
        try:
            super().write(text)
        except OSError as error:  # a text longer than the buffer
            self._lost(error)
        self.flush()
        return len(text)

    def flush(self) -> None:
        """As any stream's; raises :class:`UserError` if a result is lost."""
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        with suppress(OSError):  # the rest of the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if self.needed and not isinstance(error, BrokenPipeError):
            raise UserError(f"standard output cannot be written: {error.strerror}") from error
