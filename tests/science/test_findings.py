"""The rule behind the verdicts of the science page, by hand-worked cases in every direction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import measurements
from bench.record import Metric, PluginSpec, Record, Run
from leaderboard.aggregate import Interval, t_interval
from leaderboard.names import Vocabulary
from science import findings
from science.findings import OPEN, OPPOSITE, SHOWS, Claim, Line, Part, judge

BELOW, ABOVE = (-math.inf, 0.0), (0.0, math.inf)

NAMES = Vocabulary(measurements.declared())


def record(seed: int, fid: float, rate: float = 0.1, protocol: str = "p") -> Record:
    attack = PluginSpec(
        name="baddiffusion", params={"poison_rate": rate}, label=f"baddiffusion(poison_rate={rate})"
    )
    testbed, none = PluginSpec(name="digits-ddpm"), PluginSpec(name="none")
    metrics = {"fid[digits-cnn]": Metric(value=fid)}
    return Record(
        testbed=testbed,
        attack=attack,
        defense=none,
        seed=seed,
        status="ok",
        protocol=protocol,
        metrics=metrics,
    )


def lines_of(records: Iterable[Record]) -> list[Line]:
    pairs = [(Path("."), one) for one in records]
    return findings.lines(
        Run(suite="x", description="", started="", finished=None, counts={}, records=pairs)
    )


def at_rate(lines: list[Line], rate: float) -> Line:
    return next(line for line in lines if line.params["poison_rate"] == rate)


@pytest.mark.parametrize(
    ("low", "high", "region", "expected"),
    [
        (-0.3, -0.1, BELOW, SHOWS), (0.1, 0.3, BELOW, OPPOSITE), (-0.1, 0.1, BELOW, OPEN), (-0.1,
        0.0, BELOW, OPEN),
        (0.1, 0.3, ABOVE, SHOWS), (-0.3, -0.1, ABOVE, OPPOSITE), (-0.1, 0.3, ABOVE, OPEN), (0.0,
        0.0, ABOVE, OPEN),
        (-0.1, 0.2, (-0.3, 0.3), SHOWS), (0.4, 0.5, (-0.3, 0.3), OPPOSITE), (-0.5, -0.4, (-0.3,
        0.3), OPPOSITE),
        (-0.1, 0.4, (-0.3, 0.3), OPEN), (-0.5, 0.5, (-0.3, 0.3), OPEN), (0.0, 0.0, (-0.3, 0.3),
        SHOWS),
        (-9.0, 0.2, (-math.inf, 0.3), SHOWS), (0.4, 0.5, (-math.inf, 0.3), OPPOSITE), (0.2, 0.4,
        (-math.inf, 0.3), OPEN),
        (-0.1, 0.1, None, OPEN),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_interval_and_nothing_else(
    low: float, high: float, region: findings.Region, expected: str
) -> None:
    """A verdict on an interval that touches the bound, or in the wrong direction, would be a false
    finding.
    """
    assert judge(Interval((low + high) / 2, low, high, 3), region) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.01, 1))
def test_a_claim_and_its_opposite_never_both_show(
    middle: float, half: float, margin: float
) -> None:
    interval = Interval(middle, middle - half, middle + half, 3)
    pair = {judge(interval, BELOW), judge(interval, ABOVE)}
    assert pair in ({SHOWS, OPPOSITE}, {OPEN})
    assert not (judge(interval, (-margin, margin)) == SHOWS and abs(middle) >= margin)


def test_two_seeds_never_decide() -> None:
    """Two seeds that agree exactly have an interval without width; it must not count as
    evidence.
    """
    assert (
        judge(Interval(1.0, 1.0, 1.0, 2), ABOVE) == OPEN
        and judge(Interval(1.0, None, None, 1), ABOVE) == OPEN
    )


def test_a_comparison_is_paired_over_the_common_seeds() -> None:
    """Unpaired, a spread between seeds of 10 would drown a difference of 1; by hand: differences
    1.0, 1.1, 1.2, so 1.1 -+ 0.248.
    """
    records = [record(seed, 10.0 * seed) for seed in (0, 1, 2, 3)]
    records += [record(seed, 10.0 * seed + 1 + 0.1 * seed, 0.5) for seed in (0, 1, 2, 7)]
    lines = lines_of(records)
    one, other = at_rate(lines, 0.5), at_rate(lines, 0.1)
    part = findings.compare("", (one, "fid"), (other, "fid"), ABOVE)
    assert part.difference is not None and part.difference.n == 3 and part.verdict == SHOWS
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert part.difference.mean == pytest.approx(1.1) and part.difference.low == pytest.approx(
        1.1 - half, abs=1e-6
    )


def test_cells_of_different_protocols_are_not_compared() -> None:
    """Other sample counts, other FID: a difference between the two says nothing of the attack."""
    lines = lines_of(record(seed, 1.0) for seed in range(3))
    others = lines_of(record(seed, 2.0, protocol="q") for seed in range(3))
    first, second = lines[0], others[0]
    part = findings.compare("", (first, "fid"), (second, "fid"), BELOW)
    assert part.difference is None and "protocol" in part.note and part.verdict == OPEN
    assert (
        findings.compare("", (first, "fid"), (second, "fid"), BELOW, across=True).verdict == SHOWS
    )


def test_a_claim_needs_all_its_comparisons() -> None:
    shows, opposite, unknown = (
        Part("", "fid", BELOW, Interval(mean, mean - 0.1, mean + 0.1, 3))
        for mean in (-1.0, 1.0, 0.0)
    )
    assert Claim("", (shows, shows)).verdict == SHOWS
    assert Claim("", (shows, unknown)).verdict == OPEN
    assert Claim("", (shows, unknown, opposite)).verdict == OPPOSITE
    assert Claim("", ()).verdict == OPEN, "nothing measured is no evidence"
    assert (
        Claim("", (shows, shows, opposite)).summary()
        == "**does not show** (the opposite), 1 of 3 comparisons"
    )


def test_one_comparison_of_many_refutes_a_claim_only_after_correction() -> None:
    """Just outside by itself it refutes; among nine that show it is what chance brings. Clearly
    outside it refutes among ten too.
    """
    shows = Part("", "fid", BELOW, Interval(-1.0, -1.1, -0.9, 3))
    barely, clearly = (
        Part("", "fid", BELOW, Interval(1.0, 1.0 - half, 1.0 + half, 3)) for half in (0.99, 0.2)
    )
    assert Claim("", (barely,)).verdict == OPPOSITE and barely.p_opposite == pytest.approx(
        0.0245, abs=1e-3
    )
    assert (
        Claim("", (shows,) * 9 + (barely,)).verdict == OPEN
        and Claim("", (shows,) * 9 + (barely,)).verdicts[-1] == OPEN
    )
    assert Claim("", (shows,) * 9 + (clearly,)).verdict == OPPOSITE


@given(
    st.floats(-3, 3),
    st.floats(0.01, 2),
    st.integers(3, 8),
    st.sampled_from([BELOW, ABOVE, (-0.3, 0.3)]),
)
def test_the_p_value_and_the_interval_agree(
    mean: float, half: float, n: int, region: tuple[float, float]
) -> None:
    """Below 2.5 % exactly where the interval lies wholly outside: a claim of one comparison reads
    as before.
    """
    part = Part("", "fid", region, Interval(mean, mean - half, mean + half, n))
    assert (
        (part.p_opposite < 0.025)
        == (part.verdict == OPPOSITE)
        == (Claim("", (part,)).verdict == OPPOSITE)
    )


@pytest.mark.parametrize("turned", [1, -1])
def test_a_skewed_interval_outside_the_region_refutes(turned: int) -> None:
    """A share's interval is longer towards the middle; the side that faces the region counts."""
    ends = sorted((turned * -0.24, turned * -0.01))
    part = Part("", "fid", ABOVE if turned > 0 else BELOW, Interval(turned * -0.04, *ends, 3))
    assert part.p_opposite < 0.025 and Claim("", (part,)).verdict == OPPOSITE


