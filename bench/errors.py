"""The one exception that means "the person typed something that cannot work".

The command line prints its message as a single line and exits with 2; no traceback. Everything else that is raised is a defect of ours
or of a plugin, and keeps its traceback (in the failed record).
"""


class UserError(Exception):
    """Bad input. The message names the thing, the constraint and the value, in one line."""
