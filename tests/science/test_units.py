"""What a record says of its numbers decides whether anything is concluded from a difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.record import SHARE, Flag, Metric, PluginSpec, Record, Run
from leaderboard.aggregate import share_difference
from leaderboard.matrix import summary
from science import findings
from science.findings import OPEN, SHOWS, Line

ABOVE = (0.0, float("inf"))

NEAR = Flag("no-copy-detector", "replication", "no copy detector")


def line(metric: str, values: list[float], flags: tuple[Flag, ...] = (), **of: object) -> Line:
    """The cell of one seed a value."""
    base = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name="a"), defense=PluginSpec(name="none"),
        seed=0, status="ok", flags=flags
    )  # fmt: skip
    records = [
        (Path("."), replace(base, seed=seed, metrics={metric: Metric(value=value, **of)}))  # type: ignore[arg-type]
        for seed, value in enumerate(values)
    ]
    run = Run(suite="x", description="", started="", finished=None, counts={}, records=records)
    return findings.lines(run)[0]


def test_a_claim_on_shares_has_the_variance_of_counting() -> None:
    """Three equal differences of 1/64 were a finding."""
    one, other = (line("g1", [value] * 3, n=64, unit=SHARE) for value in (1 / 64, 0.0))
    part = findings.compare("", (one, "g1"), (other, "g1"), ABOVE)
    assert (
        part.difference == share_difference(one.cell.shares("g1"), other.cell.shares("g1"))
        and part.verdict == OPEN
    )
    level = findings.against("", (one, "g1"), 0.5, (-1.0, 0.0))
    assert level.difference is not None and level.difference.mean == pytest.approx(1 / 64 - 0.5)
    whole = summary(one.cell, "g1")
    assert (
        whole is not None
        and whole.high is not None
        and level.difference.high == pytest.approx(whole.high - 0.5)
    )


def test_nothing_is_concluded_from_replication_without_a_copy_detector() -> None:
    """All of real images' similarities lie within a hundredth of each other in features that were
    not made for it.
    """
    for flags, verdict in (((), SHOWS), ((NEAR,), OPEN)):
        one, other = (
            line("replication[x]", [value, value + 0.001, value], flags=flags, n=99)
            for value in (0.99, 0.9)
        )
        part = findings.compare("", (one, "replication"), (other, "replication"), ABOVE)
        assert (
            part.verdict == verdict
            and part.difference is not None
            and ("no copy detector" in part.note) == bool(flags)
        )
