"""Charts as SVG files that stand alone, by matplotlib: the same numbers give the same bytes under
one version of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UserError
from leaderboard.aggregate import Interval
from leaderboard.palette import scale
from leaderboard.plots import PART_STEPS, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches; 100 pixels each.
WIDTH, HEIGHT, LINE = 5.6, 3.2, 0.22
#: As many as the board has, so that pairs of colour and shape repeat late.
MARKERS = "os^DvPX"
_INK = "#3c4048"
_STYLE = {
    "svg.hashsalt": "castlewalls",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": "#16181d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": "#e4e2dc",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """``points``: (x, mean with interval) in order of x; ``index`` picks colour and mark."""

    label: str
    index: int
    points: Sequence[tuple[float, Interval]]
    dashed: bool = False


def chart(
    curves: Sequence[Curve],
    levels: Sequence[tuple[str, float]],
    x_name: str,
    y_name: str,
    title: str,
    top: float | None = None,
) -> str:
    """Means joined by lines, whiskers for the t-intervals (cut at the frame), grey reference lines,
    a legend below.

    y runs from 0 to ``top``, or to what the means and most of the whiskers need. Raises
    ``ValueError`` without a point.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        raise ValueError(f"a chart needs at least one point, got none for {title!r}")
    highest = max([interval.mean for _, interval in points] + [value for _, value in levels])
    whisker = max(
        interval.mean if interval.high is None else interval.high for _, interval in points
    )
    upper = top if top is not None else max(highest, min(whisker, 1.5 * highest)) * 1.12 or 1.0
    legend_rows = sum(bool(curve.label) for curve in curves) + len(levels)
    with _drawing(HEIGHT + LINE * legend_rows, title) as (axes, written):
        for curve in curves:
            _curve(axes, curve)
        for index, (name, value) in enumerate(levels):
            axes.axhline(
                value, color="#6b7079", linewidth=1.3, linestyle=(0, (5, 2 + 3 * index)), label=name
            )
        xs = sorted({x for x, _ in points})
        room = (xs[-1] - xs[0]) * 0.04 or 0.5
        axes.set(
            xlabel=x_name,
            ylabel=y_name,
            ylim=(0, upper),
            xlim=(xs[0] - room, xs[-1] + room),
        )
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.grid(True)
        if legend_rows:
            axes.figure.legend(loc="outside lower left")
    return written.getvalue()


@dataclass(frozen=True)
class Bar:
    """``parts``: up to four shares of a whole, the worst for the defender first; ``tick``: a mark
    on this bar.
    """

    label: str
    parts: Sequence[float]
    tick: float | None = None


def bars(rows: Sequence[Bar], names: Sequence[str], tick_name: str, title: str) -> str:
    """One horizontal bar from 0 to 1 per row, stacked from ``parts`` in the order of ``names``,
    with a dashed tick; a legend below.

    Raises ``ValueError`` without a row.
    """
    if not rows:
        raise ValueError(f"a chart needs at least one bar, got none for {title!r}")
    with _drawing(0.9 + LINE * len(rows), title) as (axes, written):
        starts = [0.0] * len(rows)
        for index, (name, step) in enumerate(zip(names, PART_STEPS, strict=False)):
            widths = [row.parts[index] for row in rows]
            colour = scale("light")[step]
            axes.barh(
                range(len(rows)),
                widths,
                0.7,
                starts,
                color=colour,
                edgecolor="#8a8781",
                linewidth=0.6,
                label=name,
            )
            starts = [start + width for start, width in zip(starts, widths, strict=True)]
        ticks = [(row.tick, index) for index, row in enumerate(rows) if row.tick is not None]
        for number, (x, index) in enumerate(ticks):
            label = "" if number else tick_name
            axes.plot(
                [x, x],
                [index - 0.48, index + 0.48],
                color="#16181d",
                linewidth=2,
                linestyle=(0, (1.5, 1)),
                label=label,
            )
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        axes.figure.legend(loc="outside lower left", ncols=len(names) + 1)
    return written.getvalue()


def _curve(axes: Axes, curve: Curve) -> None:
    colour = series_colour(curve.index)
    x, y = [x for x, _ in curve.points], [interval.mean for _, interval in curve.points]
    mark, style = MARKERS[curve.index % len(MARKERS)], ":" if curve.dashed else "-"
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=2,
        linestyle=style,
        marker=mark,
        markeredgecolor="white",
        label=curve.label,
    )
    for x_at, interval in curve.points:
        if interval.low is not None and interval.high is not None:
            axes.plot(
                [x_at, x_at], [interval.low, interval.high], color=colour, linewidth=1.6, alpha=0.7
            )


@contextmanager
def _drawing(height: float, title: str) -> Iterator[tuple[Axes, io.StringIO]]:
    """Axes to draw on, and the SVG's text once that is done. Raises :class:`UserError` without
    matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("plots need matplotlib: pip install 'castlewalls[science]'") from error
    written = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure((WIDTH, height), dpi=100, layout="constrained")
        yield figure.add_subplot(), written
        # Neither the day nor the version: the same records give the same bytes.
        figure.savefig(
            written, format="svg", metadata={"Title": title, "Date": None, "Creator": None}
        )
