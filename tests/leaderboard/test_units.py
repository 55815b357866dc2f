"""What a record says of its numbers decides their intervals, and what stands beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.record import SHARE, SQUARED_ERROR, Flag, Metric, PluginSpec, Record, Run
from leaderboard.aggregate import Share, positive_interval, share_interval, t_interval
from leaderboard.board import Cell, boards
from leaderboard.matrix import badges, summary


def cell_of(
    metric: str, values: list[float], attack: str = "a", flags: tuple[Flag, ...] = (), **of: object
) -> Cell:
    """The cell of one seed a value."""
    base = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name=attack),
        defense=PluginSpec(name="none"), seed=0, status="ok", flags=flags
    )  # fmt: skip
    records = [
        (Path("."), replace(base, seed=seed, metrics={metric: Metric(value=value, **of)}))  # type: ignore[arg-type]
        for seed, value in enumerate(values)
    ]
    run = Run(suite="x", description="", started="", finished=None, counts={}, records=records)
    return boards([run])[0].all_cells()[0]


def test_the_unit_in_the_record_decides_the_interval() -> None:
    """A new share that no list of names holds must not leave [0, 1] again; nor a share be weighed
    by more than it is worth.
    """
    values = [0.95, 1.0, 0.98]
    share = cell_of("brand_new[x]", values, n=64, unit=SHARE)
    assert summary(share, "brand_new[x]") == share_interval([Share(value, 64) for value in values])
    clustered = cell_of("brand_new[x]", values, n=64, effective_n=20.5, unit=SHARE)
    assert summary(clustered, "brand_new[x]") == share_interval(
        [Share(value, 20.5) for value in values]
    )
    error = cell_of("brand_new[x]", [0.001, 0.004, 0.013], n=64, unit=SQUARED_ERROR)
    assert summary(error, "brand_new[x]") == positive_interval([0.001, 0.004, 0.013])
    assert summary(cell_of("brand_new[x]", values, n=64), "brand_new[x]") == t_interval(values)


def test_a_metric_that_was_left_out_says_so_where_it_would_stand() -> None:
    """And nowhere else: the other numbers of the cell are sound."""
    cell = cell_of(
        "fid[x]",
        [1.0, 1.1, 1.2],
        flags=(Flag("not-measured", "kid", "not measured, features must be (n >= 4, d)"),),
    )
    assert "not measured" in badges(cell, 3, "kid[x]") and badges(cell, 3, "fid[x]") == ()
