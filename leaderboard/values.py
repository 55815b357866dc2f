"""What stands for one number wherever the board has one: itself, the interval beside it, and of how
many it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from markupsafe import Markup, escape

from leaderboard.aggregate import Interval
from leaderboard.board import Cell
from leaderboard.names import Words


class Value(NamedTuple):
    """A number as text, its interval, and ``n``: seeds × samples of each, empty where another
    column of the table counts them.
    """

    text: str
    interval: str = ""
    n: str = ""


class Amount(Protocol):
    """What :func:`amount` writes."""

    @property
    def text(self) -> str:
        """The number."""

    @property
    def interval(self) -> str:
        """Or why there is none; may be empty."""

    @property
    def n(self) -> str:
        """As :attr:`Value.n`."""


NO_VALUE = Value("–")


def amount(one: Amount, strong: bool = False, mark: str = "", to: str = "") -> Markup:
    """A number in any table: all of them are written here, so that none loses its interval or its
    n. ``mark``: right behind the number; ``to``: the id that the number leads to.
    """
    text = escape(one.text)
    if mark:
        text += mark
    if to:
        text = Markup('<a href="#{}">{}</a>').format(to, text)
    parts = [f"<b>{text}</b>" if strong else text]
    if one.interval:
        parts.append(f" <i>{escape(one.interval)}</i>")
    if one.n:
        parts.append(f" <small>n\N{NO-BREAK SPACE}{escape(one.n)}</small>")
    return Markup("".join(parts))  # noqa: S704 - every part is escaped


def value(
    words: Words,
    interval: Interval | None,
    samples: int = 0,
    alone: str = "",
    places: int | None = None,
) -> Value:
    """Of a mean over seeds of ``samples`` each; ``alone``: instead of the interval of one seed;
    ``places``: decimals.
    """
    if interval is None:
        return NO_VALUE
    ends = interval_text(words, interval, places) or alone
    return Value(words.number(interval.mean, places), ends, count_text(interval.n, samples))


def difference(words: Words, interval: Interval | None, places: int = 2) -> Value:
    """A paired one, with its sign and the seeds that both sides have."""
    if interval is None:
        return NO_VALUE
    sign = "+" if round(interval.mean, places) > 0 else ""
    ends = interval_text(words, interval, places)
    return Value(f"{sign}{words.number(interval.mean, places)}", ends, count_text(interval.n, 0))


def percent(share: Interval | None) -> Value:
    """A share of something as per cent, with its sign."""
    if share is None:
        return NO_VALUE
    ends = [] if share.low is None or share.high is None else [share.low, share.high]
    texts = [f"{100 * one:.1f}".replace("-", "−") for one in (share.mean, *ends)]
    sign = "+" if round(100 * share.mean, 1) > 0 else ""
    interval = f"[{texts[1]}, {texts[2]}]" if ends else ""
    return Value(f"{sign}{texts[0]} %", interval, count_text(share.n, 0))


def interval_text(words: Words, interval: Interval, decimals: int | None = None) -> str:
    """``[low, high]`` with the mean's decimals, or nothing for one seed."""
    if interval.low is None or interval.high is None:
        return ""
    places = words.decimals_for(interval.mean) if decimals is None else decimals
    return f"[{words.number(interval.low, places)}, {words.number(interval.high, places)}]"


def samples_of(cell: Cell, metric: str) -> int:
    """The fewest samples that a seed's number is from; 0 if no record says."""
    return cell.fewest_samples.get(metric, 0)


def fewest(counts: Iterable[tuple[int, int]]) -> str:
    """Of several (seeds, samples of each), as :func:`count_text` has one."""
    return count_text(*min(counts))


def count_text(seeds: int, samples: int) -> str:
    """``5 × 64``: seeds times samples of each."""
    return f"{seeds} × {samples:,}" if samples else f"{seeds}"
