"""The exceptions for invalid input, and for a plugin that cannot be measured.

The command line prints the message as a single line and exits with 2; no traceback. Any other
exception is a bug of ours or of a plugin, and keeps its traceback (in the failed record).
"""

from pathlib import Path


class UserError(Exception):
    """Bad input. The message names the thing, the constraint and the value, in one line."""


class ContractError(UserError):
    """A plugin broke its contract (:mod:`bench.plugin`). The message names it, the method, what was
    expected and what it returned.

    The cell fails with this line for the plugin's author, and is not retried.
    """


def no_file(path: Path) -> str:
    """Why ``path`` is none that can be read, in words."""
    if path.is_dir():
        return "it must be a file, and is a folder"
    return "it must be a plain file, and is none" if path.exists() else "there is no such file"
