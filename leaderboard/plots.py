"""Inline SVG: scatter, curves, ROC, histogram and stacked bar. All text is escaped; CSS classes
follow the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from markupsafe import Markup, escape

from leaderboard.aggregate import Interval, t_interval
from leaderboard.palette import SERIES

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
#: How many kinds of line :func:`roc` draws, each by its colour and its dashes (CSS classes
#: ``w0`` to ``w4``).
LINES = 5
#: Steps of the colour scale for the parts of :func:`stacked`, from bad to good.
PART_STEPS = (0, 2, 5, 10)
#: Closed outlines in a 12 x 12 box around the origin; a shape beside the colour, for those who do
#: not see the colour.
MARKERS = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 "
    "-10,0Z", "M-4.5,-4.5H4.5V4.5H-4.5Z", "M0,-6L5.5,4.5H-5.5Z", "M0,-6L6,0L0,6L-6,0Z",
    "M0,6L5.5,-4.5H-5.5Z",
    "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M-6,-3.5L-3.5,-6L0,-2.5L3.5,-6L6,-3.5L2.5,0L6,3.5L3.5,6L0,2.5L-3.5,6L-6,3.5L-2.5,0Z",
)  # fmt: skip


Pixel = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A defense in the trade-off. ``seeds``: (x, y) of each seed; ``index`` picks its colour and
    shape.
    """

    label: str
    index: int
    x: Interval
    y: Interval
    seeds: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Roc:
    """One seed's curve over what ``label`` names, as two lists of one length; ``index`` picks the
    kind of line.
    """

    label: str
    index: int
    fpr: Sequence[float]
    tpr: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Maps data to the drawing's pixels; values outside are held at the frame."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        return self.xs([value])[0]

    def y(self, value: float) -> float:
        return self.ys([value])[0]

    @cached_property
    def _known(self) -> tuple[dict[float, float], dict[float, float]]:
        """The pixels of the values that were drawn: rates are the same few hundred in all curves of
        a large board, which has half a million points.
        """
        return {}, {}

    def xs(self, values: Sequence[float]) -> list[float]:
        """Of a whole line."""
        room = self.width - _LEFT - _RIGHT
        return _placed(values, self._known[0], self.x_range, _LEFT, room)

    def ys(self, values: Sequence[float]) -> list[float]:
        bottom = self.height - _BOTTOM
        return _placed(values, self._known[1], self.y_range, bottom, _TOP - bottom)

    def axes(self, x_name: str, y_name: str, x_ticks: Sequence[float]) -> str:
        """Grid, tick labels and axis titles."""
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        levels = [(self.y(tick), tick) for tick in ticks(*self.y_range)]
        columns = [(self.x(tick), tick) for tick in x_ticks]
        # One path and one group each: a large board has thousands of drawings.
        grid = "".join(f"M{_LEFT},{y:g}H{right}" for y, _ in levels)
        grid += "".join(f"M{x:g},{_TOP}V{bottom}" for x, _ in columns)
        parts = [f'<path class="grid" d="{grid}"/>']
        for anchor, texts in (
            ("end", [(_LEFT - 7, y + 4, tick) for y, tick in levels]),
            ("middle", [(x, bottom + 17, tick) for x, tick in columns]),
        ):
            named = "".join(f'<text x="{x:g}" y="{y:g}">{tick:g}</text>' for x, y, tick in texts)
            parts.append(f'<g class="tick" text-anchor="{anchor}">{named}</g>')
        parts.append(f'<path class="axis" d="M{_LEFT},{_TOP}V{bottom}H{right}"/>')
        parts.append(
            f'<text class="name" x="{(_LEFT + right) / 2}" y="{self.height - 6}" '
            f'text-anchor="middle">{escape(x_name)}</text>'
        )
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="name" transform="translate(13 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_name)}</text>'
        )
        return "".join(parts)

    def levels(self, named: Sequence[tuple[str, float]]) -> str:
        """Dashed horizontal reference lines with their names at the right end; close neighbours are
        named above and below.
        """
        parts, last = [], -math.inf
        right = self.width - _RIGHT
        for text, value in sorted(named, key=lambda level: (-level[1], level[0])):
            y = self.y(value)
            below = y - last < 16 and y + 16 < self.height - _BOTTOM
            parts.append(f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            position = f'x="{right - 4}" y="{y + 13 if below else y - 4}"'
            parts.append(
                f'<text class="level-name" {position} text-anchor="end">{escape(text)}</text>'
            )
            last = y
        return "".join(parts)


def _placed(
    values: Sequence[float],
    known: dict[float, float],
    ends: tuple[float, float],
    start: int,
    length: int,
) -> list[float]:
    """The pixel of each value, from ``start`` at the low end to ``length`` further at the high one;
    ``known``: those of values that came before.
    """
    low, span = ends[0], ends[1] - ends[0]
    for value in values:
        if value not in known:
            share = min(1.0, max(0.0, (value - low) / span))
            known[value] = round(start + share * length, 1)
    return [known[value] for value in values]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about ``count`` of them."""
    raw = (high - low) / count
    if raw < 1e-300:  # whose power of ten is no number
        return [low]
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def series_colour(index: int) -> str:
    """Colour of the series with this index; the shapes' count is coprime, so pairs repeat late."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> Markup:
    """The series' mark alone, for a legend."""
    return Markup(
        '<svg class="mark" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{}</svg>'
    ).format(_mark(index, 0, 0))


def trade_off(
    points: Sequence[Point],
    anchors: Sequence[tuple[str, float]],
    y_name: str,
    title: str,
    x_name: str = "attack success rate",
) -> Markup:
    """ASR (x, fixed 0 to 1) against FID (y, from 0): means with their intervals, single seeds as
    dots, anchors as lines.
    """
    highest = max(
        [value for point in points for value in (point.y.mean, *(y for _, y in point.seeds))]
        + [value for _, value in anchors]
    )
    frame = Frame(
        width=400, height=300, x_range=(-0.04, 1.04), y_range=(0.0, highest * 1.15 or 1.0)
    )
    parts = [frame.axes(x_name, y_name, _QUARTERS)]
    parts.append(frame.levels(anchors))
    for point in points:
        colour = series_colour(point.index)
        x, y = frame.x(point.x.mean), frame.y(point.y.mean)
        for seed_x, seed_y in point.seeds:
            parts.append(
                f'<circle class="seed" cx="{frame.x(seed_x)}" cy="{frame.y(seed_y)}" r="2.2" '
                f'fill="{colour}"/>'
            )
        if point.x.low is not None and point.x.high is not None:
            parts.append(
                f'<path class="whisker" stroke="{colour}" '
                f'd="M{frame.x(point.x.low)},{y}H{frame.x(point.x.high)}"/>'
            )
        if point.y.low is not None and point.y.high is not None:
            parts.append(
                f'<path class="whisker" stroke="{colour}" '
                f'd="M{x},{frame.y(point.y.low)}V{frame.y(point.y.high)}"/>'
            )
    for point in points:
        tip = escape(f"{point.label}: ASR {point.x.mean:.2f}, FID {point.y.mean:.3g}")
        mark = _mark(point.index, frame.x(point.x.mean), frame.y(point.y.mean))
        parts.append(f"<g><title>{tip}</title>{mark}</g>")
    return _svg(frame, parts, title)


def curves(
    epochs: Sequence[float],
    by_seed: Mapping[int, Sequence[float]],
    levels: Sequence[tuple[str, float]],
    error: str,
    title: str,
) -> Markup:
    """An ``error`` over epochs: thin per seed, thick for the mean over the epochs all seeds
    reached, reference lines dashed.
    """
    values = [value for series in by_seed.values() for value in series]
    highest = max([*values, *(value for _, value in levels)])
    right = epochs[-1] if epochs[-1] > epochs[0] else epochs[0] + 1
    frame = Frame(
        width=400, height=220, x_range=(epochs[0], right), y_range=(0.0, highest * 1.15 or 1.0)
    )
    whole = [tick for tick in ticks(epochs[0], right) if tick == int(tick)]
    parts = [frame.axes("epoch", error, whole or [epochs[0]])]
    parts.append(frame.levels(levels))
    for seed in sorted(by_seed):
        parts.append(
            f"<g><title>seed {seed}</title>{_line(frame, epochs, by_seed[seed], 'thin')}</g>"
        )
    reached = min(len(series) for series in by_seed.values())
    mean = [
        t_interval([series[epoch] for _, series in sorted(by_seed.items())]).mean
        for epoch in range(reached)
    ]
    parts.append(_line(frame, epochs, mean, "mean"))
    parts += [
        f'<circle class="dot" cx="{frame.x(epochs[index])}" cy="{frame.y(value)}" r="3"/>'
        for index, value in enumerate(mean)
    ]
    return _svg(frame, parts, title)


@lru_cache(maxsize=1)
def _unit_square() -> Frame:
    """The frame of every ROC."""
    return Frame(width=300, height=292, x_range=(0.0, 1.0), y_range=(0.0, 1.0))


def roc(lines: Sequence[Roc], title: str) -> Markup:
    """True positives over false positives, one thin line each; the diagonal is what guessing
    reaches.
    """
    frame = _unit_square()
    parts = [frame.axes("clean ones flagged (FPR)", "poisoned ones found (TPR)", _QUARTERS)]
    parts.append(f'<path class="level" d="M{frame.x(0)},{frame.y(0)}L{frame.x(1)},{frame.y(1)}"/>')
    for line in lines:
        drawn = _line(frame, line.fpr, line.tpr, f"roc w{line.index % LINES}")
        parts.append(f"<g><title>{escape(line.label)}</title>{drawn}</g>")
    return _svg(frame, parts, title, "plot small")


def line_mark(index: int) -> Markup:
    """A piece of a line in :func:`roc`, for a legend."""
    return Markup(
        '<svg class="plot mark" viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
        '<path class="curve roc w{}" d="M1,4H25"/></svg>'
    ).format(index % LINES)


def histogram(
    edges: Sequence[float],
    clean: Sequence[float],
    poisoned: Sequence[float],
    x_name: str,
    title: str,
) -> Markup:
    """Each group's share per bin: the clean ones as a filled area, the poisoned ones as a line.

    edges: (bins + 1,), rising; clean and poisoned: (bins,) counts, each with a sum above 0.
    """
    groups = [[count / sum(counts) for count in counts] for counts in (clean, poisoned)]
    frame = Frame(
        width=300,
        height=150,
        x_range=(edges[0], edges[-1]),
        y_range=(0.0, max(map(max, groups)) * 1.08),
    )
    parts = [frame.axes(x_name, "share", ticks(edges[0], edges[-1], 4))]
    xs = frame.xs(edges)
    for shares, kind in zip(groups, ("clean", "poisoned"), strict=True):
        bins = zip(pairwise(xs), frame.ys(shares), strict=True)
        tops = [(x, y) for ends, y in bins for x in ends]
        path = _path([(xs[0], frame.y(0)), *tops, (xs[-1], frame.y(0))])
        parts.append(f'<path class="bins {kind}" d="{path}"/>')
    return _svg(frame, parts, title, "plot small")


def stacked(parts: Sequence[tuple[str, float]], tick: float | None, title: str) -> Markup:
    """A bar from 0 to 1, cut into up to four (name, share), with a tick across it. Parts that are
    wide enough bear their name.
    """
    width, height, room = 240, 26, 3
    drawn, start = [], 0.0
    for (name, share), step in zip(parts, PART_STEPS, strict=False):
        x, wide = start * width, max(0.0, min(share, 1 - start)) * width
        start += share
        drawn.append(
            f'<rect class="q{step}" x="{x:.2f}" y="{room}" width="{wide:.2f}" '
            f'height="{height - 2 * room}"/>'
        )
        if wide > 26:
            drawn.append(
                f'<text x="{x + wide / 2:.2f}" y="{height / 2 + 4:g}" '
                f'text-anchor="middle">{escape(name)}</text>'
            )
    if tick is not None:
        x = min(1.0, max(0.0, tick)) * width
        drawn += [f'<path class="{kind}" d="M{x:.2f},0V{height}"/>' for kind in ("halo", "tick")]
    # On a phone the bar is squeezed, not shrunk.
    box = f'viewBox="-2 0 {width + 4} {height}" preserveAspectRatio="none"'
    return Markup(
        f'<svg class="stacked" {box} role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    )


def rate_bar(
    value: float,
    ends: tuple[float | None, float | None],
    reference: float | None,
    end: float,
    step: int,
) -> Markup:
    """A bar from 0 to ``value`` on a track from 0 to ``end``, with its interval as a whisker and a
    tick at ``reference``. The numbers stand beside it, so it is hidden from screen readers.
    """
    width, height = 160, 16

    def x(number: float) -> str:
        return f"{2 + min(1.0, max(0.0, number / end)) * width:.1f}"

    drawn = [
        f'<rect class="track" x="2" y="4" width="{width}" height="8" rx="2"/>',
        f'<path class="bar s{step}" d="M2,4H{x(value)}V12H2Z"/>',
    ]
    low, high = ends
    if low is not None and high is not None:
        drawn.append(f'<path class="whisker" d="M{x(low)},8H{x(high)}"/>')
    if reference is not None:
        drawn.append(f'<path class="tick" d="M{x(reference)},0V{height}"/>')
    box = f'viewBox="0 0 {width + 4} {height}"'
    return Markup(f'<svg class="rate" {box} aria-hidden="true">{"".join(drawn)}</svg>')


def _line(frame: Frame, xs: Sequence[float], ys: Sequence[float], kind: str) -> str:
    points = zip(frame.xs(xs), frame.ys(ys), strict=False)
    return f'<path class="curve {kind}" d="{_path(points)}"/>'


def _path(points: Iterable[Pixel]) -> str:
    """From pixel to pixel. Steps, which a ROC or a histogram mostly is, are drawn as a whole, and
    each by how far it goes, which is shorter than where to: a large board has half a million.
    """
    points = list(points)
    lines: list[Pixel] = []
    for (before_x, before_y), (x, y) in pairwise(points):
        right, down = x - before_x, y - before_y
        last_right, last_down = lines[-1] if lines else (1.0, 1.0)
        upright = not right and not last_right and down * last_down >= 0
        level = not down and not last_down and right * last_right >= 0
        if upright or level:
            lines[-1] = (last_right + right, last_down + down)
        elif right or down:
            lines.append((right, down))
    # Six digits: what subtracting tenths of a pixel leaves beyond them is rounded away.
    drawn = (
        f"h{right:g}" if not down else f"v{down:g}" if not right else f"l{right:g}{down:+g}"
        for right, down in lines
    )
    return "".join((*(f"M{x:g},{y:g}" for x, y in points[:1]), *drawn))


def _mark(index: int, x: float, y: float) -> Markup:
    return Markup('<path class="point" transform="translate({} {})" fill="{}" d="{}"/>').format(
        x, y, series_colour(index), MARKERS[index % len(MARKERS)]
    )


def _svg(frame: Frame, parts: Sequence[str], title: str, kind: str = "plot") -> Markup:
    opening = (
        f'<svg class="{kind}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(title)}">'
    )
    # Every string above is a number, a constant or escaped.
    return Markup(opening + "".join(parts) + "</svg>")
