"""The charts: what is drawn where."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from science.drawing import Bar, bars


def test_a_long_label_is_not_cut_off() -> None:
    """It begins inside the picture, at 6.7 pixels a letter, and the bars end where they do elsewhere."""
    name = "badnets1, sde_dpm_solver++, 20, w = 2"
    drawn = ElementTree.fromstring(bars([Bar(name, [0.5, 0.5])], ["G1", "G2"], "p_t", "title"))
    label = next(part for part in drawn.iter() if part.text == name)
    assert float(label.get("x", 0)) > 6.7 * len(name)
    rectangles = [part for part in drawn.iter() if part.get("class") == "part" and part.get("y") == "10"]
    assert sum(float(part.get("width", 0)) for part in rectangles) == pytest.approx(505 - float(label.get("x", 0)) - 8)


def test_the_bars_are_the_shares_with_the_level_across() -> None:
    """By hand: G1 0.39 and G2 0.26 of 285 pixels, and p_t at half."""
    drawn = ElementTree.fromstring(bars([Bar("a", [0.39, 0.26, 0.05, 0.3], 0.5)], ["G1", "G2", "G3", "G4"], "p_t", "title"))
    widths = [float(part.get("width", 0)) for part in drawn.iter() if part.tag.endswith("rect") and part.get("y") == "10"]
    assert widths[:2] == [pytest.approx(0.39 * 285, abs=0.1), pytest.approx(0.26 * 285, abs=0.1)]
    ticks = [part.get("d", "") for part in drawn.iter() if part.get("class") == "tick-mark"]
    assert ticks[0].startswith("M362.5"), "220 + 285 / 2"