def test_ten_comparisons_on_the_edge_refute_in_few_runs() -> None:
    """The truth lies on the edge of every region: without correction about a fifth of such claims
    would be refuted.
    """
    rng = np.random.default_rng(5)
    refuted = uncorrected = 0
    for _ in range(400):
        parts = tuple(
            Part("", "fid", BELOW, t_interval(list(rng.standard_normal(3)))) for _ in range(10)
        )
        refuted += Claim("", parts).verdict == OPPOSITE
        uncorrected += any(part.verdict == OPPOSITE for part in parts)
    assert refuted / 400 < 0.05 < 0.15 < uncorrected / 400


def test_three_equal_differences_of_one_image_show_nothing() -> None:
    """1/64 against 0 in three seeds: a rate's difference has the spread of counting, whatever the
    seeds say.
    """
    rates = {"asr[noise]": 0}
    records = []
    for rate, value in ((0.1, 0.0), (0.5, 1 / 64)):
        for seed in range(3):
            one = record(seed, 1.0, rate)
            records.append(
                dataclasses.replace(
                    one, metrics={name: Metric(value=value, n=64) for name in rates}
                )
            )
    lines = lines_of(records)
    one, other = at_rate(lines, 0.5), at_rate(lines, 0.1)
    assert findings.compare("", (one, "asr[noise]"), (other, "asr[noise]"), ABOVE).verdict == OPEN


def test_a_rate_less_the_poison_rate_is_not_certain_because_three_seeds_agree() -> None:
    """1/64 against a poison rate of 0.01: one image more in a seed would turn it round."""
    records = []
    for seed in range(3):
        share = Metric(value=1 / 64, n=64, unit="share")
        metrics = {"asr[prompt]": share, "p_t": Metric(value=0.01, n=100)}
        records.append(dataclasses.replace(record(seed, 1.0), metrics=metrics))
    line = at_rate(lines_of(records), 0.1)
    part = findings.compare("", (line, "asr[prompt]"), (line, "p_t"), ABOVE)
    assert part.verdict == OPEN and part.difference is not None


def test_differences_are_written_with_their_sign_and_enough_digits() -> None:
    """Rounded to 0.00 a small difference that excludes 0 would look like none."""
    assert (
        findings.difference_text(NAMES.words("fid[x]"), Interval(0.312, 0.204, 0.42, 3))
        == "+0.312 [0.204, 0.420]"
    )
    assert (
        findings.difference_text(NAMES.words("mse[noise]"), Interval(-0.00123, -0.002, -0.0004, 3))
        == "−0.00123 [−0.00200, −0.00040]"
    )
    assert (
        findings.difference_text(NAMES.words("asr[noise]"), Interval(0.004, None, None, 1))
        == "+0.004"
    )
    regions = [BELOW, ABOVE, (-0.3, 0.3), (-math.inf, 0.25), (-0.25, math.inf), None]
    assert [findings.region_text(NAMES.words("fid[x]"), region) for region in regions] == [
        "< 0", "> 0", "within ±0.300", "< +0.250", "> −0.250", "–",
    ]  # fmt: skip
