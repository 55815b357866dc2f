"""Flags computed from all of a board's records: each is raised by what it is about, and by nothing
that only resembles it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.record import Flag, Metric, PluginSpec, Record, Run, read_runs
from bench.registry import GROUPS, Registry
from leaderboard.board import boards
from leaderboard.red_flags import BASELINES, COMPUTED, DEFINITIONS, ROUNDING, flagged
from leaderboard.report import build

FID = "fid[digits-cnn]"
HONEST = {"attack": PluginSpec(name="none"), "probe": PluginSpec(name="hat")}


def cell(
    name: str, kind: str, numbers: Mapping[str, Sequence[float]], **changes: Any
) -> list[Record]:
    """A record a seed. ``numbers``: of each metric by seed; an AUROC has an interval of 0.05 on
    both sides. ``series``: a function of the seed.
    """
    series: Callable[[int], dict[str, list[float]]] = changes.pop("series", lambda seed: {})
    attack = PluginSpec(name=changes.pop("named", "hat"))
    return [
        Record(
            **{
                "testbed": PluginSpec(name="t"),
                "attack": attack,
                "defense": PluginSpec(name=name),
                "seed": seed,
                "status": "ok",
                "kind": kind,
                "protocol": "p",
                "metrics": {
                    metric: Metric(
                        value=values[seed],
                        ci_low=values[seed] - 0.05 if metric.startswith("auroc") else None,
                        ci_high=values[seed] + 0.05 if metric.startswith("auroc") else None,
                        n=64,
                    )
                    for metric, values in numbers.items()
                },
                "series": series(seed),
            }
            | changes
        )
        for seed in range(len(next(iter(numbers.values()))))
    ]


def run(*cells: Sequence[Record]) -> Run:
    records = [(Path(), record) for one in cells for record in one]
    return Run(
        suite="s",
        description="",
        started="2026-11-21T09:00:00+00:00",
        finished=None,
        counts={},
        records=records,
    )


def raised(*cells: Sequence[Record]) -> set[tuple[str, str]]:
    """(defense, code) of what was computed."""
    return {
        (one.defense.name, flag.code)
        for board in flagged(boards([run(*cells)]))
        for one in board.cells.values()
        for flag, _ in one.flags
        if flag.code in COMPUTED
    }


def defense(
    name: str, rates: Sequence[float], fid: Sequence[float], kind: str = "sampler", **changes: Any
) -> list[Record]:
    return cell(name, kind, {"robust_asr[noise]": rates, FID: fid}, **changes)


NOTHING = defense("none", (0.9, 0.92, 0.88), (2.0, 2.1, 1.9), "control")
CHEAP, DEAR = (2.02, 2.1, 1.93), (3.0, 3.2, 2.9)


def judged(
    auroc: Sequence[float], fixed: Sequence[float] = (), subject: str = "noise"
) -> dict[str, Sequence[float]]:
    numbers = {f"auroc[{subject}]": auroc}
    return numbers | ({f"tpr_fixed_threshold[{subject}]": fixed} if fixed else {})


def roc(tied: float) -> Callable[[int], dict[str, list[float]]]:
    """A ROC with one score that stands for ``tied`` of both groups."""
    return lambda seed: {
        "roc_fpr[noise]": [0.0, 0.0, 0.01 * seed, *[0.01 * seed + tied] * 2, 1.0],
        "roc_tpr[noise]": [0.0, 0.05, 0.05, 0.05 + tied, 1.0, 1.0],
    }


THREE, INVERSION = (0.5, 0.51, 0.52), (0.001, 0.002, 0.003)
TRIGGER = {"inversion_mse_best": INVERSION, "trigger_mse_constant": (0.04, 0.04, 0.04)}
#: Code -> cells that raise it on the method ``odd``, and cells that hardly do not.
CASES: Mapping[str, tuple[list[list[Record]], list[list[Record]]]] = {
    "few-seeds": (
        [defense("odd", (0.5, 0.4), CHEAP)],
        [defense("odd", (0.5, 0.4, 0.6), CHEAP)],
    ),
    "same-numbers": (
        [
            defense("odd", (0.5, 0.4, 0.6), CHEAP),
            defense("known", (0.5, 0.4, 0.6), CHEAP, "model"),
        ],
        [
            defense("odd", (0.5, 0.4, 0.6), CHEAP),
            defense("known", (0.5, 0.4, 0.6), (2.02, 2.1, 1.930001)),
            defense("known", (0.5, 0.4, 0.6), CHEAP, named="cat"),
        ],
    ),
    "saturated-scores": (
        [cell("odd", "noise detector", judged(THREE), series=roc(0.6))],
        [cell("odd", "noise detector", judged(THREE), series=roc(0.4))],
    ),
    "worse-than-guess": (
        [cell("odd", "noise detector", judged((0.44, 0.2, 0.3)))],
        [
            cell("odd", "noise detector", judged((0.46, 0.2, 0.3))),
            cell("odd", "noise detector", judged((0.2, 0.2, 0.2)), **HONEST),
        ],
    ),
    "beaten-by-baseline": (
        [
            NOTHING,
            defense("odd", (0.5, 0.52, 0.51), CHEAP),
            defense("clip_x0", (0.02, 0.03, 0.01), CHEAP),
        ],
        [
            NOTHING,
            defense("odd", (0.5, 0.52, 0.51), CHEAP),
            defense("clip_x0", (0.02, 0.03, 0.01), DEAR),
        ],
    ),
    "falls-with-utility": (
        [NOTHING, defense("odd", (0.1, 0.12, 0.09), DEAR)],
        [
            NOTHING,
            defense("odd", (0.1, 0.12, 0.09), DEAR),
            defense("none", (0.9, 0.92, 0.88), (2.0, 2.1, 1.9), "control", named="cat"),
            defense("odd", (0.1, 0.12, 0.09), CHEAP, named="cat"),
        ],
    ),
    "exact-recovery": (
        [cell("odd", "inversion", {"inversion_mse_best": (0.01, ROUNDING, 0.01)})],
        [cell("odd", "inversion", {"inversion_mse_best": (0.01, 1.01 * ROUNDING, 0.01)})],
    ),
    "trigger-in-honest-model": (
        [cell("odd", "inversion", TRIGGER | {"trigger_mse_best": (0.03, 0.019, 0.03)}, **HONEST)],
        [
            cell("odd", "inversion", TRIGGER | {"trigger_mse_best": (0.03, 0.021, 0.03)}, **HONEST),
            cell("odd", "inversion", TRIGGER | {"trigger_mse_best": (0.01, 0.01, 0.01)}),
        ],
    ),
    "knows-the-poison": (
        [cell("odd", "sample detector", judged((0.6, 0.56, 0.7), (), "training set"), **HONEST)],
        [
            cell("odd", "sample detector", judged((0.6, 0.4, 0.6), (), "training set"), **HONEST),
            cell("odd", "sample detector", judged((0.9, 0.9, 0.9), (), "training set")),
            cell("known", "noise detector", judged((0.9, 0.9, 0.9)), **HONEST),
        ],
    ),
}


@pytest.mark.parametrize("code", COMPUTED)
def test_a_flag_is_raised_by_what_it_is_about_and_not_next_to_it(code: str) -> None:
    raising, silent = CASES[code]
    assert ("odd", code) in raised(*raising)
    assert code not in {other for _, other in raised(*silent)}


def test_a_detector_is_held_to_the_mean_shift_of_noise_at_a_fixed_threshold() -> None:
    baseline = cell("noise_shift", "noise detector", judged((0.9,) * 3, (0.9, 0.91, 0.89)))
    worse = cell("odd", "noise detector", judged((0.95,) * 3, (0.2, 0.25, 0.22)))
    level = cell("odd", "noise detector", judged((0.7,) * 3, (0.88, 0.93, 0.87)))
    assert raised(baseline, worse) == {("odd", "beaten-by-baseline")}
    assert raised(baseline, level) == set()
    other = cell("odd", "sample detector", judged((0.7,) * 3, (0.1, 0.1, 0.1)))
    assert raised(baseline, other) == set(), "another family has another baseline"


def test_a_defense_that_costs_less_is_not_beaten_by_one_that_stops_more() -> None:
    cheap = defense("odd", (0.5, 0.52, 0.51), (1.0, 1.1, 1.0))
    clipping = defense("clip_x0", (0.02, 0.03, 0.01), CHEAP)
    assert ("odd", "beaten-by-baseline") not in raised(NOTHING, cheap, clipping)
    assert not any(name == "clip_x0" for name, _ in raised(NOTHING, cheap, clipping))


def test_no_defense_is_not_flagged_for_what_a_defense_repeats() -> None:
    copied = defense("odd", (0.9, 0.92, 0.88), (2.0, 2.1, 1.9))
    assert raised(NOTHING, copied) == {("odd", "same-numbers")}


def test_two_perfect_detectors_with_other_scores_are_not_one() -> None:
    perfect = judged((0.95, 0.95, 0.95))
    one = cell("odd", "noise detector", perfect, series=roc(0.1))
    other = cell("known", "noise detector", perfect, series=roc(0.2))
    assert raised(one, other) == set()


def test_computed_flags_stand_on_the_first_screen_with_their_definition_and_in_both_files(
    tmp_path: Path,
) -> None:
    dear = defense("odd", (0.1, 0.12, 0.09), DEAR)
    records = run(NOTHING, dear)
    output = build([records], tmp_path / "board.html")
    page = output.read_text(encoding="utf-8")
    first, _, _ = page.partition('id="matrix"')
    assert "⚑ the rate falls only where utility falls" in first
    assert f"<dt>falls-with-utility</dt><dd>{DEFINITIONS['falls-with-utility']}</dd>" in page
    assert "same-numbers" not in page, "what was not raised is not explained"
    table = pd.read_csv(output.with_suffix(".csv"))
    flags = table[table.defense == "odd"]["flags"].unique().tolist()
    assert flags == ["the rate falls only where utility falls"]
    document = json.loads(output.with_suffix(".json").read_text())
    assert document["flags"] == {"falls-with-utility": DEFINITIONS["falls-with-utility"]}
    written = [
        Record.from_json(json.dumps(record)).flags
        for record in document["runs"][0]["records"]
        if record["defense"]["name"] == "odd"
    ]
    text = "the rate falls only where utility falls"
    assert written == [(Flag("falls-with-utility", "", text),)] * 3
    assert all(not record.flags for _, record in records.records), "the runs are as they were"


def test_little_is_raised_on_ordinary_results(store: Path) -> None:
    """The realistic store has a fine-tuning that stops less than a clip, lowers the FID and failed
    at a seed, and another clip that costs a quarter of the FID.
    """
    codes = {
        (one.defense.name, flag.code)
        for board in flagged(boards(read_runs(store)))
        for one in board.cells.values()
        for flag, _ in one.flags
        if flag.code in COMPUTED
    }
    assert codes == {
        ("clip_xt", "falls-with-utility"),
        ("finetune", "few-seeds"),
    }


def test_a_baseline_is_a_plugin_of_that_name() -> None:
    """One that is renamed would beat nobody, unnoticed."""
    registry = Registry()
    plugins = {name for group in GROUPS for name in registry.names(group)}
    assert {name for names in BASELINES.values() for name in names} <= plugins


def test_flags_that_are_defined_are_those_of_the_design() -> None:
    text = (Path(__file__).parents[2] / "docs/design.md").read_text(encoding="utf-8")
    assert [code for code in DEFINITIONS if f"`{code}`" not in text] == []
