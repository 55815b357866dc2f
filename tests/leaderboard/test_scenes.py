"""What stands beside a ranking says what the ranking says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.record import Metric, Picture, PluginSpec, Record, Run
from leaderboard.board import boards
from leaderboard.questions import questions
from leaderboard.scenes import Scene, scenes
from leaderboard.view import board_view

#: attack -> defense -> its rate in each of three seeds.
Rates = dict[str, dict[str, float]]


def drawn(folder: Path, rates: Rates, testbeds: Sequence[str] = ("t",)) -> tuple[Scene, ...]:
    Image.new("RGB", (128, 16), (200, 100, 50)).save(folder / "strip.png")
    records = [
        Record(
            testbed=PluginSpec(name=testbed),
            attack=PluginSpec(name=attack),
            defense=PluginSpec(name=defense),
            seed=seed,
            status="ok",
            kind="control" if defense == "none" else "sampler",
            protocol="p",
            metrics={
                "fid[x]": Metric(value=1.0 + 0.01 * seed, n=256, higher_is_better=False),
                "robust_asr[noise]": Metric(value=rate, n=64, higher_is_better=False),
            },
            pictures=(
                Picture("call:noise", "" if defense == "none" else defense, "strip.png"),
                Picture("target_image", "", "strip.png"),
            ),
        )
        for testbed in testbeds
        for attack, by_defense in rates.items()
        for defense, rate in by_defense.items()
        for seed in range(3)
    ]
    run = Run(
        suite="s", description="", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00", counts={},
        records=[(folder, record) for record in records],
    )  # fmt: skip
    views = [board_view(board) for board in boards([run])]
    (question,) = [one for one in questions(views) if one.id == "stops"]
    return scenes(question, views)


@pytest.mark.parametrize(
    ("rates", "note", "tails"),
    [
        pytest.param(
            {"loud": {"none": 1.0, "clip": 0.0}, "sly": {"none": 0.95, "clip": 0.97}},
            "The strongest attack on clip, sly, called by noise; seed 0.",
            ["95 % success, n 3 × 64", "97 % success, n 3 × 64"],
            id="nothing holds, and no picture of what is stopped says otherwise",
        ),
        pytest.param(
            {"loud": {"none": 1.0, "clip": 0.0}, "weak": {"none": 0.5, "clip": 0.02}},
            "The strongest attack without a defense, loud, called by noise; seed 0.",
            ["100 % success, n 3 × 64", "0 % success, n 3 × 64"],
            id="what holds is shown against the strongest, not where it happens to do worst",
        ),
    ],
)
def test_the_pictures_are_of_the_attack_that_the_ranking_names(
    tmp_path: Path, rates: Rates, note: str, tails: list[str]
) -> None:
    (made,) = drawn(tmp_path, rates)
    assert made.note == note
    assert [strip.tail for strip in made.strips] == tails


def test_each_testbed_has_its_own(tmp_path: Path) -> None:
    """Who filtered for the second testbed had an empty place beside its ranking."""
    made = drawn(tmp_path, {"loud": {"none": 1.0, "clip": 0.0}}, testbeds=("t", "u"))
    assert len({one.board for one in made}) == len(made) == 2
    assert all(len(one.strips) == 2 for one in made)
