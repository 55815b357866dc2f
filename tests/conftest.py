"""Shared by all tests: one thread a process, since the suite itself runs in several; the longest
first; and Ctrl-C as a terminal would have it.
"""

import signal

import pytest
import torch

torch.set_num_threads(1)

# A shell's background jobs ignore SIGINT and pass that on; the programs that tests start and
# interrupt must not inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Minutes each: begun first, no process is left with one of them at the end.
LONGEST = ("test_installed.py", "test_guest.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
