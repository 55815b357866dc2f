"""When the controls of two machines are the same, and when not."""

from __future__ import annotations

import numpy as np
import pytest

from bench.bundle.controls import agreement
from bench.metrics.uncertainty import proportion_interval
from bench.record import SHARE, Metric, PluginSpec, Record

ROWS, SEEDS, SAMPLES = 8, 5, 64


def controls(rng, rate=0.8, protocol="p"):
    """Honest controls: each seed's model has a rate of its own, each rate its samples."""
    records = []
    for row in range(ROWS):
        for seed in range(SEEDS):
            count = rng.binomial(SAMPLES, np.clip(rng.normal(rate, 0.05), 0, 1))
            low, high = proportion_interval(int(count), SAMPLES)
            metric = Metric(value=count / SAMPLES, ci_low=low, ci_high=high, n=SAMPLES, unit=SHARE)
            records.append(
                Record(
                    testbed=PluginSpec(name="t"),
                    attack=PluginSpec(name=f"a{row}"),
                    defense=PluginSpec(name="none"),
                    seed=seed,
                    status="ok",
                    protocol=protocol,
                    metrics={"asr[noise]": metric},
                )
            )
    return records


def test_equal_controls_are_counted_as_equal() -> None:
    mine = controls(np.random.default_rng(0))
    result = agreement(mine, mine)
    assert (result.cells, result.exact, result.compared) == (40, 40, 40)
    assert result.faults == []


def test_honest_controls_of_another_machine_agree() -> None:
    """200 pairs of honest bundles: one in a hundred may be refused."""
    rng = np.random.default_rng(1)
    refused = sum(bool(agreement(controls(rng), controls(rng)).faults) for _ in range(200))
    assert refused <= 6


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_controls_that_were_changed_do_not(rate) -> None:
    rng = np.random.default_rng(2)
    result = agreement(controls(rng, rate), controls(rng))
    assert len(result.faults) >= ROWS // 2
    assert "must be within" in result.faults[0] and "of the published 0." in result.faults[0]


def test_a_submitter_cannot_widen_what_is_allowed() -> None:
    """His own spread counts for nothing."""
    rng = np.random.default_rng(3)
    wild = [
        Record(
            **{
                **vars(one),
                "metrics": {
                    "asr[noise]": Metric(
                        value=float(one.seed % 2) * 0.5, ci_low=0.0, ci_high=1.0, n=4, unit=SHARE
                    )
                },
            }
        )
        for one in controls(rng)
    ]
    assert agreement(wild, controls(rng)).faults


def test_other_protocols_are_not_compared() -> None:
    rng = np.random.default_rng(4)
    assert agreement(controls(rng), controls(rng, protocol="q")).cells == 0
