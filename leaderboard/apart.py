"""Work on a large board that the page does not wait for, in a second process of the same memory.

The records as CSV and JSON are a fifth of what a board takes, and need nothing of the page. A fork
has the records already, and what it made comes back through a pipe. A lock that another thread held
would stay locked in it: a process of several threads does the work by itself, as do systems but
Linux.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

Make = Callable[[], Sequence[str]]


@contextlib.contextmanager
def apart(make: Make, worth_it: bool) -> Iterator[Make]:
    """A function that returns what ``make`` does, which is at work while other work goes on.

    In a fork of this process if that is ``worth_it`` and possible, else when it is asked for. Where
    the fork does not end well this process does the work, and raises what ``make`` raises.
    """
    if not (worth_it and sys.platform == "linux" and threading.active_count() == 1):
        yield make
        return
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Threads of libraries count too, and have their own handlers of forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(reading)  # or it would wait for itself to read
        _give(make, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        try:
            yield lambda: _texts(pipe.read()) or make()
        finally:
            pipe.close()  # a fork that nobody asked is stopped by it as it writes
            os.waitpid(child, 0)


def _give(make: Make, writing: int) -> None:
    """In the fork: writes the lengths of the texts and the texts, and ends."""
    try:
        texts = [text.encode("utf-8", "surrogatepass") for text in make()]
        lengths = " ".join(str(len(text)) for text in texts)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(b"".join([lengths.encode(), b"\n", *texts]))
    finally:
        os._exit(0)  # nothing of this process is the fork's to tidy up


def _texts(made: bytes) -> list[str]:
    """What a fork gave; empty if that is not whole."""
    head, _, body = made.partition(b"\n")
    texts, start = [], 0
    for length in map(int, head.split()):
        texts.append(body[start : start + length].decode("utf-8", "surrogatepass"))
        start += length
    return texts if start == len(body) else []
