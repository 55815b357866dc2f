"""Detectors and inversions are ranked by their worst attack, against chance, and say why where they
are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.record import Flag, Metric, PluginSpec, Record, Run
from leaderboard.board import Board, boards
from leaderboard.finders import (
    FinderLine,
    FinderRanking,
    detector_rankings,
    finder_standing,
    inversion_rankings,
)
from leaderboard.labels import label
from leaderboard.questions import questions
from leaderboard.report import render
from leaderboard.view import board_view


def record(
    defense: str, attack: str, seed: int, kind: str, values: dict[str, float], probe: str = ""
) -> Record:
    return Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name=attack),
        defense=PluginSpec(name=defense), seed=seed, status="ok",
        kind=kind, protocol="p", probe=PluginSpec(name=probe) if probe else None,
        metrics={name: Metric(value=value, n=143) for name, value in values.items()},
    )  # fmt: skip


def detector(
    name: str,
    attack: str,
    tpr: Sequence[float],
    auroc: float = 0.9,
    alarms: float = 0.01,
    fixed: bool = True,
) -> list[Record]:
    family = "tpr_fixed_threshold" if fixed else "tpr_at_1_fpr"
    return [
        record(
            name,
            attack,
            seed,
            "sample detector",
            {
                f"{family}[generated]": value,
                "auroc[generated]": auroc,
                "tpr_at_1_fpr[generated]": 0.99,
            }
            | ({"fpr_fixed_threshold[generated]": alarms} if fixed else {})
            | ({f"{family}[generated]": value}),
        )
        for seed, value in enumerate(tpr)
    ]


def inversion(
    name: str, attack: str, last: Sequence[float], flat: float = 0.02, probe: str = ""
) -> list[Record]:
    return [
        record(
            name, attack, seed, "inversion",
            {"inversion_mse_last": value, "inversion_mse_best": value / 2, "mse[constant]": flat,
            "inversion_mse_black": 0.1}, probe,
        )
        for seed, value in enumerate(last)
    ]  # fmt: skip


def recovery(
    name: str, attack: str, last: Sequence[float], constant: float = 0.04, probe: str = ""
) -> list[Record]:
    """As :func:`inversion`, of one that recovers nothing but the trigger."""
    flag = Flag("no-target-recovered", "", "no target recovered")
    return [
        replace(
            record(
                name, attack, seed, "inversion",
                {"trigger_mse_last": value, "trigger_mse_best": value / 2,
                "trigger_mse_constant": constant}, probe,
            ),
            flags=(flag,),
        )
        for seed, value in enumerate(last)
    ]  # fmt: skip


def both(of_target: Sequence[Record], of_trigger: Sequence[Record]) -> list[Record]:
    """Of one that recovers both."""
    return [
        replace(one, metrics=one.metrics | other.metrics)
        for one, other in zip(of_target, of_trigger, strict=True)
    ]


def one_board(*groups: list[Record]) -> Board:
    (board,) = boards([run(*groups)])
    return board


def run(*groups: list[Record]) -> Run:
    return Run(
        suite="s", description="", started="2026-01-01", finished=None, counts={},
        records=[(Path("/nowhere"), one) for group in groups for one in group],
    )  # fmt: skip


def lines(ranking: FinderRanking) -> dict[str, FinderLine]:
    return {label(line.cell.defense): line for line in ranking.lines}


def test_what_finds_half_or_less_finds_in_part() -> None:
    """Sixteen in a hundred, beyond doubt, is more than a guess; a tick beside it says more."""
    some = detector("some", "a", (0.15, 0.16, 0.17), 0.7)
    most = detector("most", "a", (0.55, 0.56, 0.57), 0.9)
    by_name = lines(detector_rankings(one_board(some, most))[0])
    assert [(by_name[name].finds, by_name[name].most) for name in ("some", "most")] == [
        (True, False),
        (True, True),
    ]
    assert finder_standing(by_name["some"], inverts=False).startswith("in part")
    assert finder_standing(by_name["most"], inverts=False) == ""
    near, far = (
        inversion(name, "a", error)
        for name, error in (("near", (0.005,) * 3), ("far", (0.015,) * 3))
    )
    (ranking,) = inversion_rankings(one_board(near, far))
    assert lines(ranking)["near"].most and lines(ranking)["far"].finds
    assert not lines(ranking)["far"].most


def test_the_worst_attack_ranks_a_detector_and_auroc_only_stands_beside_it() -> None:
    """One that misses a whole attack is behind one that finds some of each, whatever its AUROC."""
    partial = [
        *detector("partial", "a", (0.99, 0.98, 0.99), 0.99),
        *detector("partial", "b", (0.01, 0.0, 0.02), 0.98),
    ]
    steady = [
        *detector("steady", "a", (0.5, 0.52, 0.5), 0.7),
        *detector("steady", "b", (0.45, 0.44, 0.46), 0.7),
    ]
    (ranking,) = detector_rankings(one_board(partial, steady))
    by_name = lines(ranking)
    assert (ranking.what, ranking.metric, ranking.warning) == (
        "generated",
        "tpr_fixed_threshold[generated]",
        "",
    )
    assert (by_name["steady"].rank, by_name["partial"].rank) == ("1", "") and not by_name[
        "partial"
    ].finds
    assert label(by_name["partial"].attack) == "b" and by_name[
        "partial"
    ].worst.mean == pytest.approx(0.01)
    assert by_name["steady"].mean == pytest.approx((0.52 / 3 + 1 / 3 + 0.45) / 2)
    assert [one.text for one in by_name["partial"].beside] == ["0.010", "0.98", "0.98"]
    assert ranking.comparisons == 2 and [label(line.cell.defense) for line in ranking.lines] == [
        "steady",
        "partial",
    ]


def test_detectors_that_cannot_be_told_apart_share_a_rank() -> None:
    """.50 and .52 of 143 poisoned images in three seeds is no order."""
    (ranking,) = detector_rankings(
        one_board(detector("x", "a", (0.5, 0.52, 0.5)), detector("y", "a", (0.52, 0.5, 0.53)))
    )
    assert {line.rank for line in ranking.lines} == {"1="} and {
        line.ranks for line in ranking.lines
    } == {(1, 2)}


def test_one_that_ties_and_finds_less_takes_nothing_from_who_finds_most() -> None:
    """The answer was that none finds most, with the other's share."""
    board = one_board(
        detector("most", "hat", (1.0, 0.9, 1.0, 0.33, 0.94)),
        detector("less", "hat", (0.1, 0.9, 0.05, 0.9, 0.1)),
    )
    by_name = lines(detector_rankings(board)[0])
    assert by_name["most"].most and by_name["less"].finds and not by_name["less"].most
    assert by_name["most"].rank == by_name["less"].rank == "1="
    (question,) = questions([board_view(board)])
    answer = question.groups[0].answer
    assert (answer.good, answer.best, answer.tail) == (True, "most", "83 %")


