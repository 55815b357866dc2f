"""The charts: what is drawn where, and the same bytes every time."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from bench.errors import UserError
from leaderboard.aggregate import Interval
from science.drawing import WIDTH, Bar, Curve, bars, chart

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["G1", "G2", "G3", "G4"]
CURVES = [
    Curve("plain", 0, [(1.0, Interval(0.2, 0.1, 0.3, 3)), (2.0, Interval(0.4, -0.5, 9.0, 3))]),
    Curve(
        "honest model",
        1,
        [(1.0, Interval(0.1, None, None, 1)), (2.0, Interval(0.1, 0.05, 0.15, 3))],
        dashed=True,
    ),
]


def texts(svg: str) -> dict[str, Any]:
    return {part.text or "": part for part in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def boxes(svg: str) -> list[tuple[float, float]]:
    """Left and right end of every filled rectangle, in the order they were drawn."""
    boxes_of = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path.get("d", ""))]
        if len(xs) == 4 and "stroke: #8a8781" in path.get("style", "") and path.get("clip-path"):
            boxes_of.append((min(xs), max(xs)))
    return boxes_of


def test_the_bars_are_the_shares_in_their_order() -> None:
    """By hand: of a bar from 0 to 1, G1 takes 0.39 from the left end, G2 the next 0.26, and G4 ends
    where it ends.
    """
    drawn = boxes(bars([Bar("a", [0.39, 0.26, 0.05, 0.3], 0.5)], NAMES, "p_t", "title"))
    left, right = drawn[0][0], drawn[-1][1]
    ends = [(end - left) / (right - left) for _, end in drawn]
    assert ends == pytest.approx([0.39, 0.65, 0.7, 1.0], abs=1e-3) and len(drawn) == 4
    assert all(
        one[1] == pytest.approx(other[0]) for one, other in zip(drawn, drawn[1:], strict=False)
    )


def test_a_long_label_is_not_cut_off() -> None:
    """The bars make room for it: at 6 points a letter it still begins inside the picture."""
    name = "badnets1, sde_dpm_solver++, 20, w = 2"
    short, long = (
        boxes(bars([Bar(text, [0.5, 0.5])], ["G1", "G2"], "p_t", "title")) for text in ("a", name)
    )
    assert long[0][0] > short[0][0] + 4 * len(name) and long[-1][1] == pytest.approx(
        short[-1][1], abs=1
    )
    assert long[-1][1] <= 72 * WIDTH


def test_every_curve_level_and_axis_is_named() -> None:
    labels = texts(
        chart(
            CURVES,
            [("p_t", 0.5), ("clean base model", 0.3)],
            "guidance weight w",
            "G1 + G2",
            "title",
            1.05,
        )
    )
    assert {
        "plain",
        "honest model",
        "p_t",
        "clean base model",
        "guidance weight w",
        "G1 + G2",
        "1",
        "2",
    } <= labels.keys()


def test_a_wide_interval_does_not_flatten_the_means() -> None:
    """One seed in trouble gives a whisker to 9; the frame ends a little above what the means
    need.
    """
    labels = texts(chart(CURVES, [], "x", "y", "title"))
    numbers = [float(text) for text in labels if re.fullmatch(r"\d\.\d+", text)]
    assert 0.4 <= max(numbers) < 1


@pytest.mark.parametrize("title", ["title", "a < b & c"])
def test_the_same_numbers_give_the_same_bytes(title: str) -> None:
    """Neither the time nor a random name may be in a file that is under version control."""
    first, second = (
        chart(CURVES, [("p_t", 0.5)], "x", "y", title)
        + bars([Bar("a", [1.0])], ["G1"], "p_t", title)
        for _ in "ab"
    )
    assert first == second and "<dc:date>" not in first and "matplotlib v" not in first.lower()


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        chart([Curve("a", 0, [])], [], "x", "y", "title")
    with pytest.raises(ValueError, match="at least one bar"):
        bars([], NAMES, "p_t", "title")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback would not."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'castlewalls\[science\]'"):
        chart(CURVES, [], "x", "y", "title")
