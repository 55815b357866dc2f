"""The command line; thin. Exit codes: 0 success, 1 failed cells or checks, 2 bad input, 130
interrupted.
"""

from bench.cli import boards, bundles, plugins, preparing, runs
from bench.cli.group import cli, main

__all__ = ["boards", "bundles", "cli", "main", "plugins", "preparing", "runs"]