def test_none_beats_a_guess_is_said_of_those_that_are_ranked() -> None:
    board = one_board(
        detector("a", "hat", (0.01, 0.0, 0.02)), detector("a", "cat", (0.0, 0.01, 0.0)),
        detector("b", "hat", (0.9, 0.95, 0.97)),
    )  # fmt: skip
    (question,) = questions([board_view(board)])
    answer = question.groups[0].answer
    assert (answer.good, answer.best) == (False, "none ranked beats a guess")
    assert answer.beside == "1 not ranked"


def test_a_failed_seed_finds_nothing_and_a_missing_one_takes_the_rank() -> None:
    """Nor do two seeds rank."""
    full = detector("full", "a", (0.5, 0.52, 0.5, 0.51))
    broken = detector("broken", "a", (0.9, 0.9, 0.9, 0.9))
    broken[3] = replace(broken[3], status="failed", metrics={}, reason="out of memory")
    picked = detector("picked", "a", (0.9, 0.9, 0.9))
    (ranking,) = detector_rankings(one_board(full, broken, picked))
    by_name = lines(ranking)
    assert (
        by_name["broken"].worst.mean == pytest.approx(0.675)
        and "counted as finding nothing" in by_name["broken"].flags[0]
    )
    assert (by_name["picked"].rank, by_name["picked"].note) == ("", "seed 3 not measured")
    (few,) = detector_rankings(one_board(detector("x", "a", (0.5, 0.52))))
    assert few.lines[0].note == "fewer than 3 seeds"


