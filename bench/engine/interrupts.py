"""Ctrl-C and SIGTERM, handled at a moment the executor chooses.

A ``KeyboardInterrupt`` raised at an arbitrary point can land in a ``__del__``, where Python drops
it and the run continues, or between two lines that belong together. Inside :class:`Interrupts` a
signal waits for :meth:`Interrupts.check`.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Holds back signals that have a Python handler; ``check`` and the end of the block pass them
    to that handler.

    Signals that are ignored or have the system's default action are unaffected. Outside the main
    thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.pending: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self.handlers[number] = handler
                    signal.signal(number, self._keep)
        return self

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.pending = number

    def check(self) -> None:
        """Calls the handler of a signal that came since the last call: for Ctrl-C, raises
        ``KeyboardInterrupt``.
        """
        number, self.pending = self.pending, None
        if number is not None:
            self.handlers[number](number, None)

    def __exit__(self, error_type: object, error: object, trace: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if error_type is None:
            self.check()
