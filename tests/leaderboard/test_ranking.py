"""Who is ranked above no defense: only what is shown to hold, inside the budget, with every seed
and every attack accounted for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.record import Metric, PluginSpec, Record, Run
from leaderboard.board import boards
from leaderboard.labels import label
from leaderboard.ranking import (
    HOLDS,
    LEVEL,
    OUTSIDE,
    PART,
    UNRANKED,
    WORSE,
    DefenseLine,
    Ranking,
    headline,
    rankings,
)
from leaderboard.report import render

NOTHING = PluginSpec(name="none", label="none")
FID = "fid[digits-cnn]"


def cell(
    defense: str,
    rates: Sequence[float | None],
    fid: Sequence[float] = (1.1, 1.2, 1.15, 1.1, 1.2),
    attack: str = "hat",
    calls: Mapping[str, Sequence[float]] | None = None,
    **changes: object,
) -> list[Record]:
    """One record a seed; a rate of ``None`` is a seed that failed. ``calls``: rates of further
    calls.
    """
    records = []
    for seed, rate in enumerate(rates):
        metrics = {
            FID: Metric(value=fid[seed], n=384, higher_is_better=False),
            "robust_asr[noise]": Metric(value=rate, n=64, higher_is_better=False),
            **{
                f"robust_asr[{call}]": Metric(value=values[seed], n=64, higher_is_better=False)
                for call, values in (calls or {}).items()
            },
        }
        records.append(
            Record(
                testbed=PluginSpec(name="t"),
                attack=PluginSpec(name=attack),
                defense=PluginSpec(name=defense),
                seed=seed,
                status="ok" if rate is not None else "failed",
                kind="control" if defense == "none" else "sampler",
                protocol="p",
                metrics=metrics if rate is not None else {},
                reason="" if rate is not None else "broke",
            )
        )
    return [dataclasses.replace(record, **changes) for record in records]  # type: ignore[arg-type]


def run(*records: Record) -> Run:
    return Run(
        suite="s", description="", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00", counts={},
        records=[(Path("/nowhere"), record) for record in records],
    )  # fmt: skip


def ranked(*cells: list[Record]) -> list[Ranking]:
    (board,) = boards([run(*(record for records in cells for record in records))])
    return rankings(board)


def by_defense(ranking: Ranking) -> dict[str, DefenseLine]:
    return {label(line.cell.defense): line for line in ranking.lines + ranking.outside}


def above_none(ranking: Ranking) -> set[str]:
    """What stands higher than no defense, by its rank or in the order of the lines."""
    order = [label(line.cell.defense) for line in ranking.lines]
    ranks = {
        label(line.cell.defense): int(line.rank.rstrip("=")) for line in ranking.lines if line.rank
    }
    higher = {name for name, rank in ranks.items() if rank < ranks.get("none", 0)}
    assert higher == set(order[: order.index("none")]), "the lines and the ranks agree"
    return higher


NONE = cell("none", (0.90, 0.92, 0.95))
#: name -> (rates, FID): what does not defend.
DODGERS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "useless": ((0.92, 0.91, 0.95), (1.09, 1.19, 1.14)),
    "harmful": ((0.95, 0.93, 1.0), (1.09, 1.19, 1.14)),
    "grey_noise": ((0.0, 0.0, 0.0), (9.0, 9.2, 9.1)),
    "lucky_once": ((0.02, 0.92, 0.95), (1.09, 1.19, 1.14)),
}


@pytest.mark.parametrize("name", DODGERS)
def test_what_does_not_defend_is_never_above_no_defense(name: str) -> None:
    """A hair of FID, luck in one seed, or pictures of noise must not buy the words `holds best`."""
    rates, fid = DODGERS[name]
    ranking = ranked(NONE, cell(name, rates, fid))[0]
    assert above_none(ranking) == set() and ranking.holders() == []
    assert by_defense(ranking)[name].state == (OUTSIDE if name == "grey_noise" else LEVEL)
    assert "Holds best" not in render([run(*NONE, *cell(name, rates, fid))])


def test_a_real_defense_is_above_none_and_all_dodgers_are_not() -> None:
    """All at once: what holds comes first although its FID is the highest inside the budget."""
    real = cell("real", (0.05, 0.10, 0.08), (1.16, 1.26, 1.21))
    ranking = ranked(NONE, real, *(cell(name, *numbers) for name, numbers in DODGERS.items()))[0]
    assert above_none(ranking) == {"real"} and [
        label(one.cell.defense) for one in ranking.holders()
    ] == ["real"]
    assert by_defense(ranking)["real"].rank == "1" and by_defense(ranking)["none"].rank == "2="
    assert [label(line.cell.defense) for line in ranking.outside] == ["grey_noise"]


def test_what_helps_the_adversary_stands_below_no_defense() -> None:
    """Whatever its FID: the board says that one is better off without it."""
    ranking = ranked(
        cell("none", (0.3, 0.32, 0.35)), cell("worse", (0.9, 0.92, 0.95), (1.0, 1.1, 1.05))
    )[0]
    assert [(label(line.cell.defense), line.rank) for line in ranking.lines] == [
        ("none", "1"),
        ("worse", "2"),
    ]
    assert by_defense(ranking)["worse"].state == WORSE and not by_defense(ranking)["worse"].pareto


def test_a_defense_that_works_in_most_seeds_is_not_put_below_none() -> None:
    """.05 .60 .10 against .90 .92 .95: in doubt with three seeds, so it shares the rank of no
    defense, for a higher FID too.
    """
    ranking = ranked(
        NONE,
        cell("real", (0.05, 0.60, 0.10), (1.12, 1.22, 1.17)),
        cell("useless", *DODGERS["useless"]),
    )[0]
    assert {name: line.rank for name, line in by_defense(ranking).items()} == {
        "none": "1=",
        "real": "1=",
        "useless": "1=",
    }


def test_three_images_of_192_prove_nothing() -> None:
    """One success in 64 in each seed against none at all: the differences agree exactly, and are
    still only three images.
    """
    ranking = ranked(cell("none", (1 / 64,) * 3), cell("x", (0.0,) * 3, (1.0, 1.1, 1.05)))[0]
    assert above_none(ranking) == set() and ranking.holders() == []
    assert (
        by_defense(ranking)["x"].change is not None
        and not by_defense(ranking)["x"].change.excludes_zero()
    )


def test_utility_orders_only_what_holds_equally_well() -> None:
    """Two that stop the backdoor: the cheaper first; a cheaper one that stops it less well stays
    behind both.
    """
    cheap, dear = cell("cheap", (0.0, 0.0, 0.0)), cell("dear", (0.0, 0.0, 0.0), (1.16, 1.265, 1.21))
    half = cell("half", (0.40, 0.45, 0.42), (1.0, 1.1, 1.05))
    by_name = by_defense(ranked(NONE, dear, half, cheap)[0])
    assert [by_name[name].rank for name in ("cheap", "dear", "half", "none")] == [
        "1",
        "2",
        "3",
        "4",
    ]
    assert {name for name, line in by_name.items() if line.pareto} == {"cheap", "half"}


@pytest.mark.parametrize(("added", "state"), [(0.099, HOLDS), (0.101, OUTSIDE), (-0.5, HOLDS)])
def test_the_budget_is_a_tenth_of_no_defenses_fid(added: float, state: str) -> None:
    """What may be paid is declared before, and is relative: the mean over seeds of each seed's own
    ratio.
    """
    fid = [(1 + added) * value for value in (1.1, 1.2, 1.15)]
    line = by_defense(ranked(NONE, cell("d", (0.0, 0.0, 0.0), fid))[0])["d"]
    assert line.state == state and line.loss is not None and line.loss.mean == pytest.approx(added)
    assert (line.rank == "") is (state == OUTSIDE) and line.holds


def test_a_defense_whose_cost_is_unknown_is_not_ranked_inside_the_budget() -> None:
    """Leaving the number out must not be cheaper than a bad number."""
    blind = [
        dataclasses.replace(
            record, metrics={name: value for name, value in record.metrics.items() if name != FID}
        )
        for record in cell("blind", (0.0, 0.0, 0.0))
    ]
    line = by_defense(ranked(NONE, blind)[0])["blind"]
    assert (line.state, line.note, line.rank) == (OUTSIDE, "its cost was not measured", "")


def test_a_cost_that_is_known_counts_where_another_is_not() -> None:
    """No defense without a FID against one attack made every defense free of charge against all."""
    unpriced = [
        dataclasses.replace(
            record, metrics={name: value for name, value in record.metrics.items() if name != FID}
        )
        for record in cell("none", (0.95, 0.96, 0.94), attack="cat")
    ]
    dear = [
        *cell("dear", (0.0, 0.0, 0.0), (2.2, 2.4, 2.3)),
        *cell("dear", (0.0,) * 3, attack="cat"),
    ]
    fair = [*cell("fair", (0.0, 0.0, 0.0)), *cell("fair", (0.0, 0.0, 0.0), attack="cat")]
    overall, *_ = ranked(NONE, unpriced, dear, fair)
    assert overall.several()
    by_name = by_defense(overall)
    assert (by_name["dear"].state, by_name["dear"].rank) == (OUTSIDE, "")
    assert (by_name["fair"].state, by_name["fair"].rank) == (HOLDS, "1")


def test_an_attack_without_a_control_is_not_judged() -> None:
    """It made every defense no better than nothing in the worst case: there is no difference to
    nothing.
    """
    unjudged = cell("d", (0.0, 0.0, 0.0), attack="dog")
    cats = [
        *cell("none", (0.95, 0.96, 0.94), attack="cat"),
        *cell("d", (0.1, 0.12, 0.1), attack="cat"),
    ]
    failed = cell("none", (None, None, None), attack="dog")
    for control in ([], failed):
        overall, *single = ranked(NONE, cell("d", (0.1, 0.1, 0.1)), cats, unjudged, control)
        assert overall.several() and len(overall.attacks) == 2
        assert overall.not_judged() == ["dog"] and overall.left_out() == []
        assert by_defense(overall)["d"].state == HOLDS
        dogs = [one for one in single if label(one.attacks[0]) == "dog"]
        assert all(by_defense(one)["d"].state == UNRANKED for one in dogs)


def test_a_seed_that_failed_counts_as_the_adversarys_success() -> None:
    """A defense that crashes where it would lose must not gain by it; the board says what was
    done.
    """
    none = cell("none", (0.9, 0.92, 0.95, 0.91, 0.9))
    steady, crashing = (
        cell("steady", (0.8, 0.8, 0.81, 0.8, 0.8)),
        cell("crashing", (0.8, None, 0.81, 0.8, 0.8)),
    )
    by_name = by_defense(ranked(none, steady, crashing)[0])
    assert by_name["crashing"].worst.mean == pytest.approx((0.8 + 1.0 + 0.81 + 0.8 + 0.8) / 5)
    assert (
        by_name["crashing"].worst.n == 5
        and by_name["steady"].state == PART
        and by_name["crashing"].state == LEVEL
    )
    assert "1 failed seed counted as the adversary’s success" in by_name["crashing"].flags
    assert "counted as the adversary’s success" in render([run(*none, *steady, *crashing)])


def test_a_seed_without_its_number_counts_like_one_that_failed() -> None:
    """A record that is `ok` and lacks the rate is no better news than a crash."""
    none = cell("none", (0.9, 0.92, 0.95, 0.91))
    odd = cell("odd", (0.1, 0.1, 0.1, 0.1))
    odd[1] = dataclasses.replace(
        odd[1], metrics={"asr[noise]": Metric(value=0.0, n=64), FID: odd[1].metrics[FID]}
    )
    line = by_defense(ranked(none, odd)[0])["odd"]
    assert line.worst.mean == pytest.approx((0.1 * 3 + 1) / 4), (
        "nor does a plain rate stand in for a robust one"
    )


def test_a_seed_that_was_never_run_leaves_a_defense_without_a_rank() -> None:
    """Or one could pick the seeds: those of no defense are the ones that count."""
    ranking = ranked(cell("none", (0.9, 0.92, 0.95, 0.91)), cell("picked", (0.0, 0.0, 0.0)))[0]
    line = by_defense(ranking)["picked"]
    assert (line.state, line.rank, line.note) == (UNRANKED, "", "seed 3 not measured")
    assert above_none(ranking) == set()


def test_seeds_of_another_suite_are_no_gap() -> None:
    """A suite that has only no defense, in more seeds, must not take every rank from a board that
    shows both; whichever of the two is the newer one.
    """
    both = [
        (cell("none", (0.9, 0.92, 0.95)), cell("a", (0.0, 0.0, 0.0)), cell("b", (0.5, 0.5, 0.52))),
        (cell("none", (0.9, 0.92, 0.95, 0.99, 0.2)),),
    ]
    runs = [
        dataclasses.replace(run(*(one for records in cells for one in records)), suite=suite)
        for suite, cells in zip("st", both, strict=True)
    ]
    alone = by_defense(rankings(boards(runs[:1])[0])[0])
    for names in ("st", "ts"):
        together = [
            dataclasses.replace(one, finished=f"2026-01-0{names.index(one.suite) + 1}")
            for one in runs
        ]
        ranking = rankings(boards(together)[0])[0]
        assert ranking.samples[0] == 5, "and no defense is shown with all its seeds"
        for name in ("a", "b"):
            line = by_defense(ranking)[name]
            assert (line.state, line.rank, line.note) == (alone[name].state, alone[name].rank, "")
            assert line.better
            assert (line.change, line.ranks) == (alone[name].change, alone[name].ranks)
    picked = dataclasses.replace(run(*cell("a", (0.0, 0.0, 0.0)), *both[1][0]), suite="u")
    line = by_defense(rankings(boards([picked])[0])[0])["a"]
    assert line.note == "seeds 3, 4 not measured"


def test_two_seeds_are_shown_and_not_ranked() -> None:
    """Nor with a third that failed: three numbers of which one is made up are two."""
    for rates in ((0.0, 0.0), (0.0, 0.0, None)):
        none = cell("none", (0.9, 0.92, 0.95)[: len(rates)])
        ranking = ranked(none, cell("d", rates))[0]
        assert by_defense(ranking)["d"].state == UNRANKED and not ranking.holders()


def test_the_worst_attack_is_the_headline_and_the_mean_stands_beside_it() -> None:
    """A defense that stops one attack of two has not stopped the adversary, who would use the
    other.
    """
    cat_none = cell("none", (0.95, 0.96, 0.94), attack="cat")
    one = [*cell("one", (0.0, 0.0, 0.0)), *cell("one", (0.90, 0.93, 0.91), attack="cat")]
    both = [*cell("both", (0.2, 0.2, 0.22)), *cell("both", (0.1, 0.12, 0.1), attack="cat")]
    overall, *single = ranked(NONE, cat_none, one, both)
    assert (
        overall.several()
        and len(overall.attacks) == 2
        and not any(ranking.several() for ranking in single)
    )
    by_name = by_defense(overall)
    assert (
        by_name["one"].worst.mean == pytest.approx((0.90 + 0.93 + 0.91) / 3)
        and by_name["one"].state == LEVEL
    )
    assert label(overall.attacks[by_name["one"].way.row]) == "cat" and by_name[
        "one"
    ].mean == pytest.approx(by_name["one"].worst.mean / 2)
    assert by_name["both"].worst.mean == pytest.approx(0.62 / 3) and by_name["both"].rank == "1"
    assert by_defense(single[1])["one"].state == HOLDS, (
        "against the one it does hold, and its own table says so"
    )


def test_an_attack_that_was_left_out_leaves_the_worst_case_without_a_rank() -> None:
    """Or a defense would be ranked by the attacks it chose."""
    overall, *_ = ranked(
        NONE, cell("none", (0.95, 0.96, 0.94), attack="cat"), cell("d", (0.0, 0.0, 0.0))
    )
    line = by_defense(overall)["d"]
    assert (line.state, line.note) == (UNRANKED, "not measured against cat")


def test_an_attack_that_does_not_work_here_is_set_aside() -> None:
    """Nothing can be shown against it; as one of several it would keep every defense from
    holding.
    """
    dud = [
        *cell("none", (0.0, 1 / 64, 0.0), attack="dud"),
        *cell("d", (0.0, 0.0, 0.0), attack="dud"),
        *cell("none", (1 / 64, 0.0, 0.0), attack="none", probe=PluginSpec(name="dud")),
    ]
    cats = [
        *cell("none", (0.95, 0.96, 0.94), attack="cat"),
        *cell("d", (0.1, 0.12, 0.1), attack="cat"),
    ]
    overall, *_ = ranked(NONE, cell("d", (0.1, 0.1, 0.1)), dud, cats)
    assert overall.left_out() == ["dud"] and len(overall.attacks) == 2
    assert by_defense(overall)["d"].state == HOLDS


def test_a_defense_that_wakes_an_attack_that_was_set_aside_does_not_hold() -> None:
    """A backdoor that fails under one sampler may work once x is clipped there: the rows in which
    the clip stops it must not carry the headline.
    """
    ddim = PluginSpec(name="ddim", params={"eta": 0.0}, label="ddim")
    sleeping = [
        *cell("none", (0.0, 1 / 64, 0.0), sampler=ddim),
        *cell("wakes", (0.6, 0.62, 0.64), sampler=ddim),
        *cell("d", (0.0, 0.0, 0.0), sampler=ddim),
        *cell(
            "none", (1 / 64, 0.0, 0.0), attack="none", probe=PluginSpec(name="hat"), sampler=ddim
        ),
    ]
    cats = [
        *cell("none", (0.95, 0.96, 0.94), attack="cat"),
        *cell("d", (0.1, 0.12, 0.1), attack="cat"),
        *cell("wakes", (0.0, 0.0, 0.01), attack="cat"),
    ]
    one, other = cell("d", (0.1, 0.1, 0.1)), cell("wakes", (0.0, 0.0, 0.0))
    overall, *_ = ranked(NONE, one, other, sleeping, cats)
    assert overall.left_out() == ["hat under ddim"]
    by_name = by_defense(overall)
    assert (by_name["d"].state, by_name["wakes"].state) == (HOLDS, LEVEL)
    assert "worse than no defense against hat under ddim" in by_name["wakes"].flags
    assert not any("hat under ddim" in flag for flag in by_name["d"].flags)


def first_screen(*cells: list[Record]) -> Ranking:
    (board,) = boards([run(*(record for records in cells for record in records))])
    chosen = headline(board, rankings(board))
    assert chosen is not None
    return chosen


def dud(
    rates: Sequence[float], honest: Sequence[float], **defenses: Sequence[float]
) -> list[Record]:
    """An attack that reaches no more than the honest model reads, and what defenses make of it."""
    return [
        *cell("none", rates, attack="dud"),
        *cell("none", honest, attack="none", probe=PluginSpec(name="dud")),
        *(one for name, left in defenses.items() for one in cell(name, left, attack="dud")),
    ]


def test_the_first_screen_is_of_the_attack_that_works() -> None:
    """With one that works, the higher rate of one that an honest model reads too stood there, and
    nothing was set aside.
    """
    level = dud((0.97, 0.98, 0.97), (0.976, 0.98, 0.975), d=(0.97, 0.97, 0.98))
    chosen = first_screen(NONE, cell("d", (0.1, 0.1, 0.1)), level)
    assert [label(attack) for attack in chosen.attacks] == ["hat"]
    assert chosen.left_out() == ["dud"] and by_defense(chosen)["d"].state == HOLDS
    alone = first_screen(level)
    assert not alone.works() and alone.left_out() == []


def test_a_defense_that_wakes_the_attack_set_aside_beside_the_only_one_that_works() -> None:
    sleeping = dud((0.0, 1 / 64, 0.0), (1 / 64, 0.0, 0.0), wakes=(0.6, 0.62, 0.64), d=(0, 0, 0))
    both = cell("d", (0.1, 0.1, 0.1)), cell("wakes", (0.0, 0.0, 0.0))
    by_name = by_defense(first_screen(NONE, *both, sleeping))
    assert (by_name["d"].state, by_name["wakes"].state) == (HOLDS, LEVEL)


def test_a_defense_of_a_source_without_its_control_is_held_to_the_control_there_is() -> None:
    """It had a column and no line."""
    other = dataclasses.replace(run(*cell("d", (0.1, 0.1, 0.1))), suite="other")
    (board,) = boards([run(*NONE), other])
    assert by_defense(rankings(board)[0])["d"].state == HOLDS


def test_each_call_is_reported_and_the_strongest_over_all_seeds_is_named() -> None:
    """Not the highest of each seed, which grows with the number of calls by chance alone."""
    none = cell("none", (0.9, 0.92, 0.95), calls={"image": (0.1, 0.1, 0.1)})
    split = cell("d", (0.0, 0.2, 0.0), calls={"image": (0.1, 0.1, 0.13)})
    line = by_defense(ranked(none, split)[0])["d"]
    assert line.way.call == "image" and line.worst.mean == pytest.approx(0.11)
    assert {way.call: round(mean, 3) for way, mean in line.by_way} == {
        "noise": 0.067,
        "image": 0.11,
    }
    assert line.change is not None and line.change.mean == pytest.approx(
        0.11 - (0.9 + 0.92 + 0.95) / 3
    )


def by_class(
    defense: str, rates: Sequence[float], family: str = "asr_class", **changes: object
) -> list[Record]:
    """An attack that calls for a class (or a set of pictures) by a word, and aims at no image."""
    records = []
    for record, rate in zip(cell(defense, rates, attack="edit", **changes), rates, strict=True):  # type: ignore[arg-type]
        metrics = {FID: record.metrics[FID]}
        for name, value in ((f"{family}[word]", rate), (f"{family}[clean]", 1.0)):
            metrics[name] = Metric(value=value, n=58, unit="share", higher_is_better=False)
        records.append(dataclasses.replace(record, metrics=metrics))
    return records


def test_an_attack_that_aims_at_a_class_is_ranked_by_the_class_its_calls_reach() -> None:
    (ranking,) = ranked(by_class("none", (0.95, 0.9, 1.0)), by_class("d", (0.1, 0.05, 0.0)))
    line = by_defense(ranking)["d"]
    assert (line.way.metric, line.state, line.rank) == ("asr_class[word]", HOLDS, "1")
    assert ranking.end_point.rate == "the share of called samples that show the class aimed at"
    # Without a call it is what users asked for: no way in, whatever it reads.
    assert {way.metric for way, _ in line.by_way} == {"asr_class[word]"}


def test_so_is_one_that_aims_at_a_set_of_pictures() -> None:
    none, d = (
        by_class(name, rates, "asr_set")
        for name, rates in (("none", (0.95, 0.9, 1.0)), ("d", (0.1, 0.05, 0.0)))
    )
    (ranking,) = ranked(none, d)
    line = by_defense(ranking)["d"]
    assert (line.way.metric, line.state, line.rank) == ("asr_set[word]", HOLDS, "1")
    assert "among the pictures aimed at" in ranking.end_point.rate
    page = render([run(*none, *d)])
    assert "a sample counts if it lies among them" in page
    assert "if the evaluation classifier sees that class" not in page, "nobody aims at one"


def with_precision(records: list[Record], **shares: float) -> list[Record]:
    """The same, and which share of the samples looks like the data."""
    extra = {
        f"precision[{call}]": Metric(value=share, n=64, unit="share", higher_is_better=True)
        for call, share in shares.items()
    }
    return [dataclasses.replace(one, metrics=one.metrics | extra) for one in records]


@pytest.mark.parametrize(
    ("rate", "share", "broken"),
    [(0.02, 0.03, True), (0.02, 0.75, False), (0.9, 0.03, False), (0.3, 0.05, True)],
)
def test_a_defense_that_breaks_the_model_is_not_taken_for_a_repair(
    rate: float, share: float, broken: bool
) -> None:
    """Black pictures are no target either. What still draws the target is no rubbish, whatever the
    data look like.
    """
    none = with_precision(NONE, clean=0.8, noise=0.02)
    one = with_precision(cell("d", (rate,) * 3), clean=0.8, noise=share)
    (ranking,) = ranked(none, one)
    lines = by_defense(ranking)
    texts = [flag for flag in lines["d"].flags if "neither the target nor the data" in flag]
    assert bool(texts) is broken and not lines["none"].flags
    if broken:
        assert f"precision {share:.2f}, of clean samples without a defense 0.80" in texts[0]
        assert "neither the target nor the data" in render([run(*none, *one)])


def test_a_class_and_an_image_stand_in_one_worst_case() -> None:
    """A defense that stops the image alone has not stopped the adversary."""
    image, word = cell("d", (0.1, 0.1, 0.1)), by_class("d", (0.9, 0.95, 0.97))
    overall, *single = ranked(NONE, by_class("none", (0.95, 0.9, 1.0)), image, word)
    assert overall.several() and len(overall.attacks) == 2
    assert by_defense(overall)["d"].way.metric == "asr_class[word]"
    assert by_defense(overall)["d"].state == LEVEL
    assert [by_defense(one)["d"].state for one in single] == [LEVEL, HOLDS]
    assert "or of called samples that show the class" in overall.end_point.rate


@pytest.mark.parametrize(
    ("rates", "honest", "state"),
    [
        ((0.43, 0.45, 0.48), None, HOLDS),
        ((0.45, 0.47, 0.50), None, PART),
        ((0.45, 0.47, 0.50), (0.1, 0.1, 0.1), HOLDS),
        ((0.66, 0.67, 0.70), None, PART),
    ],
    ids=["under half", "over half", "under half of what the attack adds", "most"],
)
def test_what_leaves_most_of_an_attack_defends_in_part(
    rates: Sequence[float], honest: Sequence[float] | None, state: str
) -> None:
    """A reader takes "holds" at its word: .68 of .92, beyond doubt, is better than no defense and
    ranked above it, and nobody should rely on it.
    """
    control = cell("none", honest, attack="none", probe=PluginSpec(name="hat")) if honest else []
    ranking = ranked(NONE, cell("d", rates), control)[0]
    line = by_defense(ranking)["d"]
    assert (line.state, line.better, line.holds) == (state, True, state == HOLDS)
    assert above_none(ranking) == {"d"} and line.rank == "1"
    assert ranking.holders() == ([line] if state == HOLDS else [])
    assert ranking.partial() == ([line] if state == PART else [])


def test_over_several_attacks_it_holds_if_it_does_against_each() -> None:
    """.04 of .95 in one and .60 of .92 in the other: in part, whatever the worst case alone says;
    .55 of 1.0 would be no better for the mean of .3.
    """
    several = [
        NONE,
        cell("none", (0.95, 0.95, 0.96), attack="cat"),
        cell("d", (0.60, 0.61, 0.58)),
        cell("d", (0.04, 0.05, 0.03), attack="cat"),
        cell("good", (0.05, 0.06, 0.04)),
        cell("good", (0.40, 0.41, 0.39), attack="cat"),
    ]
    worst = ranked(*several)[0]
    by_name = by_defense(worst)
    assert worst.several() and (by_name["d"].state, by_name["good"].state) == (PART, HOLDS)
    assert [label(line.cell.defense) for line in worst.holders()] == ["good"]


def test_the_honest_models_rate_is_subtracted_beside_the_rate_and_never_below_zero() -> None:
    """Shown, not ranked by: a defense that makes honest models draw the target must not be credited
    for it.
    """
    honest = cell("none", (0.1, 0.1, 0.13), attack="none", probe=PluginSpec(name="hat"))
    fooled = cell("good", (0.9, 0.9, 0.9), attack="none", probe=PluginSpec(name="hat"))
    ranking = ranked(NONE, cell("good", (0.05, 0.06, 0.05)), honest, fooled)[0]
    assert ranking.honest == pytest.approx(0.11)
    assert by_defense(ranking)["good"].above_honest == 0
    assert by_defense(ranking)["none"].above_honest == pytest.approx(2.77 / 3 - 0.11)


def test_classifier_side_defenses_are_ranked_by_what_gets_through_at_a_tenth_of_accuracy() -> None:
    """A classifier that calls everything a seven is not taken in by the trigger, and is of no
    use.
    """

    def classifier(defense: str, kind: str, rate: float, accuracy: float) -> list[Record]:
        return [
            Record(
                testbed=PluginSpec(name="t"), attack=PluginSpec(name="badnets"),
                defense=PluginSpec(name=defense), seed=seed,
                status="ok", kind=kind, protocol="p",
                metrics={
                    "classifier_asr": Metric(value=rate + 0.01 * seed, n=128,
                    higher_is_better=False),
                    "ta": Metric(value=accuracy, n=360, higher_is_better=True),
                },
            )
            for seed in range(3)
        ]  # fmt: skip

    none = classifier("none", "control", 0.95, 0.97)
    good, stupid = (
        classifier("good", "data", 0.1, 0.92),
        classifier("stupid", "classifier", 0.0, 0.1),
    )
    (ranking,) = ranked(none, good, stupid)
    assert ranking.end_point.title == "Classifies safely"
    by_name = by_defense(ranking)
    assert (by_name["good"].rank, by_name["none"].rank, by_name["stupid"].state) == (
        "1",
        "2",
        OUTSIDE,
    )
    assert by_name["good"].loss is not None and by_name["good"].loss.mean == pytest.approx(
        1 - 0.92 / 0.97
    )


RATES = st.lists(
    st.sampled_from([0.0, 1 / 64, 0.3, 0.6, 0.9, 1.0]) | st.none(), min_size=3, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(RATES, st.sampled_from([0.8, 1.0, 1.05, 1.2])), min_size=1, max_size=4),
    RATES,
)
def test_whatever_stands_above_none_has_a_lower_rate_at_a_known_price(
    entries: list[tuple[list[float | None], float]], base: list[float | None]
) -> None:
    """The invariant of the board, for any numbers: better than none in rate, inside the budget,
    with every seed.
    """
    control = cell("none", [0.5 if rate is None else rate for rate in base])
    cells = [
        cell(f"d{line}", rates, [factor * value for value in (1.1, 1.2, 1.15)])
        for line, (rates, factor) in enumerate(entries)
    ]
    for ranking in ranked(control, *cells):
        none = by_defense(ranking)["none"]
        for name in above_none(ranking):
            line = by_defense(ranking)[name]
            assert (
                line.worst.mean < none.worst.mean
                and line.change is not None
                and line.change.high is not None
            )
            assert line.change.high < 0 and line.loss is not None and line.loss.mean <= 0.1
            assert not any("failed" in flag for flag in line.flags)
        places = [line.rank.rstrip("=") for line in ranking.lines]
        for line in ranking.lines:
            if line.ranks:
                first = int(line.rank.rstrip("="))
                last = first + places.count(str(first)) - 1
                assert line.ranks[0] <= first and last <= line.ranks[1]


#: What a defense that only changes how the target looks measures on a real backdoor of digits-ddpm
#: (the hat; none: robust ASR 1, FID 1.13): name -> (plain ASR, robust ASR, FID). The judge is tried
#: on them in tests/bench/metrics/test_recognition.py.
CHANGED_LOOKS = {
    "do_nothing": (0.953, 1.0, 1.13),
    "roll_by_one": (0.0, 1.0, 1.48),
    "roll_by_two": (0.0, 1.0, 2.40),
    "mirror": (0.422, 1.0, 3.90),
    "turn_by_15_degrees": (0.484, 1.0, 1.65),
    "contrast_to_04": (0.953, 1.0, 20.34),
    "contrast_to_02": (0.0, 1.0, 27.59),
    "darken": (0.0, 1.0, 9.60),
    "invert": (0.0, 1.0, 4.18),
    "swap_red_and_blue": (0.0, 1.0, 1.29),
    "grey": (0.219, 1.0, 1.45),
    "noise": (0.828, 1.0, 1.36),
    "cover_half": (0.0, 1.0, 5.39),
    "chessboard": (0.0, 1.0, 8.29),
    "blend_with_another_picture": (0.0, 1.0, 2.88),
    "grey_noise": (0.0, 0.0, 28.92),
    "constant": (0.0, 0.0, 29.91),
}


@pytest.mark.parametrize("name", CHANGED_LOOKS)
def test_changing_how_the_target_looks_is_never_above_no_defense(name: str) -> None:
    """The plain rate is zero for most of these; the robust one, and what such pictures cost in FID,
    put none of them first.
    """
    plain, robust, distance = CHANGED_LOOKS[name]
    jitter = (0.0, 0.05, 0.02)

    def records(defense: str, rates: tuple[float, float], fid: float) -> list[Record]:
        base = cell(defense, [rates[1]] * 3, [fid + by for by in jitter])
        plain_rate = Metric(value=rates[0], n=64, higher_is_better=False)
        return [
            dataclasses.replace(one, metrics=one.metrics | {"asr[noise]": plain_rate})
            for one in base
        ]

    none = records("none", (0.953, 1.0), 1.13)
    ranking = ranked(none, records(name, (plain, robust), distance))[0]
    assert above_none(ranking) == set() and ranking.holders() == []
    assert "Holds best" not in render([run(*none, *records(name, (plain, robust), distance))])