def test_a_detector_is_held_to_the_seeds_of_its_own_suite() -> None:
    """Another suite's five seeds of one detector, or of one inversion, are no gap of the others."""
    for made, ranked in ((detector, detector_rankings), (inversion, inversion_rankings)):
        few = run(made("x", "a", (0.5, 0.52, 0.5)), made("y", "a", (0.5, 0.52, 0.51)))
        more = replace(run(made("x", "a", (0.5, 0.52, 0.5, 0.4, 0.6))), suite="more")
        (board,) = boards([few, more])
        (ranking,) = ranked(board)
        assert {name: line.note for name, line in lines(ranking).items()} == {"x": "", "y": ""}
        (board,) = boards([replace(few, suite="more"), more])
        (ranking,) = ranked(board)
        assert "4" in lines(ranking)["y"].note and lines(ranking)["x"].note == ""


def test_what_flags_everything_finds_nothing() -> None:
    """A threshold that is kept on held-out data and broken on the judged data shows in the false
    alarms.
    """
    loud = detector("loud", "a", (0.9, 0.9, 0.9), alarms=0.4)
    (ranking,) = detector_rankings(one_board(detector("quiet", "a", (0.3, 0.3, 0.32)), loud))
    by_name = lines(ranking)
    assert by_name["quiet"].rank == "1" and by_name["loud"].rank == ""
    assert by_name["loud"].note == "it raises more false alarms than 1 %"


def test_without_a_fixed_threshold_the_table_says_whose_threshold_it_is() -> None:
    """A threshold chosen on the judged set is an oracle's."""
    group = detector("x", "a", (0.5, 0.52, 0.5), fixed=False)
    (ranking,) = detector_rankings(one_board(group))
    assert ranking.metric == "tpr_at_1_fpr[generated]" and "no defender can do" in ranking.warning
    assert "no defender can do" in render([run(group)])


def test_an_inversion_has_to_beat_the_best_constant_image_in_every_attack() -> None:
    """Its last epoch: the best one is chosen with the target in hand. And on a log scale: errors
    are ratios.
    """
    good = [
        *inversion("good", "a", (0.004, 0.005, 0.004)),
        *inversion("good", "b", (0.006, 0.005, 0.006)),
    ]
    half = [
        *inversion("half", "a", (0.001, 0.001, 0.001)),
        *inversion("half", "b", (0.03, 0.02, 0.04)),
    ]
    honest = inversion("good", "none", (0.05, 0.05, 0.05), probe="b")
    (ranking,) = inversion_rankings(one_board(good, half, honest))
    by_name = lines(ranking)
    assert (by_name["good"].rank, by_name["half"].rank) == ("1", "") and not by_name["half"].finds
    assert (
        by_name["good"].worst.mean == pytest.approx((0.3 * 0.25 * 0.3) ** (1 / 3))
        and label(by_name["good"].attack) == "b"
    )
    assert [one.text for one in by_name["good"].beside] == ["0.14", "2.50"]
    assert by_name["good"].worst.low is not None and by_name["good"].worst.low > 0


def test_what_varies_on_an_easier_attack_does_not_beat_the_constant_image_on_it() -> None:
    """The worst attack by its mean is not the one that cannot be told from chance."""
    steady, wild = (0.0074, 0.0073, 0.0074), (0.0006, 0.033, 0.0045)
    (ranking,) = inversion_rankings(
        one_board([*inversion("x", "a", steady), *inversion("x", "b", wild)])
    )
    (line,) = ranking.lines
    assert label(line.attack) == "a" and not line.finds and line.rank == ""


