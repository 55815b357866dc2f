"""Inline SVG of the board's figures: Pareto plot, curves over a parameter, stacks of G1 and G2, one
AUROC against another. As in :mod:`leaderboard.plots`, all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leaderboard.aggregate import Interval
from leaderboard.plots import MARKERS, Frame, series_colour, ticks

_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
#: Radii of the smallest and the largest disc, in pixels of the drawing.
_RADII = (5.0, 15.0)


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A defense. ``x``: residual ASR, ``y``: utility lost in per cent, ``size``: cost, 0 or
    ``None`` draws the smallest; ``dots``: (x, y) against each attack; ``index`` picks its colour.
    """

    label: str
    index: int
    x: Interval
    y: Interval
    size: float | None
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Series:
    """A line over a parameter, by rising x."""

    label: str
    index: int
    points: tuple[tuple[float, Interval], ...]


@dataclass(frozen=True)
class Stack:
    """G1 and G2 of one cell, and the poisoned share p_t."""

    label: str
    g1: float
    g2: float
    p_t: float | None


@dataclass(frozen=True)
class Pair:
    """A detector against an attack: its AUROC on the training set and on generated images."""

    label: str
    index: int
    x: Interval
    y: Interval


def pareto(discs: Sequence[Disc], budget: float, x_name: str, y_name: str, title: str) -> Markup:
    """Low and left is good. ``budget``: the loss in per cent up to which a defense is ranked, a
    band; the dashed line joins what nothing else beats in both.
    """
    values = [value for disc in discs for value in (disc.y.mean, *(y for _, y in disc.dots))]
    low, high = min(0.0, *values), max(budget, *values)
    room = 0.12 * (high - low)
    frame = Frame(width=560, height=360, x_range=(-0.05, 1.05), y_range=(low - room, high + room))
    top = frame.y(budget)
    wide, tall = frame.x(1.05) - frame.x(-0.05), frame.y(low - room) - top
    box = f'x="{frame.x(-0.05)}" y="{top}" width="{wide:.2f}" height="{tall:.2f}"'
    parts = [f'<rect class="budget" {box}/>']
    parts.append(frame.axes(x_name, y_name, _QUARTERS))
    zero = f"M{frame.x(-0.05)},{frame.y(0.0)}H{frame.x(1.05)}"
    parts.append(f'<path class="level" d="{zero}"/>')
    front = _front(discs)
    if len(front) > 1:
        steps = "".join(f"V{frame.y(one.y.mean)}H{frame.x(one.x.mean)}" for one in front[1:])
        start = f"M{frame.x(front[0].x.mean)},{frame.y(front[0].y.mean)}"
        parts.append(f'<path class="front" d="{start}{steps}"/>')
    sizes = [disc.size or 0.0 for disc in discs]
    for disc in sorted(discs, key=lambda disc: -(disc.size or 0.0)):
        parts.append(_disc(frame, disc, max(sizes)))
    return _svg(frame.width, frame.height, parts, title)


def _front(discs: Sequence[Disc]) -> list[Disc]:
    """What nothing else is below in both, by rising rate."""
    ordered = sorted(discs, key=lambda disc: (disc.x.mean, disc.y.mean, disc.label))
    front: list[Disc] = []
    for disc in ordered:
        if not front or disc.y.mean < front[-1].y.mean:
            front.append(disc)
    return front


def _disc(frame: Frame, disc: Disc, largest: float) -> str:
    colour = series_colour(disc.index)
    share = math.sqrt((disc.size or 0.0) / largest) if largest > 0 else 0.0
    radius = _RADII[0] + share * (_RADII[1] - _RADII[0])
    x, y = frame.x(disc.x.mean), frame.y(disc.y.mean)
    parts = [
        f'<circle class="seed" cx="{frame.x(one)}" cy="{frame.y(other)}" r="2.4" fill="{colour}"/>'
        for one, other in disc.dots
    ]
    parts += _whiskers(frame, disc.x, disc.y, colour)
    parts.append(
        f'<circle class="disc" cx="{x}" cy="{y}" r="{radius:.1f}" fill="{colour}" '
        f'stroke="{colour}"/>'
    )
    right = x < frame.width - 150
    anchor = f'x="{x + radius + 4 if right else x - radius - 4:.1f}" y="{y - 5:.1f}"'
    side = "start" if right else "end"
    parts.append(
        f'<text class="level-name" {anchor} text-anchor="{side}">{escape(disc.label)}</text>'
    )
    tip = f"{disc.label}: ASR {disc.x.mean:.2f}, {disc.y.mean:+.1f} %"
    return f"<g><title>{escape(tip)}</title>{''.join(parts)}</g>"


def over_parameter(lines: Sequence[Series], x_name: str, y_name: str, title: str) -> Markup:
    """Means with their intervals, one line and mark for each series; y from 0 to 1."""
    xs = sorted({x for line in lines for x, _ in line.points})
    margin = 0.04 * (xs[-1] - xs[0])
    frame = Frame(
        width=560, height=320, x_range=(xs[0] - margin, xs[-1] + margin), y_range=(-0.03, 1.03)
    )
    parts = [frame.axes(x_name, y_name, xs if len(xs) <= 8 else ticks(xs[0], xs[-1]))]
    for line in lines:
        colour = series_colour(line.index)
        path = "L".join(f"{frame.x(x)},{frame.y(one.mean)}" for x, one in line.points)
        drawn = [f'<path class="line" stroke="{colour}" d="M{path}"/>']
        for x, one in line.points:
            if one.low is not None and one.high is not None:
                ends = f"M{frame.x(x)},{frame.y(one.low)}V{frame.y(one.high)}"
                drawn.append(f'<path class="whisker" stroke="{colour}" d="{ends}"/>')
            drawn.append(_mark(line.index, frame.x(x), frame.y(one.mean)))
        parts.append(f"<g><title>{escape(line.label)}</title>{''.join(drawn)}</g>")
    return _svg(frame.width, frame.height, parts, title)


