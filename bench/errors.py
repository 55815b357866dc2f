"""The exceptions that mean "the person typed something that cannot work", or wrote a plugin that
cannot be measured.

The command line prints its message as a single line and exits with 2; no traceback. Everything else
that is raised is a defect of ours or of a plugin, and keeps its traceback (in the failed record).
"""


class UserError(Exception):
    """Bad input. The message names the thing, the constraint and the value, in one line."""


class ContractError(UserError):
    """A plugin broke its contract (:mod:`bench.plugin`). The message names it, the method, what was
    expected and what came.

    For the plugin's author: the cell fails with this line, and trying it again would not help.
    """