def test_a_detector_must_find_something_of_every_attack() -> None:
    sure = detector("x", "a", (0.3, 0.31, 0.3), alarms=0.03)
    wild, steady = (
        detector("x", "b", rates, alarms=0.03) for rates in ((0.0, 1.0, 0.05), (0.9, 0.95, 0.9))
    )
    (ranking,) = detector_rankings(one_board(sure, wild))
    assert not ranking.lines[0].finds
    (ranking,) = detector_rankings(one_board(sure, steady))
    assert ranking.lines[0].finds and ranking.lines[0].rank == "1"


def test_seeds_that_failed_elsewhere_are_no_gap_of_an_attack() -> None:
    """Five seeds, of which one failed on one attack and two on the other: three are measured."""
    a, b = (detector("x", one, (0.9,) * 5) for one in "ab")
    for group, seeds in ((a, (0,)), (b, (1, 2))):
        for seed in seeds:
            group[seed] = replace(group[seed], status="failed", metrics={}, reason="broke")
    (ranking,) = detector_rankings(one_board(a, b))
    assert ranking.lines[0].note == "" and "3 failed seeds" in ranking.lines[0].flags[0]


def test_an_inversion_that_failed_in_one_seed_is_not_ranked() -> None:
    """An error has no worst value that the seed could count as."""
    broken = inversion("broken", "a", (0.001, 0.001, 0.001, 0.001))
    broken[2] = replace(broken[2], status="failed", metrics={}, reason="NaN")
    (ranking,) = inversion_rankings(
        one_board(inversion("good", "a", (0.004, 0.005, 0.004, 0.005)), broken)
    )
    assert (lines(ranking)["broken"].rank, lines(ranking)["broken"].note) == (
        "",
        "seed 2 failed or not measured",
    )
    assert lines(ranking)["good"].rank == "1"


def failed(records: Sequence[Record], *seeds: int, status: str = "failed") -> list[Record]:
    """The same with these seeds failed, or skipped."""
    return [
        replace(one, status=status, metrics={}, reason="broke") if one.seed in seeds else one
        for one in records
    ]


def test_a_failed_seed_counts_where_nobody_else_detects_anything() -> None:
    """A detector that was alone in its suite was ranked by the seeds in which it had worked."""
    alone = failed(detector("x", "a", (0.9, 0.9, 0.9, 0.9, 0.9)), 1, 3)
    (ranking,) = detector_rankings(one_board(alone))
    (line,) = ranking.lines
    assert line.worst.mean == pytest.approx(0.54) and line.worst.n == 5
    assert line.flags[0] == "2 failed seeds counted as finding nothing"


def test_an_attack_on_which_a_detector_failed_throughout_is_its_worst() -> None:
    """It stood first for the other attack alone, beside one of another suite that met both."""
    steady = (0.5, 0.52, 0.5)
    mine = run(
        detector("x", "a", (0.9, 0.9, 0.9)), failed(detector("x", "b", (0.9, 0.9, 0.9)), 0, 1, 2)
    )
    other = replace(run(detector("y", "a", steady), detector("y", "b", steady)), suite="other")
    (board,) = boards([mine, other])
    (ranking,) = detector_rankings(board)
    line = lines(ranking)["x"]
    assert (line.rank, line.worst.mean, label(line.attack)) == ("", 0.0, "b")
    assert lines(ranking)["y"].rank == "1"


def test_what_a_detector_was_not_tried_on_is_no_failure() -> None:
    """Skipped is neither good nor bad: there is no rank, and no zero."""
    skipping = failed(detector("x", "b", (0.9, 0.9, 0.9)), 0, 1, 2, status="skipped")
    steady = (0.5, 0.52, 0.5)
    (ranking,) = detector_rankings(
        one_board(
            detector("x", "a", (0.9, 0.9, 0.9)),
            skipping,
            detector("y", "a", steady),
            detector("y", "b", steady),
        )
    )
    line = lines(ranking)["x"]
    assert (line.rank, line.note) == ("", "not measured against b")
    assert line.worst.mean == pytest.approx(0.9) and not any(
        "failed" in flag for flag in line.flags
    )


