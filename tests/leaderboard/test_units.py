"""What a record says of its numbers decides their intervals, and whether anything is concluded from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.record import SHARE, SQUARED_ERROR, Metric, PluginSpec, Record, Run
from leaderboard import _findings as findings
from leaderboard import names
from leaderboard._findings import ABOVE, OPEN, SHOWS, Line
from leaderboard.aggregate import Share, positive_interval, share_difference, share_interval, t_interval
from leaderboard.matrix import badges, summary

NEAR = "replication: no copy detector, so nothing is concluded from it"


def line(metric: str, values: list[float], attack: str = "a", flags: tuple[str, ...] = (), **of: object) -> Line:
    """The cell of one seed a value."""
    base = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name=attack), defense=PluginSpec(name="none"), seed=0, status="ok", flags=flags
    )  # fmt: skip
    records = [
        (Path("."), replace(base, seed=seed, metrics={metric: Metric(value=value, **of)}))  # type: ignore[arg-type]
        for seed, value in enumerate(values)
    ]
    run = Run(suite="x", description="", started="", finished=None, counts={}, records=records)
    return findings.lines(run)[0]


def test_the_unit_in_the_record_decides_the_interval() -> None:
    """A new share that no list of names holds must not leave [0, 1] again; nor a share be weighed by more than it is worth."""
    values = [0.95, 1.0, 0.98]
    share = line("brand_new[x]", values, n=64, unit=SHARE)
    assert summary(share.cell, "brand_new[x]") == share_interval([Share(value, 64) for value in values])
    clustered = line("brand_new[x]", values, n=64, effective_n=20.5, unit=SHARE)
    assert summary(clustered.cell, "brand_new[x]") == share_interval([Share(value, 20.5) for value in values])
    error = line("brand_new[x]", [0.001, 0.004, 0.013], n=64, unit=SQUARED_ERROR)
    assert summary(error.cell, "brand_new[x]") == positive_interval([0.001, 0.004, 0.013])
    assert summary(line("brand_new[x]", values, n=64).cell, "brand_new[x]") == t_interval(values)


def test_a_claim_on_shares_has_the_variance_of_counting() -> None:
    """Three equal differences of 1/64 were a finding."""
    one, other = (line("g1", [value] * 3, n=64, unit=SHARE) for value in (1 / 64, 0.0))
    part = findings.compare("", (one, "g1"), (other, "g1"), ABOVE)
    assert part.difference == share_difference(one.cell.shares("g1"), other.cell.shares("g1")) and part.verdict == OPEN
    level = findings.against("", (one, "g1"), 0.5, (-1.0, 0.0))
    assert level.difference is not None and level.difference.mean == pytest.approx(1 / 64 - 0.5)
    whole = summary(one.cell, "g1")
    assert whole is not None and whole.high is not None and level.difference.high == pytest.approx(whole.high - 0.5)


def test_nothing_is_concluded_from_replication_without_a_copy_detector() -> None:
    """All of real images' similarities lie within a hundredth of each other in features that were not made for it."""
    for flags, verdict in (((), SHOWS), ((NEAR,), OPEN)):
        one, other = (line("replication[x]", [value, value + 0.001, value], flags=flags, n=99) for value in (0.99, 0.9))
        part = findings.compare("", (one, "replication"), (other, "replication"), ABOVE)
        assert part.verdict == verdict and part.difference is not None and ("no copy detector" in part.note) == bool(flags)


def test_a_metric_that_was_left_out_says_so_where_it_would_stand() -> None:
    """And nowhere else: the other numbers of the cell are sound."""
    cell = line("fid[x]", [1.0, 1.1, 1.2], flags=("kid: not measured, features must be (n >= 4, d), got (3, 64)",)).cell
    assert "not measured" in badges(cell, 3, "kid[x]") and badges(cell, 3, "fid[x]") == ()


@pytest.mark.parametrize("name", ["replication_held_out[x]", "replication_held_out_p95[x]", "fid_sd[x]", "kid_sd[x]"])
def test_anchors_have_words(name: str) -> None:
    """A number without a sentence is noise."""
    words = names.words(name)
    assert words.group != "Other" and words.sentence and "x" in words.sentence
