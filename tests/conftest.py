"""Shared by all tests: one thread a process, since the suite itself runs in several; and Ctrl-C as
a terminal would have it.
"""

import signal

import torch

torch.set_num_threads(1)

# A shell's background jobs ignore SIGINT and pass that on; the programs that tests start and
# interrupt must not inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
