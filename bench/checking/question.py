"""One question to a plugin."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from bench.checking.conduct import restoring
from bench.checking.verdict import Status, Verdict
from bench.contracts.checks import Broken
from bench.contracts.entitled import Undeclared
from bench.contracts.plugin import Plugin
from bench.errors import ContractError
from bench.registry import source_of
from bench.text import message_of, one_line

LETTERS = 500
#: How to mend what any question may meet, whatever it asks.
RETURN = "return what the family's docstring in bench.contracts says"
DECLARE = "list it: Card(needs=frozenset({...})), or do without"
_OWN_ERROR = (
    "mend the line that is named; bench.testing.check_plugin() in a test shows the whole traceback"
)


class CheckFailed(AssertionError):
    """A check that failed, for a test: what was expected, what came, and how to mend it."""


class NotMeasured(Exception):
    """A check cannot say anything of this plugin; the message says why."""


class Doubtful(Exception):
    """What was measured may be a mistake and may be right; the message says both."""


@dataclass(frozen=True)
class Check:
    """One question to a plugin. ``name``: a word for programs; ``title``: what holds if it is ok;
    ``mend``: what to do otherwise; ``run``: raises, or returns what it measured, in words;
    ``of_results``: whether it can only be asked of a plugin whose results are as declared.
    """

    name: str
    title: str
    mend: str
    run: Callable[[Any], str | None]
    of_results: bool = False

    def __call__(self, plugin: Plugin) -> None:
        """For a test. Raises :class:`CheckFailed`, with the plugin's own error as its cause."""
        verdict, error = self._tried(plugin, (Exception, SystemExit))
        if verdict.failed:
            raise CheckFailed("\n".join(verdict.lines())) from error

    def verdict(self, plugin: Plugin, *, alone: bool = False) -> Verdict:
        """``alone``: the process is the plugin's own, so that whatever is raised in it, be it
        ``KeyboardInterrupt``, comes from the plugin.
        """
        caught = BaseException if alone else (Exception, SystemExit)
        return self._tried(plugin, caught)[0]

    def not_asked(self, why: str) -> Verdict:
        """In place of :meth:`verdict`."""
        return Verdict(check=self.name, title=self.title, status="not measured", message=why)

    def _tried(self, plugin: Plugin, caught: Any) -> tuple[Verdict, BaseException | None]:
        verdict = Verdict(check=self.name, title=self.title)
        started = monotonic()
        error: BaseException | None = None
        try:
            with restoring([]):  # what one check moves must not disturb the next
                measured = self.run(plugin)
            verdict = replace(verdict, message=one_line(measured or "", LETTERS))
        except (NotMeasured, Doubtful) as why:
            status: Status = "doubtful" if isinstance(why, Doubtful) else "not measured"
            verdict = replace(verdict, status=status, message=one_line(str(why), LETTERS))
        except caught as raised:
            error = raised
            mend = self.mend if isinstance(raised, Broken) else _mend(raised)
            message = one_line(words_of(raised, plugin), LETTERS)
            verdict = replace(verdict, status="failed", message=message, mend=mend)
        return replace(verdict, seconds=monotonic() - started), error


def _mend(error: BaseException) -> str:
    """Of an error that no question asks for, as a stage would meet it."""
    if isinstance(error, Undeclared):
        return DECLARE
    return RETURN if isinstance(error, ContractError) else _OWN_ERROR


def words_of(error: BaseException, plugin: Plugin) -> str:
    """An error as "expected ..., got ...", with the plugin's line where it comes from one."""
    words = message_of(error)
    if isinstance(error, ContractError) and words:
        return words
    what = type(error).__name__ + (f": {words}" if words else "")
    return f"expected no error, got {what}{_where(error, plugin)}"


def _where(error: BaseException, plugin: Plugin) -> str:
    """The innermost line of the plugin's own file, in brackets."""
    try:
        file = source_of(plugin)
    except (OSError, TypeError):  # a class made in a shell
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f" ({file.name}, line {lines[-1]})" if lines else ""