@pytest.mark.parametrize("status", ["skipped", "ok"])
def test_an_inversion_without_an_error_on_one_attack_has_no_rank(status: str) -> None:
    """The whole board ended in a KeyError where another suite's inversion had one."""
    mine = run(
        inversion("x", "a", (0.004, 0.005, 0.004)),
        failed(inversion("x", "b", (0.004, 0.005, 0.004)), 0, 1, 2, status=status),
    )
    theirs = [inversion("y", attack, (0.004, 0.005, 0.004)) for attack in "ab"]
    (board,) = boards([mine, replace(run(*theirs), suite="other")])
    (ranking,) = inversion_rankings(board)
    assert (lines(ranking)["x"].rank, lines(ranking)["x"].note) == ("", "not measured against b")
    assert lines(ranking)["y"].rank == "1"


def test_who_recovers_the_trigger_is_ranked_by_the_triggers_own_error() -> None:
    """An inversion that recovers no target had no line anywhere, and one that recovers both was
    judged by its target alone. Each ranking has its own constant image, honest model and seeds.
    """
    first = [
        *recovery("first", "a", (0.004, 0.005, 0.004)),
        *recovery("first", "b", (0.03, 0.02, 0.03), constant=0.1),
    ]
    second = both(
        [*inversion("second", "a", (0.001,) * 3), *inversion("second", "b", (0.001,) * 3)],
        [*recovery("second", "a", (0.03, 0.031, 0.03)), *recovery("second", "b", (0.01,) * 3)],
    )
    honest = recovery("first", "none", (0.2, 0.2, 0.2), constant=0.1, probe="b")
    of_target = inversion("third", "a", (0.03, 0.04, 0.03))
    board = one_board(first, second, honest, of_target)
    trigger, target = inversion_rankings(board)
    assert (trigger.what, trigger.metric) == ("trigger", "trigger_mse_last")
    assert (target.what, target.metric) == ("target", "inversion_mse_last")
    by_name = lines(trigger)
    assert {name: line.rank for name, line in by_name.items()} == {"first": "1", "second": "2"}
    worst = by_name["first"].worst
    assert worst.mean == pytest.approx((0.3 * 0.2 * 0.3) ** (1 / 3)) and worst.n == 3
    assert label(by_name["first"].attack) == "b"
    assert [one.text for one in by_name["first"].beside] == ["0.13", "2.00"]
    assert lines(target).keys() == {"second", "third"} and lines(target)["second"].rank == "1"


def test_a_trigger_no_nearer_than_a_constant_image_is_not_recovered() -> None:
    """Whatever became of the target; and what is flagged of the target stays with it."""
    level = recovery("level", "a", (0.05, 0.03, 0.05))
    good = both(inversion("good", "a", (0.001,) * 3), recovery("good", "a", (0.05,) * 3))
    trigger, target = inversion_rankings(one_board(level, good))
    assert not any(line.finds or line.rank or line.flags for line in trigger.lines)
    assert lines(target)["good"].finds
    few = recovery("few", "a", (0.001, 0.001))
    (alone,) = inversion_rankings(one_board(few))
    assert lines(alone)["few"].note == "fewer than 3 seeds"


def test_a_trigger_that_one_seed_lacks_takes_the_rank() -> None:
    """The rules are those of the target."""
    broken = failed(recovery("broken", "a", (0.001,) * 4), 2)
    (ranking,) = inversion_rankings(one_board(recovery("good", "a", (0.004,) * 4), broken))
    assert lines(ranking)["broken"].note == "seed 2 failed or not measured"
    assert lines(ranking)["good"].rank == "1"
