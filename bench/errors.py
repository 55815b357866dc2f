"""The exceptions for invalid input, and for a plugin that cannot be measured.

The command line prints the message as a single line and exits with 2; no traceback. Any other
exception is a bug of ours or of a plugin, and keeps its traceback (in the failed record).
"""


class UserError(Exception):
    """Bad input. The message names the thing, the constraint and the value, in one line."""


class ContractError(UserError):
    """A plugin broke its contract (:mod:`bench.plugin`). The message names it, the method, what was
    expected and what it returned.

    The cell fails with this line for the plugin's author, and is not retried.
    """
