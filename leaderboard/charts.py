"""Inline SVG of the board's figures: Pareto plot, curves over a parameter, stacks of G1 and G2, one
AUROC against another. As in :mod:`leaderboard.plots`, all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from markupsafe import Markup, escape

from leaderboard.aggregate import Interval
from leaderboard.plots import MARKERS, Frame, series_colour, ticks

_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
#: A box by its left, upper, right and lower end, and how wide a letter of a name is at most.
Box = tuple[float, float, float, float]
_LETTER = 6.6
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
    """A detector against an attack: its AUROC on the training set and on generated images.
    ``sign``: of the attack, beside the mark; may be empty.
    """

    label: str
    sign: str
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
    ordered = sorted(discs, key=lambda disc: -(disc.size or 0.0))
    largest = max(disc.size or 0.0 for disc in discs)
    placed = [
        (disc, frame.x(disc.x.mean), frame.y(disc.y.mean), _radius(disc, largest))
        for disc in ordered
    ]
    parts += [_disc(frame, *one) for one in placed]
    # Behind all discs, or one would hide another's name.
    points = [(disc.label, x, y, radius) for disc, x, y, radius in placed]
    parts += _labels(points, frame.width, frame.y(low - room))
    return _svg(frame.width, frame.height, parts, title)


def _front(discs: Sequence[Disc]) -> list[Disc]:
    """What nothing else is below in both, by rising rate."""
    ordered = sorted(discs, key=lambda disc: (disc.x.mean, disc.y.mean, disc.label))
    front: list[Disc] = []
    for disc in ordered:
        if not front or disc.y.mean < front[-1].y.mean:
            front.append(disc)
    return front


def _radius(disc: Disc, largest: float) -> float:
    share = math.sqrt((disc.size or 0.0) / largest) if largest > 0 else 0.0
    return round(_RADII[0] + share * (_RADII[1] - _RADII[0]), 1)


def _disc(frame: Frame, disc: Disc, x: float, y: float, radius: float) -> str:
    colour = series_colour(disc.index)
    parts = [
        f'<circle class="seed" cx="{frame.x(one)}" cy="{frame.y(other)}" r="2.4" fill="{colour}"/>'
        for one, other in disc.dots
    ]
    parts += _whiskers(frame, disc.x, disc.y, colour)
    parts.append(
        f'<circle class="disc" cx="{x}" cy="{y}" r="{radius}" fill="{colour}" stroke="{colour}"/>'
    )
    tip = f"{disc.label}: ASR {disc.x.mean:.2f}, {disc.y.mean:+.1f} %"
    return f"<g><title>{escape(tip)}</title>{''.join(parts)}</g>"


def _labels(
    points: Sequence[tuple[str, float, float, float]], width: float, bottom: float
) -> list[str]:
    """The names of (name, x, y, radius), each where it covers no other name and, if it can, no
    disc; one that cannot stand beside its disc is joined to it by a line.
    """
    discs = [(x - r, y - r, x + r, y + r) for _, x, y, r in points]
    taken: list[Box] = []
    drawn = []
    for text, x, y, radius in sorted(points, key=lambda point: (point[2], point[1], point[0])):
        wide = _LETTER * len(text)

        def cost(at: tuple[float, float], wide: float = wide, y: float = y) -> tuple[float, ...]:
            left, base = at
            box = (left, base - 11, left + wide, base + 3)
            outside = left < 56 or left + wide > width - 4 or not 14 < base - 11 < bottom - 14
            return (
                outside + sum(_meet(box, other) for other in taken),
                sum(_meet(box, other) for other in discs),
                abs(base - y + 4),
                -left,
            )

        left, base = min(_spots(x, y, radius, wide), key=cost)
        taken.append((left, base - 11, left + wide, base + 3))
        if abs(base - y + 4) > radius + 10:
            end = left - 3 if left > x else left + wide + 3
            drawn.append(f'<path class="leader" d="M{x},{y}L{end:.1f},{base - 4:.1f}"/>')
        anchor = f'x="{left:.1f}" text-anchor="start"'
        if left < x:
            anchor = f'x="{left + wide:.1f}" text-anchor="end"'
        drawn.append(f'<text class="level-name" {anchor} y="{base:.1f}">{escape(text)}</text>')
    return drawn


def _spots(x: float, y: float, radius: float, wide: float) -> list[tuple[float, float]]:
    """Where a name's line of text can begin: on either side, a line higher or lower each time."""
    steps = (step * sign for step in range(8) for sign in (-1, 1))
    heights = [y - 5 + 15 * step for step in steps]
    return [(at, base) for base in heights for at in (x + radius + 4, x - radius - 4 - wide)]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def over_parameter(lines: Sequence[Series], x_name: str, y_name: str, title: str) -> Markup:
    """Means with their intervals, one line and mark for each series; y from 0 to 1."""
    xs = sorted({x for line in lines for x, _ in line.points})
    margin = 0.04 * (xs[-1] - xs[0])
    ends = (xs[0] - margin, xs[-1] + margin)
    frame = Frame(width=560, height=320, x_range=ends, y_range=(-0.03, 1.03))
    parts = [frame.axes(x_name, y_name, xs if len(xs) <= 8 else ticks(xs[0], xs[-1]))]
    # Side by side, or the intervals of one would hide the others'.
    apart = min(5.0, 24 / len(lines))
    for number, line in enumerate(lines):
        colour = series_colour(line.index)
        beside = (number - (len(lines) - 1) / 2) * apart
        at = [(round(frame.x(x) + beside, 1), one) for x, one in line.points]
        path = "L".join(f"{x},{frame.y(one.mean)}" for x, one in at)
        drawn = [f'<path class="line" stroke="{colour}" d="M{path}"/>']
        for x, one in at:
            if one.low is not None and one.high is not None:
                upright = f"M{x},{frame.y(one.low)}V{frame.y(one.high)}"
                drawn.append(f'<path class="whisker" stroke="{colour}" d="{upright}"/>')
            drawn.append(_mark(line.index, x, frame.y(one.mean)))
        parts.append(f"<g><title>{escape(line.label)}</title>{''.join(drawn)}</g>")
    return _svg(frame.width, frame.height, parts, title)


