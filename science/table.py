"""A section of the science page: its parts, and how cells become rows of a Markdown table."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leaderboard.aggregate import Interval
from leaderboard.names import Vocabulary, Words
from leaderboard.values import interval_text
from science.findings import Claim, Line

BySuite = Mapping[str, list[Line]]
Rows = Sequence[tuple[str, "Line | None"]]
Plot = tuple[str, str, "str | bytes"]
ABSENT = "–"


@dataclass(frozen=True)
class Section:
    """All text is Markdown. ``suites``: the source of the cells; ``plots``: (file's stem,
    description, SVG or PNG); ``figures``: (file, description) of files that another script draws
    beside the page, included if they exist; ``whiskers``: whether plots have whiskers.
    """

    title: str
    paper: str
    suites: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    claims: tuple[Claim, ...]
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    whiskers: bool = True


def md(text: str) -> str:
    """Text from a record, escaped for Markdown: no markup, HTML, mathematics or second line."""
    line = " ".join(
        "".join(
            letter if letter.isprintable() or letter.isspace() else "�" for letter in text
        ).split()
    )
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def wrapped(text: str) -> str:
    """Prose in lines of at most 100."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the cells are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def table(
    head: str, rows: Rows, metrics: Sequence[str], names: Vocabulary
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(columns, rows): one row per cell, one column per metric, the number of seeds last. An absent
    cell is a row of dashes.
    """
    columns = (head, *(names.heading(metric) for metric in metrics), "seeds")
    return columns, tuple(
        (name, *(value_text(line, metric) for metric in metrics), seeds(line))
        for name, line in rows
    )


def value_text(line: Line | None, metric: str) -> str:
    """``0.84 [0.80, 0.88]``; with its own n where not every seed has a value."""
    interval = line.interval(metric) if line else None
    if line is None or interval is None:
        return ABSENT
    own = f" (n = {interval.n})" if interval.n != line.seeds[0] else ""
    return interval_cell(line.cell.words(line.metric(metric)), interval) + own


def interval_cell(words: Words, interval: Interval) -> str:
    """Mean and interval; no brackets if all seeds are equal or there is only one."""
    text = words.number(interval.mean)
    return (
        text
        if interval.low is None or interval.low == interval.high
        else f"{text} {interval_text(words, interval)}"
    )


def seeds(line: Line | None) -> str:
    """How many of the seeds have a result."""
    if line is None:
        return "0"
    done, tried = line.seeds
    return str(done) if done == tried else f"{done} of {tried}"


def percent(share: float) -> str:
    """``5 %``."""
    return f"{100 * share:g} %"


def steps(line: Line | None) -> str:
    """``, 960 steps`` of an attack's training, or ``, default steps`` for the testbed's."""
    count = line.cell.attack.params.get("training_steps") if line else None
    return f", {int(count)} steps" if isinstance(count, int) else ", default steps" if line else ""


def sample_note(line: Line | None) -> str:
    """A note on the number of samples of a FID, which decreases with it."""
    numbers = (
        [entry.numbers.get(line.metric("fid")) for entry in line.cell.with_status("ok")]
        if line
        else []
    )
    counts = sorted({number.n for number in numbers if number is not None and number.n is not None})
    how_many = f", here {' or '.join(map(str, counts))}," if counts else ""
    return (
        f"FID is biased upwards by few samples{how_many} so it compares within this section only."
    )
