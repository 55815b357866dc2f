"""The process that runs a plugin under check: ``python -m bench.checking.child``, started by
:mod:`bench.checking.process`.

Two processes, in fact: a guard that does nothing but wait, and its child, which imports the plugin.
So a plugin that kills its parent kills the guard alone, and when the command is gone, the guard
ends the plugin. The request is a line of JSON on standard input; what is said goes as lines of JSON
to the descriptor that the request names.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from bench.checking.pipe import say

REFUSED = 2


def main() -> None:
    """The guard: forks, and waits for its child's end or its parent's."""
    request = json.loads(sys.stdin.readline())
    child = os.fork()
    if not child:
        _work(request)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            say(request, ended=os.waitstatus_to_exitcode(status))
            os._exit(0)
        readable, _, _ = select.select([0], [], [], 0.05)
        if readable and not os.read(0, 1):
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _work(request: Mapping[str, Any]) -> NoReturn:
    faulthandler.enable()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 0
    try:
        from bench.checking.inside import check
        from bench.errors import UserError

        try:
            check(request)
        except UserError as error:
            say(request, refused=str(error))
            code = REFUSED
    except BaseException:  # one of ours: a plugin's is a verdict
        sys.excepthook(*sys.exc_info())
        code = 1
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # even if the plugin has started threads


if __name__ == "__main__":
    main()
