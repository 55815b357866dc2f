"""What both sides of the plugin's process use: the line to the command, and the limits."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bench.engine import namespaces

#: No file that a plugin writes may be larger.
FILE_BYTES = 2**28


def say(request: Mapping[str, Any], **message: Any) -> None:
    """One line to the command, with the token by which it knows its own."""
    line = json.dumps({"token": request["token"], **message}) + "\n"
    os.write(request["descriptor"], line.encode())


def limit(memory: int) -> None:
    """From here on no more than ``memory`` bytes of data, no large file and no core dump."""
    for kind, value in (
        (resource.RLIMIT_DATA, memory + namespaces.inherited),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(OSError, ValueError):  # a system that does not know it, or allows less
            resource.setrlimit(kind, (value, value))
