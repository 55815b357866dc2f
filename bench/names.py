"""Error messages: the one for an unknown name, with the allowed names and the nearest of them, and
abbreviated values.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence

from bench.errors import UserError

LONGEST_MESSAGE = 1000


class _Short(reprlib.Repr):
    """Never builds more than a line, though a value may expand to 10^9 items through aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120
        self.maxlist = self.maxtuple = self.maxdict = 6
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to convert a number of more than 4300 digits.
        return f"a whole number of {x.bit_length()} bits" if x.bit_length() > 256 else repr(x)


_short = _Short()


def brief(value: object) -> str:
    """``repr(value)`` for a message, abbreviated, in bounded time."""
    return _short.repr(value)


def shortened(message: str) -> str:
    """``message`` on one line of at most :data:`LONGEST_MESSAGE` characters, cut in the middle."""
    half = LONGEST_MESSAGE // 2 - 3
    text = message if len(message) <= LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"
    return " ".join(text.split())


def nearest(written: str, options: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing if none of the sorted ``options`` is near."""
    near = [option for option in options if written and option.startswith(written)]
    lower = {option.lower(): option for option in reversed(options)}
    close = difflib.get_close_matches(written.lower(), lower, n=1)
    near = near or [lower[option] for option in close]
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_name(what: str, name: object, allowed: Iterable[str], where: str = "") -> UserError:
    """A one-line error for ``name``, which is not among ``allowed``.

    ``what``: what the name should denote, e.g. ``attack``; ``where``: the file or entry that holds
    it, used as a prefix.
    """
    options = sorted(allowed)
    written = name[:LONGEST_MESSAGE] if isinstance(name, str) else brief(name)
    hint = nearest(written, options)
    prefix = f"{where}: " if where else ""
    return UserError(
        f"{prefix}unknown {what} {brief(name)}{hint} (allowed: {', '.join(options) or 'none'})"
    )