def stacks(groups: Sequence[tuple[str, Sequence[Stack]]], title: str) -> Markup:
    """Under each group's name a bar for each of its rows, G1 then G2, with a tick at p_t; the axis
    ends where the longest does.
    """
    left, width, step, top = 168, 560, 21, 6
    rows = [row for _, some in groups for row in some]
    end = max(max(row.g1 + row.g2, row.p_t or 0.0) for row in rows) * 1.06 or 1.0

    def x(value: float) -> float:
        return round(left + min(1.0, max(0.0, value) / end) * (width - left - 16), 2)

    drawn, y = [], top
    for name, some in groups:
        cut = name if len(name) <= 76 else f"{name[:75]}…"
        drawn.append(f'<text class="tick" x="4" y="{y + 15}">{escape(cut)}</text>')
        for row in some:
            y += step
            drawn.append(_stack(row, left, y, step, x))
        y += step + 3
    parts = []
    for tick in ticks(0.0, end, 4):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{y}"/>')
        where = f'x="{x(tick)}" y="{y + 15}" text-anchor="middle"'
        parts.append(f'<text class="tick" {where}>{tick:g}</text>')
    parts += drawn
    where = f'x="{(left + width - 16) / 2}" y="{y + 33}" text-anchor="middle"'
    parts.append(f'<text class="name" {where}>share of the images asked for; tick: p_t</text>')
    return _svg(width, y + 40, parts, title)


def _stack(row: Stack, left: int, y: int, step: int, x: Callable[[float], float]) -> str:
    tip = f"{row.label}: G1 {row.g1:.2f}, G2 {row.g2:.2f}"
    tip += f", p_t {row.p_t:.2f}" if row.p_t is not None else ""
    name = row.label if len(row.label) <= 24 else f"{row.label[:23]}…"
    where = f'x="{left - 8}" y="{y + 15}" text-anchor="end"'
    drawn = [f'<text class="name" {where}>{escape(name)}</text>']
    for kind, begin, share in (("g1", 0.0, row.g1), ("g2", row.g1, row.g2)):
        box = f'x="{x(begin)}" y="{y + 3}" width="{x(begin + share) - x(begin):.2f}"'
        drawn.append(f'<rect class="share {kind}" {box} height="{step - 6}"/>')
    if row.p_t is not None:
        drawn.append(f'<path class="p-t" d="M{x(row.p_t)},{y + 1}v{step - 2}"/>')
    return f"<g><title>{escape(tip)}</title>{''.join(drawn)}</g>"


def plane(pairs: Sequence[Pair], x_name: str, y_name: str, title: str) -> Markup:
    """Both axes from 0 to 1; on the diagonal the two are equal, at 0.5 each is a guess."""
    frame = Frame(width=420, height=400, x_range=(-0.02, 1.02), y_range=(-0.02, 1.02))
    parts = [frame.axes(x_name, y_name, _QUARTERS), frame.levels([("guessing", 0.5)])]
    parts.append(
        f'<path class="level" d="M{frame.x(0)},{frame.y(0)}L{frame.x(1)},{frame.y(1)}"/>'
        f'<path class="level" d="M{frame.x(0.5)},{frame.y(0)}V{frame.y(1)}"/>'
    )
    for pair in pairs:
        colour = series_colour(pair.index)
        x, y = frame.x(pair.x.mean), frame.y(pair.y.mean)
        drawn = [*_whiskers(frame, pair.x, pair.y, colour), _mark(pair.index, x, y)]
        tip = f"{pair.label}: {pair.x.mean:.2f} on the training set, {pair.y.mean:.2f} on generated"
        parts.append(f"<g><title>{escape(tip)}</title>{''.join(drawn)}</g>")
    return _svg(frame.width, frame.height, parts, title, "plot square")


def _whiskers(frame: Frame, x: Interval, y: Interval, colour: str) -> list[str]:
    """The intervals of a point, across and up, as far as there are any."""
    paths = []
    if x.low is not None and x.high is not None:
        paths.append(f"M{frame.x(x.low)},{frame.y(y.mean)}H{frame.x(x.high)}")
    if y.low is not None and y.high is not None:
        paths.append(f"M{frame.x(x.mean)},{frame.y(y.low)}V{frame.y(y.high)}")
    return [f'<path class="whisker" stroke="{colour}" d="{ends}"/>' for ends in paths]


def _mark(index: int, x: float, y: float) -> str:
    shape = MARKERS[index % len(MARKERS)]
    where = f'transform="translate({x} {y})"'
    return f'<path class="point" {where} fill="{series_colour(index)}" d="{shape}"/>'


def _svg(width: int, height: int, parts: Sequence[str], title: str, kind: str = "plot") -> Markup:
    # Every string above is a number, a constant or escaped.
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
