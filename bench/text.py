"""Makes untrusted text (a plugin's message, a file's name, a foreign record) safe for a terminal, a
record and a page.

A name in another encoding has lone surrogates, which UTF-8 cannot encode; an escape sequence can
clear the reader's screen; a message of megabytes would be repeated wherever its cell appears.
"""

from __future__ import annotations

import re
from typing import Any

REASON_LENGTH = 300
TRACE_LENGTH = 20_000
#: How deep a JSON value of a record may be nested.
DEEPEST = 100

# Complete sequences first, so that no "[31m" remains of a colour: CSI, OSC and the like up to their
# end, then two-byte ones.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ "
    r"-/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ "
    r"-/]*[0-~]?"
)
# C0 and C1 without tab and line feed, and the marks that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """``text`` without escape sequences and control characters (tabs and line feeds stay), lone
    surrogates escaped.
    """
    if text.isascii() and text.isprintable():  # nearly every text, and most of the time of reading
        return text
    return (
        _CONTROLS.sub("", _ESCAPES.sub("", text))
        .encode("utf-8", "backslashreplace")
        .decode("utf-8")
    )


def one_line(text: str, limit: int = REASON_LENGTH) -> str:
    """:func:`plain`, on one line of at most ``limit`` characters; a cut gives the full length."""
    # Cut before any processing: a message may have any size.
    line = " ".join(plain(text[: 20 * limit]).split())
    return (
        line
        if len(line) <= limit and len(text) <= 20 * limit
        else f"{line[:limit]} ... ({len(text)} characters)"
    )


def message_of(error: BaseException) -> str | None:
    """An exception's message; ``None`` if its own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:  # third-party code runs here
        return None


def tail(text: str, limit: int = TRACE_LENGTH) -> str:
    """The last ``limit`` characters, :func:`plain`: the end of a traceback is what matters."""
    return plain(text[-limit:])


def plain_values(value: Any, depth: int = DEEPEST) -> Any:
    """A JSON value with all texts :func:`plain`, including keys. Raises ``ValueError`` for one that
    is nested more than :data:`DEEPEST` deep, over which whoever walks it later would stumble.
    """
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict | list) and depth == 0:
        raise ValueError(f"it is nested too deeply, more than {DEEPEST} times")
    if isinstance(value, dict):
        return {plain(name): plain_values(item, depth - 1) for name, item in value.items()}
    return [plain_values(item, depth - 1) for item in value] if isinstance(value, list) else value
