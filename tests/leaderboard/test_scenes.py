"""What stands beside a ranking says what the ranking says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.record import Metric, Picture, PluginSpec, Record, Run
from leaderboard.board import boards
from leaderboard.questions import Question, questions
from leaderboard.scenes import scenes
from leaderboard.view import BoardView, board_view

#: attack -> defense -> its rate in each of three seeds.
Rates = dict[str, dict[str, float]]


def asked(
    folder: Path, rates: Rates, testbeds: Sequence[str] = ("t",), fid: Mapping[str, float] = {}
) -> tuple[Question, list[BoardView]]:
    """Which defense holds, by defenses' ``fid``: 1 if it has none."""
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
                "fid[x]": Metric(
                    value=fid.get(defense, 1.0) + 0.01 * seed, n=256, higher_is_better=False
                ),
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
    return question, views


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
    (made,) = scenes(*asked(tmp_path, rates))
    assert made.note == note
    assert [strip.tail for strip in made.strips] == tails


def test_each_testbed_has_its_own(tmp_path: Path) -> None:
    """Who filtered for the second testbed had an empty place beside its ranking."""
    rates = {"loud": {"none": 1.0, "clip": 0.0}}
    made = scenes(*asked(tmp_path, rates, testbeds=("t", "u")))
    assert len({one.board for one in made}) == len(made) == 2
    assert all(len(one.strips) == 2 for one in made)


def test_what_was_not_measured_against_every_attack_stands_last(tmp_path: Path) -> None:
    """It stood above what holds at its price against all of them, and the picture was of it."""
    rates = {
        "loud": {"none": 1.0, "dear": 0.01, "late": 0.0},
        "sly": {"none": 0.9, "dear": 0.02},
    }
    question, views = asked(tmp_path, rates, fid={"dear": 3.0})
    (group,) = question.groups
    assert [one.cell.defense.name for one in group.entries] == ["none", "dear", "late"]
    assert group.entries[1].standing.startswith("holds") and not group.entries[2].rank
    (made,) = scenes(question, views)
    assert [strip.head for strip in made.strips] == ["No defense", "dear"]
    assert made.note == "The strongest attack without a defense, loud, called by noise; seed 0."
