"""Charts as SVG files that stand alone: a Markdown page cannot style what it shows, so each carries its own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from leaderboard.aggregate import Interval
from leaderboard.palette import scale
from leaderboard.plots import MARKERS, PART_STEPS, Frame, series_colour

WIDTH, HEIGHT, LEGEND_LINE = 520, 300, 20
BAR_LEFT, BAR_RIGHT, BAR_HEIGHT, BAR_LINE = 220, 505, 16, 24
#: What a letter of a bar's label takes; a label that is cut off says nothing.
LETTER = 6.7
_STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#3c4048}.name{fill:#16181d}.grid{stroke:#e4e2dc}"
    ".axis{fill:none;stroke:#3c4048;stroke-width:1.2}.level{stroke:#6b7079;stroke-width:1.3;stroke-dasharray:5 4}"
    ".level-name{fill:#5a5f68;paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}"
    ".line{fill:none;stroke-width:2.2}.dashed{stroke-dasharray:3 4}.whisker{fill:none;stroke-width:1.6;opacity:.7}"
    ".point{stroke:#fff;stroke-width:1}"
)
_BAR_STYLE = ".part{stroke:#8a8781;stroke-width:.6}.tick-mark{fill:none;stroke:#16181d;stroke-width:2;stroke-dasharray:3 2}"


@dataclass(frozen=True)
class Curve:
    """``points``: (x, mean with interval) in order of x; ``index`` picks colour and mark."""

    label: str
    index: int
    points: Sequence[tuple[float, Interval]]
    dashed: bool = False


def chart(
    curves: Sequence[Curve], levels: Sequence[tuple[str, float]], x_name: str, y_name: str, title: str, top: float | None = None
) -> str:
    """Means joined by lines, whiskers for the t-intervals (cut at the frame), dashed reference lines, a legend below.

    y runs from 0 to ``top``, or to what the means and most of the whiskers need. Raises ``ValueError`` without a point.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        raise ValueError(f"a chart needs at least one point, got none for {title!r}")
    highest = max([interval.mean for _, interval in points] + [value for _, value in levels])
    whisker = max(interval.mean if interval.high is None else interval.high for _, interval in points)
    places = sorted({x for x, _ in points})
    room = (places[-1] - places[0]) * 0.04 or 0.5
    upper = top if top is not None else max(highest, min(whisker, 1.5 * highest)) * 1.12 or 1.0
    frame = Frame(WIDTH, HEIGHT, (places[0] - room, places[-1] + room), (0.0, upper))
    parts = [frame.axes(x_name, y_name, places), frame.levels(levels)]
    parts += [_curve(frame, curve) for curve in curves]
    named = [curve for curve in curves if curve.label]
    parts += [_legend(curve, HEIGHT + 6 + LEGEND_LINE * place) for place, curve in enumerate(named)]
    return _svg(parts, HEIGHT + LEGEND_LINE * len(named), title)


@dataclass(frozen=True)
class Bar:
    """``parts``: up to four shares of a whole, the worst for the defender first; ``tick``: a level across this bar."""

    label: str
    parts: Sequence[float]
    tick: float | None = None


def bars(rows: Sequence[Bar], names: Sequence[str], tick_name: str, title: str) -> str:
    """One horizontal bar from 0 to 1 a row, stacked from ``parts`` in the order of ``names``, a dashed tick across it; a legend below.

    Raises ``ValueError`` without a row.
    """
    if not rows:
        raise ValueError(f"a chart needs at least one bar, got none for {title!r}")
    left_end = max(BAR_LEFT, 16 + round(LETTER * max(len(row.label) for row in rows)))
    width = BAR_RIGHT - left_end
    colours = [scale("light")[step] for step in PART_STEPS]
    drawn = []
    for place, row in enumerate(rows):
        y, start = 10 + place * BAR_LINE, 0.0
        drawn.append(f'<text x="{left_end - 8}" y="{y + 12}" text-anchor="end">{escape(row.label)}</text>')
        for share, colour in zip(row.parts, colours, strict=False):
            left, right = (left_end + width * min(1.0, max(0.0, value)) for value in (start, start + share))
            start += share
            drawn.append(
                f'<rect class="part" x="{left:.2f}" y="{y}" width="{right - left:.2f}" height="{BAR_HEIGHT}" fill="{colour}"/>'
            )
        if row.tick is not None:
            x = left_end + width * min(1.0, max(0.0, row.tick))
            drawn.append(f'<path class="tick-mark" d="M{x:.2f},{y - 4}V{y + BAR_HEIGHT + 4}"/>')
    bottom = 10 + len(rows) * BAR_LINE
    drawn.append(f'<path class="axis" d="M{left_end},{bottom}H{left_end + width}"/>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawn.append(f'<text x="{left_end + width * tick:g}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    x, y = left_end, bottom + 40
    for name, colour in zip(names, colours, strict=False):
        drawn.append(f'<rect class="part" x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 17}" y="{y}">{escape(name)}</text>')
        x += 52
    drawn.append(
        f'<path class="tick-mark" d="M{x + 6},{y - 13}V{y + 5}"/><text x="{x + 17}" y="{y}">{escape(tick_name)}</text>'
    )
    return _svg(drawn, bottom + 54, title, _BAR_STYLE)


def _svg(parts: Sequence[str], height: int, title: str, style: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{_STYLE}{style}</style>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _curve(frame: Frame, curve: Curve) -> str:
    colour = series_colour(curve.index)
    at = [(frame.x(x), frame.y(interval.mean), interval) for x, interval in curve.points]
    whiskers = [
        f'<path class="whisker" stroke="{colour}" d="M{x},{frame.y(interval.low)}V{frame.y(interval.high)}"/>'
        for x, _, interval in at
        if interval.low is not None and interval.high is not None
    ]
    path = "L".join(f"{x},{y}" for x, y, _ in at)
    return "".join(
        [f'<path class="line{" dashed" if curve.dashed else ""}" stroke="{colour}" d="M{path}"/>', *whiskers]
        + [_mark(curve.index, x, y) for x, y, _ in at]
    )


def _legend(curve: Curve, y: float) -> str:
    line = f'<path class="line{" dashed" if curve.dashed else ""}" stroke="{series_colour(curve.index)}" d="M52,{y}H82"/>'
    return f'{line}{_mark(curve.index, 67, y)}<text x="90" y="{y + 4}">{escape(curve.label)}</text>'


def _mark(index: int, x: float, y: float) -> str:
    shape = MARKERS[index % len(MARKERS)]
    return f'<path class="point" transform="translate({x} {y})" fill="{series_colour(index)}" d="{shape}"/>'