def stacks(groups: Sequence[tuple[str, Sequence[Stack]]], title: str) -> Markup:
    """Under each group's name, on up to two lines, a bar for each of its rows, G1 then G2, with a
    tick at p_t; the axis ends where the longest does.
    """
    left, width, step, top = 168, 560, 21, 6
    rows = [row for _, some in groups for row in some]
    end = max(max(row.g1 + row.g2, row.p_t or 0.0) for row in rows) * 1.06 or 1.0

    def x(value: float) -> float:
        return round(left + min(1.0, max(0.0, value) / end) * (width - left - 16), 2)

    drawn, y = [], top
    for name, some in groups:
        for line in wrap(name, 84, max_lines=2, placeholder=" …"):
            y += 15
            drawn.append(f'<text class="level-name" x="4" y="{y}">{escape(line)}</text>')
        y -= 15
        for row in some:
            y += step
            drawn.append(_stack(row, left, y, step, x))
        y += step + 3
    parts = []
    for tick in ticks(0.0, end, 6):
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
    parts = [frame.axes(x_name, y_name, _QUARTERS)]
    half = frame.y(0.5)
    parts.append(
        f'<path class="level" d="M{frame.x(0)},{frame.y(0)}L{frame.x(1)},{frame.y(1)}"/>'
        f'<path class="level" d="M{frame.x(0.5)},{frame.y(0)}V{frame.y(1)}"/>'
        f'<path class="level" d="M{frame.x(0)},{half}H{frame.x(1)}"/>'
        # On the left, where few detectors are.
        f'<text class="level-name" x="{frame.x(0) + 4}" y="{half - 5}">guessing</text>'
    )
    for pair in pairs:
        colour = series_colour(pair.index)
        x, y = frame.x(pair.x.mean), frame.y(pair.y.mean)
        drawn = [*_whiskers(frame, pair.x, pair.y, colour), _mark(pair.index, x, y)]
        tip = f"{pair.label}: {pair.x.mean:.2f} on the training set, {pair.y.mean:.2f} on generated"
        parts.append(f"<g><title>{escape(tip)}</title>{''.join(drawn)}</g>")
    signs = [(one.sign, frame.x(one.x.mean), frame.y(one.y.mean), 5.0) for one in pairs if one.sign]
    parts += _labels(signs, frame.width, frame.y(-0.02))
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
