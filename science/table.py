"""A section of the science page: its parts, and how cells become rows of a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboard.aggregate import Interval
from leaderboard.matrix import interval_text
from leaderboard.names import Vocabulary, Words
from science.findings import Claim, Line

Found = Mapping[str, list[Line]]
Rows = Sequence[tuple[str, "Line | None"]]
Plot = tuple[str, str, "str | bytes"]
ABSENT = "–"


@dataclass(frozen=True)
class Section:
    """All text is Markdown. ``suites``: where the cells come from; ``plots``: (file's stem,
    description, SVG or PNG); ``figures``: (file, description) of what another script draws beside
    the page, shown where it is there; ``whiskers``: whether plots have some.
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
    """Text from a record, as Markdown that shows it and nothing else: no markup, HTML, mathematics
    or second line.
    """
    line = " ".join(
        "".join(
            letter if letter.isprintable() or letter.isspace() else "�" for letter in text
        ).split()
    )
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def table(
    head: str, rows: Rows, metrics: Sequence[str], names: Vocabulary
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(columns, rows): one row a cell, one column a metric, the number of seeds last. A cell that
    is absent is a row of dashes.
    """
    columns = (head, *(names.heading(metric) for metric in metrics), "seeds")
    return columns, tuple(
        (name, *(shown(line, metric) for metric in metrics), seeds(line)) for name, line in rows
    )


def shown(line: Line | None, metric: str) -> str:
    """``0.84 [0.80, 0.88]``; with its own n where not every seed has a value."""
    interval = line.interval(metric) if line else None
    if line is None or interval is None:
        return ABSENT
    own = f" (n = {interval.n})" if interval.n != len(line.cell.with_status("ok")) else ""
    return interval_cell(line.cell.words(line.metric(metric)), interval) + own


def interval_cell(words: Words, interval: Interval) -> str:
    """Mean and interval; no brackets around what is the same for every seed, or was measured
    once.
    """
    text = words.number(interval.mean)
    return (
        text
        if interval.low is None or interval.low == interval.high
        else f"{text} {interval_text(words, interval)}"
    )


def seeds(line: Line | None) -> str:
    """How many seeds have a result, of how many that were tried."""
    if line is None:
        return "0"
    done, tried = len(line.cell.with_status("ok")), len(line.cell.entries)
    return str(done) if done == tried else f"{done} of {tried}"


def percent(share: float) -> str:
    """``5 %``."""
    return f"{100 * share:g} %"


def steps(line: Line | None) -> str:
    """``, 960 steps`` of an attack's training, or that it is the testbed's own number."""
    count = line.cell.attack.params.get("training_steps") if line else None
    return f", {int(count)} steps" if isinstance(count, int) else ", default steps" if line else ""


def sample_note(line: Line | None) -> str:
    """How many samples stand behind a FID, which falls with their number."""
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
