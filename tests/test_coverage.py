"""The simulation behind docs/intervals.md: small, but of the same code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks import coverage


def test_the_page_keeps_its_text_around_the_tables() -> None:
    """A generated page that loses what a person wrote would be lost with the next run."""
    page = f"above\n{coverage.BEGIN}\nold\n{coverage.END}\nbelow\n"
    page_with_table = coverage.put(page, ["new"])
    assert (
        page_with_table == f"above\n{coverage.BEGIN}\nnew\n\n{coverage.END}\nbelow\n"
        and coverage.put(page_with_table, ["new"]) == page_with_table
    )
    with pytest.raises(ValueError, match="must hold"):
        coverage.put("above", ["new"])


def test_a_tally_counts_what_it_says() -> None:
    """Coverage, width and impossible ends by hand."""
    tally = coverage.Tally(0.5)
    for ends in ((0.4, 0.6), (0.6, 1.2), (-0.1, 0.5), (0.3, 0.3)):
        tally.add(ends)
    tally.add(None)
    assert tally.coverage() == 0.5 and tally.impossible() == 0.75 and tally.excludes_zero() == 0.75
    assert tally.width() == pytest.approx(0.4)


def test_drawn_outcomes_have_the_rates_and_correlations_they_are_named_for() -> None:
    """Or the table would be about another world than it says."""
    rng = np.random.default_rng(0)
    quantiles = rng.random(20_000)
    for p, correlation in ((0.05, 0.1), (0.24, 0.02), (0.9, 0.3)):
        drawn = coverage.rates(quantiles, p, correlation)
        assert drawn.mean() == pytest.approx(p, abs=0.01)
        assert drawn.var() == pytest.approx(correlation * p * (1 - p), rel=0.1)
    both = coverage.outcomes(rng, (0.5, 0.5), 0.02, 4000, 5, 0.7)
    apart = coverage.outcomes(rng, (0.5, 0.5), 0.02, 4000, 5, 0.0)
    assert (
        both.shape == (2, 5, 4000)
        and (both[0] == both[1]).mean() > 0.7 > 0.6 > (apart[0] == apart[1]).mean()
    )


def test_the_printed_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page claims of the board's intervals, on fewer runs: shares in range and covered up
    to a correlation of 0.02.
    """
    monkeypatch.setattr(coverage, "RUNS", 60)
    monkeypatch.setattr(coverage, "CORRELATIONS", (0.02,))
    rows = coverage.shares()
    assert len(rows) == 10
    for row in rows:
        for cell in (row[4], row[6]):
            assert float(re.match(r"[\d.]+", cell)[0]) > 0.88  # type: ignore[index]
    # Student's t leaves [0, 1], or is certain.
    assert any("100%" in row[3] for row in rows)
