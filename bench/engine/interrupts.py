"""Ctrl-C and SIGTERM at a moment of the executor's choosing.

A ``KeyboardInterrupt`` raised wherever the program happens to be can land in a ``__del__``, where
Python drops it and the run goes on, or between two lines that belong together. Within
:class:`Interrupts` a signal is kept until :meth:`Interrupts.check`.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Keeps signals that have a Python handler; ``check`` and the end of the block hand them to
    that handler.

    Signals that are ignored or have the system's default action are left alone. Outside the main
    thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.kept: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self.handlers[number] = handler
                    signal.signal(number, self._keep)
        return self

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.kept = number

    def check(self) -> None:
        """Calls the handler of a signal that came since the last call: for Ctrl-C, raises
        ``KeyboardInterrupt``.
        """
        number, self.kept = self.kept, None
        if number is not None:
            self.handlers[number](number, None)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self.check()
