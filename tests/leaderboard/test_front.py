"""The first screen and the whole matrix: the engine's own ranks, nothing compared across boards,
nothing lost, and only what the records say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.record import Flag, Metric, PluginSpec, Record, Run, read_runs
from leaderboard import definitions, methods, view
from leaderboard.board import Board, boards, identity
from leaderboard.finders import detector_rankings
from leaderboard.front import board_names, front
from leaderboard.labels import label
from leaderboard.matrix import summary
from leaderboard.questions import Question, questions
from leaderboard.ranking import rankings
from leaderboard.report import render
from leaderboard.view import board_view
from leaderboard.whole import (
    ASR,
    CLASSIFIER,
    DETECTION,
    POPULATION,
    RECOVERED,
    Column,
    Item,
    Whole,
    whole,
)

NONE = PluginSpec(name="none")
OF_TRIGGER, OF_TARGET = RECOVERED
ATTACK, OTHER = PluginSpec(name="a"), PluginSpec(name="b")
MINE = {"title": "A backdoor", "authors": "Ann Lee, Bo Chu", "year": 2023}
THEIRS = {"title": "A clip", "authors": "Cy Doe", "year": 2024}


def record(**changes: Any) -> Record:
    plain = Record(
        testbed=PluginSpec(name="t", params={"num_inference_steps": 50, "sampler": "ddim"}),
        attack=ATTACK,
        defense=NONE,
        seed=0,
        status="ok",
        kind="control",
        protocol="p",
    )
    return dataclasses.replace(plain, **changes)


def run(*records: Record) -> Run:
    return Run(
        suite="s",
        description="",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00",
        counts={},
        records=[(Path("/nowhere"), one) for one in records],
    )


def rates(noise: float, image: float, n: int = 64) -> dict[str, Metric]:
    return {
        f"asr[{call}]": Metric(value=value, n=n, higher_is_better=False)
        for call, value in (("noise", noise), ("image", image), ("clean", 0.99))
    }


def items(matrix: Whole) -> dict[tuple[str, str, str], Item]:
    """(attack or ``none``, defense, metric) -> the cell of the first board."""
    ((_, lines), *_) = matrix.boards
    return {
        (line.row.attack.name, column.spec.name, column.metric): item
        for line in lines
        for column, item in zip(matrix.columns, line.items, strict=True)
    }


def asked(stores: list[Path]) -> dict[str, Question]:
    every = boards([one for store in stores for one in read_runs(store)])
    return {one.id: one for one in questions([board_view(board) for board in every])}


def test_ranks_and_their_intervals_are_the_engines(store: Path, class_store: Path) -> None:
    """The first screen shows the ranking and makes none: every line of every board's headline
    ranking, with its rank, interval, worst case and mean.
    """
    both = asked([store, class_store])
    assert list(both) == ["stops", "finds", "recovers-trigger", "recovers", "classifies"]
    for path in (store, class_store):
        for board in boards(read_runs(path)):
            headline = next((one for one in rankings(board) if one.contested()), None)
            if headline is None:
                continue
            title = headline.end_point.title
            (group,) = (
                group
                for question in both.values()
                if question.title == title
                for group in question.groups
                if group.board.id == board.id
            )
            assert [
                (one.cell.id, one.rank, one.ranks, one.value, one.mean) for one in group.entries
            ] == [
                (line.cell.id, line.rank, line.ranks, line.worst.mean, line.mean)
                for line in headline.lines + headline.outside
            ]
    ranked = [
        ranking for board in boards(read_runs(class_store)) for ranking in detector_rankings(board)
    ]
    assert [[entry.rank for entry in group.entries] for group in both["finds"].groups] == [
        [line.rank for line in ranking.lines] for ranking in ranked
    ]


def test_an_answer_names_what_holds_or_why_nothing_does(store: Path) -> None:
    """And praises nothing that the engine does not rank first."""
    both = asked([store])
    (group,) = both["stops"].groups
    assert (group.answer.good, group.answer.best) == (True, "clip_x0")
    few = [
        record(seed=seed, defense=spec, kind=kind, metrics=rates(rate, 0.0))
        for spec, kind, rate in ((NONE, "control", 0.9), (PluginSpec(name="d"), "sampler", 0.0))
        for seed in range(2)
    ]
    (board,) = boards([run(*few)])
    (question,) = questions([board_view(board)])
    assert (question.groups[0].answer.good, question.groups[0].answer.best) == (None, "not ranked")
    level = [dataclasses.replace(one, metrics=rates(0.9, 0.0)) for one in few] + [
        dataclasses.replace(one, seed=2, metrics=rates(0.9, 0.0)) for one in few[::2]
    ]
    (board,) = boards([run(*level)])
    (question,) = questions([board_view(board)])
    assert (question.groups[0].answer.good, question.groups[0].answer.best) == (False, "none holds")


@pytest.mark.parametrize("left", [0.1, 0.5])
def test_an_answer_ticks_off_nothing_that_leaves_most_of_the_attack(left: float) -> None:
    """The first screen ticked a defense that took the rate from 100 to 90 %."""
    records = [
        record(seed=seed, defense=spec, kind=kind, metrics=rates(rate, 0.0))
        for spec, kind, rate in ((NONE, "control", 0.9), (PluginSpec(name="d"), "sampler", left))
        for seed in range(3)
    ]
    (board,) = boards([run(*records)])
    (question,) = questions([board_view(board)])
    (group,) = question.groups
    status = next(one.status for one in group.entries if not one.control)
    if left == 0.1:
        assert (group.answer.good, group.answer.best, status) == (True, "d", "holds")
    else:
        assert (group.answer.good, group.answer.best, status) == (False, "none holds", "in part")
        assert group.answer.beside == "d in part: 90 % → 50 %"


def suite_of(attacks: dict[str, tuple[str, ...]], seeds: int = 3) -> list[Record]:
    """Attack -> the defenses that met it; every defense stops every attack it met."""
    return [
        record(
            seed=seed,
            attack=PluginSpec(name=attack),
            defense=PluginSpec(name=name),
            kind="control" if name == "none" else "sampler",
            metrics=rates(0.9 if name == "none" else 0.01 * (1 + seed), 0.0),
        )
        for attack, defenses in attacks.items()
        for name in ("none", *defenses)
        for seed in range(seeds)
    ]


def first_group(records: list[Record]) -> Any:
    (board,) = boards([run(*records)])
    (question,) = questions([board_view(board)])
    return question.groups[0]


def test_suites_that_share_a_board_are_ranked_where_their_defenses_met() -> None:
    """Nothing met every attack: the worst case over those that the most defenses all met, which is
    noted, and not over what suits one of them.
    """
    both = {"a": ("d", "e"), "b": ("d", "e"), "c": ("d",), "f": ()}
    group = first_group(suite_of(both))
    assert group.extent == "worst of 2 attacks"
    assert {entry.cell.defense.name for entry in group.entries} == {"none", "d", "e"}
    assert all(entry.rank for entry in group.entries) and group.answer.good is True
    assert any("Of 4 attacks" in note for note in group.notes)
    assert (group.answer.tail, group.answer.beside) == ("90 % → 2 %", "2 of 4 attacks")
    # A defense that met all of them is ranked over all, and the others are not.
    group = first_group(suite_of(both | {"f": ("d",)}))
    assert group.extent == "worst of 4 attacks" and group.notes[0].startswith("A difference")
    assert {entry.cell.defense.name: bool(entry.rank) for entry in group.entries} == {
        "none": True,
        "d": True,
        "e": False,
    }
    # One attack that one defense met is that attack's own ranking; too few seeds are none.
    assert first_group(suite_of({"a": ("d",), "b": ()})).extent == "a"
    assert first_group(suite_of({"a": ("d",), "b": ()}, seeds=2)).answer.good is None


def test_what_can_be_used_comes_first_and_boards_stay_apart(store: Path, class_store: Path) -> None:
    """A group per board, the answered before the open ones; two boards of one name differ."""
    both = asked([store, class_store])
    for question in both.values():
        good = [group.answer.good for group in question.answered()]
        assert good == sorted(good, key=lambda one: (True, False, None).index(one))
        assert {group.board.id for group in question.answered()} == {
            group.board.id for group in question.groups
        }
    twice = boards([run(record(), record(protocol="q"), record(testbed=PluginSpec(name="u")))])
    assert sorted(board_names(twice).values()) == ["t p", "t q", "u"]


def test_boards_of_one_testbed_are_named_by_their_suites() -> None:
    """Two headings of one text are one place to somebody who hears the page; a protocol's digits
    say nothing to those who see it.
    """
    many = run(record(), record(seed=1))
    other = dataclasses.replace(run(record(protocol="q")), suite="inpainting")
    views = [board_view(board) for board in boards([many, other])]
    assert sorted(board_names([view.board for view in views]).values()) == ["t", "t in inpainting"]
    page = render([many, other])
    assert re.findall(r'-title">(t\b[^<]*)</h3>', page) == ["t", "t in inpainting"]


def test_testbeds_of_one_name_are_named_by_what_tells_them_apart() -> None:
    """A reader chooses among ten of them by name; a hash says nothing. The largest is the plain
    one, and what varies without telling any two apart is left out.
    """

    def of(protocol: str, **params: object) -> Record:
        return record(testbed=PluginSpec(name="t", params=params), protocol=protocol)

    usual = {"steps": 50, "guidance": 2.0, "images": 512}
    made = [
        of("a", **usual),
        dataclasses.replace(of("a", **usual), seed=1),
        of("b", **usual | {"steps": 20, "images": 256}),
        of("c", **usual | {"steps": 20, "images": 256, "guidance": 5.0}),
        of("d", **usual | {"images": 256, "guidance": 5.0}),
    ]
    assert sorted(board_names(boards([run(*made)])).values()) == [
        "t",
        "t guidance=5",
        "t steps=20",
        "t steps=20, guidance=5",
    ]
    same = of("e", **usual | {"images": 256, "guidance": 5.0})
    names = sorted(board_names(boards([run(*made, same)])).values())
    assert names[1:3] == ["t guidance=5 d", "t guidance=5 e"]


def test_where_no_board_is_of_the_testbed_as_it_is_none_has_its_plain_name() -> None:
    """Another classifier's numbers under the testbed's own name are taken for its own."""

    def of(classifier: str) -> Record:
        own = classifier == "cnn"
        params = {} if own else {"classifier": classifier}
        label = "t" if own else f"t(classifier={classifier})"
        spec = PluginSpec(name="t", params=params, label=label)
        return record(testbed=spec, protocol=classifier)

    two = [of("vgg"), of("densenet")]
    assert sorted(board_names(boards([run(*two)])).values()) == [
        "t classifier=densenet",
        "t classifier=vgg",
    ]
    whole = run(*two, of("cnn"), dataclasses.replace(of("cnn"), seed=1))
    assert "t" in board_names(boards([whole])).values()


def test_the_matrix_has_every_cell_of_every_board_once(store: Path, class_store: Path) -> None:
    """In the metric of its family, as the records have it, beside as many controls as there are
    metrics to compare with.
    """
    every = boards([*read_runs(store), *read_runs(class_store)])
    matrix = whole(every)
    kinds = {(column.family, column.metric) for column in matrix.columns}
    assert kinds == {
        ("control", ASR),
        ("control", CLASSIFIER),
        ("sampler", ASR),
        ("model", ASR),
        ("data", CLASSIFIER),
        ("classifier", CLASSIFIER),
        ("inversion", OF_TRIGGER),
        ("inversion", OF_TARGET),
        ("sample detector", DETECTION),
        ("noise detector", DETECTION),
    }
    assert sum(span for _, span in matrix.families()) == len(matrix.columns)
    there = {
        item.table.cell.id
        for _, lines in matrix.boards
        for line in lines
        for item in line.items
        if item.table.cell
    }
    assert there == {cell.id for board in every for cell in board.cells.values()}
    for board, lines in matrix.boards:
        assert [line.control for line in lines] == sorted(line.control for line in lines)
        assert len(lines) == len(board.rows)
        for line in lines:
            for item in line.items:
                if item.value is not None and item.table.cell:
                    interval = summary(item.table.cell, item.name)
                    assert interval is not None and interval.mean == item.value


def test_the_call_that_works_best_is_what_remains(store: Path) -> None:
    """Another call stands below it; the clean control is no call."""
    (board,) = boards([run(*(record(seed=seed, metrics=rates(0.2, 0.7)) for seed in range(3)))])
    item = items(whole([board]))["a", "none", ASR]
    assert (item.name, item.table.text, item.table.n) == ("asr[image]", "0.70", "3 × 64")
    assert item.beside == (("noise", "0.20"),)
    assert item.table.step is not None and item.table.step < 5


def test_an_honest_model_has_no_colour(store: Path) -> None:
    """Nothing is defended there: its low rate is no defense's success, nor its target's absence an
    inversion's failure.
    """
    matrix = whole(boards(read_runs(store)))
    coloured = {
        (line.control, item.table.step is not None)
        for _, lines in matrix.boards
        for line in lines
        for item in line.items
        if item.value is not None
    }
    assert coloured == {(False, True), (True, False)}


@pytest.mark.parametrize(("error", "good"), [(0.005, True), (0.02, None), (0.039, False)])
def test_an_inversion_is_coloured_by_the_best_constant_image(
    error: float, good: bool | None
) -> None:
    """A number of its own has no meaning; as good as a constant image is neither good nor bad."""
    metrics = {
        "inversion_mse_last": Metric(value=error, n=1, higher_is_better=False),
        "inversion_mse_black": Metric(value=0.1, n=1),
        "mse[constant]": Metric(value=0.02, n=1),
    }
    one = record(defense=PluginSpec(name="anp"), kind="inversion", metrics=metrics)
    step = items(whole(boards([run(one)])))["a", "anp", OF_TARGET].table.step
    assert step is not None and (step > 5, step < 5) == (good is True, good is False)


def recovered(name: str, error: float, **more: Metric) -> list[Record]:
    """Three seeds of an inversion that recovers the trigger, and ``more``."""
    metrics = {
        "trigger_mse_last": Metric(value=error, n=4, higher_is_better=False),
        "trigger_mse_best": Metric(value=error, n=4, higher_is_better=False),
        "trigger_mse_constant": Metric(value=0.02, n=1),
    }
    one = record(defense=PluginSpec(name=name), kind="inversion", metrics=metrics | more)
    return [dataclasses.replace(one, seed=seed) for seed in range(3)]


def test_an_inversion_has_a_column_for_each_of_what_it_recovers() -> None:
    """One that recovers no target had a dash in every cell. Its number has its own definition,
    direction, samples and colour; a column for the target that it never recovers it has not.
    """
    both = {
        "inversion_mse_last": Metric(value=0.03, n=16, higher_is_better=False),
        "mse[constant]": Metric(value=0.02, n=1),
    }
    failing = [
        dataclasses.replace(one, testbed=PluginSpec(name="u"), status="failed", metrics={})
        for one in recovered("x", 0.005)
    ]
    every = boards([run(*recovered("x", 0.005), *recovered("y", 0.03, **both), *failing)])
    matrix = whole(every)
    assert [(column.spec.name, column.metric) for column in matrix.columns] == [
        ("x", OF_TRIGGER),
        ("y", OF_TRIGGER),
        ("y", OF_TARGET),
    ]
    near, far, target = (
        items(matrix)["a", column.spec.name, column.metric] for column in matrix.columns
    )
    assert (near.name, near.table.text, near.table.n) == (
        "trigger_mse_last",
        "0.00500",
        "3 × 4",
    )
    assert (target.name, target.table.n) == ("inversion_mse_last", "3 × 16")
    steps = [one.table.step for one in (near, far)]
    assert steps[0] is not None and steps[1] is not None and steps[1] < 5 < steps[0]
    for column, what in zip(matrix.columns, ("trigger", "trigger", "target"), strict=True):
        definition = definitions.of_column(column, every, board_names(every))
        terms = dict(definition.lines)
        assert definition.title == f"inversion MSE, {what}"
        assert terms["What it is"].endswith(f"the true {what}.")
        assert terms["Out of"] == f"All pixels of the {what}, in [0, 1]."
        assert terms["Direction"].startswith("Lower is better") and what in terms["Reference set"]


def test_recovering_the_trigger_and_the_target_are_two_questions() -> None:
    """Each says which it is in its title, its definitions and its methods' weaknesses."""
    (board,) = boards([run(*recovered("x", 0.005))])
    (one,) = questions([board_view(board)])
    assert (one.id, one.title) == ("recovers-trigger", "Recovers the trigger")
    ((entry,),) = (group.entries for group in one.groups)
    assert (entry.rank, entry.n, entry.value) == ("1", "3 × 4", pytest.approx(0.25))
    assert one.groups[0].answer.tail == "error 0.25 of a constant’s"
    worst = dict(definitions.of_question(one, board_names([board]))["worst"].lines)
    assert "to the true trigger" in worst["What it is"] and "black" not in worst["Reference set"]
    assert "dashed: a constant image" in worst["The bar"]
    page = render([run(*recovered("x", 0.005))])
    assert "Worst case: error to the trigger over a constant’s 0.25" in page
    assert "Recovers the target" not in page


def test_the_published_methods_of_the_trigger_stand_in_its_ranking() -> None:
    """They recover triggers first of all, and were in no ranking of them."""
    runs = results.read_source(results.published() / "unconditional")
    views = [board_view(board) for board in boards(runs)]
    asked_for = {one.id: one for one in questions(views)}
    (group,) = asked_for["recovers-trigger"].groups
    assert {entry.cell.defense.name for entry in group.entries} == {"terd", "elijah_inversion"}
    assert {entry.cell.defense.name for entry in asked_for["recovers"].groups[0].entries} == {
        "anp",
        "elijah_inversion",
    }
    assert not any("target" in flag for entry in group.entries for flag in entry.flags)
    matrix = whole([view.board for view in views])
    index = next(i for i, one in enumerate(matrix.columns) if one.spec.name == "terd")
    cells = [line.items[index] for _, lines in matrix.boards for line in lines]
    assert matrix.columns[index].metric == OF_TRIGGER and all(one.value for one in cells)


def test_a_detector_of_models_has_its_population(store: Path) -> None:
    """One number for all seeds, with the interval of the record."""
    spec, score = PluginSpec(name="weights_test"), {"model_score": Metric(value=1.0, n=1)}
    cells = [
        record(seed=seed, defense=spec, kind="model detector", metrics=score) for seed in range(3)
    ]
    area = {"auroc[models]": Metric(value=0.9, ci_low=0.4, ci_high=1.0, higher_is_better=True)}
    all_seeds = record(defense=spec, kind="population", seeds=(0, 1, 2), metrics=area)
    matrix = whole(boards([run(*cells, all_seeds)]))
    item = items(matrix)["a", "weights_test", POPULATION]
    assert (item.table.text, item.table.interval, item.table.n) == ("0.90", "[0.40, 1.00]", "3")
    alone = items(whole(boards([run(*cells)])))["a", "weights_test", POPULATION]
    assert alone.value is None and alone.table.state == "absent"


def test_failed_and_skipped_cells_say_so_and_no_cell_is_blank(
    store: Path, class_store: Path
) -> None:
    """What was not run is another finding than what went wrong."""
    matrix = whole(boards([*read_runs(store), *read_runs(class_store)]))
    tables = [item.table for _, lines in matrix.boards for line in lines for item in line.items]
    assert {table.state for table in tables} == {"value", "absent", "failed", "skipped"}
    assert all(table.note for table in tables if table.state == "absent")


def cited(seed: int, defense: PluginSpec, *papers: dict[str, Any], **changes: Any) -> Record:
    kind = "control" if defense is NONE else "sampler"
    provenance = {"papers": list(papers)}
    return record(seed=seed, defense=defense, kind=kind, provenance=provenance, **changes)


def test_a_method_has_the_paper_that_its_attacks_cells_do_not_share() -> None:
    """A record lists the papers of all its plugins; whose is whose follows from the control."""
    clip = PluginSpec(name="clip")
    cells = [cited(0, NONE, MINE), cited(0, clip, MINE, THEIRS)]
    (board,) = boards([run(*cells)])
    (paper,) = methods.papers_of_defense([board], identity(clip))
    assert (paper.short, paper.year, paper.title) == ("Doe 2024", "2024", "A clip")
    (row,) = board.rows
    assert [one.short for one in methods.papers_of_attack(board, row)] == ["Lee et al. 2023"]
    # Beside another attack, which cites more: only what both have is the defense's.
    more = [cited(0, NONE, attack=OTHER), cited(0, clip, MINE, THEIRS, attack=OTHER)]
    (board,) = boards([run(*cells, *more)])
    assert [one.title for one in methods.papers_of_defense([board], identity(clip))] == ["A clip"]
    (board,) = boards([run(cells[1])])
    assert methods.papers_of_defense([board], identity(clip)) == ()
    for papers in ("none", None, 5, [5], [None, "none"]):
        odd = dataclasses.replace(cells[1], provenance={"papers": papers})
        assert methods.papers_of_defense(boards([run(cells[0], odd)]), identity(clip)) == ()
        assert view.papers([run(odd)]) == []


def texts(column: Column, *every: Board) -> list[str]:
    """Of its definition."""
    lines = definitions.of_column(column, every, board_names(every)).lines
    return [text for _, text in lines]


def test_definitions_state_direction_reference_and_steps(store: Path, class_store: Path) -> None:
    """Of every metric a column can be in; a testbed's odd parameters are not repeated."""
    variables = front([board_view(board) for board in boards(read_runs(class_store))])
    ids = [one.id for one in variables["column_definitions"]]
    ids += [one.id for item in variables["asked"] for one in item.definitions.values()]
    assert len(ids) == len(set(ids))
    for column, definition in zip(
        variables["whole"].columns, variables["column_definitions"], strict=True
    ):
        terms = dict(definition.lines)
        assert {"What it is", "Direction", "Out of", "Reference set", "Interval", "Ties"} <= {
            *terms
        }
        assert column.control or terms["Column"] == label(column.spec)
    (board,) = boards([run(record(metrics=rates(0.5, 0.5)))])
    (column,) = whole([board]).columns
    assert "t: ddim, 50 steps" in texts(column, board)
    odd = PluginSpec(name="t", params={"sampler": "x" * 500, "num_inference_steps": [1]})
    (board,) = boards([run(record(testbed=odd, metrics=rates(0.5, 0.5)))])
    assert "t: not declared" in texts(column, board)


def test_boards_of_one_testbed_each_say_how_they_draw() -> None:
    """The last one spoke for all of them."""
    specs = [
        PluginSpec(name="t", params={"num_inference_steps": steps, "guidance_scale": guidance})
        for steps, guidance in ((50, 2.0), (20, 5.0))
    ]
    every = boards([run(*(record(testbed=one, metrics=rates(0.5, 0.5)) for one in specs))])
    (column,) = whole(every).columns
    (drawn,) = (text for text in texts(column, *every) if "guidance" in text)
    assert len(drawn.split("; ")) == 2
    assert "50 steps, guidance 2" in drawn and "20 steps, guidance 5" in drawn


def test_a_column_keeps_its_key_when_another_comes_before_it() -> None:
    """A page that loads itself again sorted by, or explained, another column than was asked for."""

    def keys(*names: str) -> dict[str, tuple[str, str]]:
        specs = [PluginSpec(name=name) for name in names]
        cells = [record(defense=one, kind="sampler", metrics=rates(0.5, 0.1)) for one in specs]
        page = render([run(record(metrics=rates(0.9, 0.1)), *cells)])
        heads = re.findall(
            r'data-key="(c\w+)" data-in.*?title="(\w+)".*?popovertarget="(\S+)"', page
        )
        return {name: (key, card) for key, name, card in heads}

    few, many = keys("m"), keys("b", "m")
    assert few.keys() == {"none", "m"} and few.items() <= many.items()
    assert len({one for pair in many.values() for one in pair}) == 2 * len(many)


def test_a_board_of_failures_says_what_its_column_would_be() -> None:
    (board,) = boards([run(record(defense=OTHER, kind="sampler", status="failed"))])
    column = whole([board]).columns[-1]
    assert (column.family, column.metric) == ("sampler", ASR)
    assert any("as the adversary wants. The call that" in text for text in texts(column, board))


def detected(family: str, seed: int, attack: PluginSpec = ATTACK, **changes: Any) -> Record:
    """A detector's cell with a rate of this family."""
    metrics = {
        f"{family}[noise]": Metric(value=0.9, n=64, higher_is_better=True),
        "auroc[noise]": Metric(value=0.95, n=64, higher_is_better=True),
    }
    plain = record(
        seed=seed,
        attack=attack,
        defense=PluginSpec(name="d"),
        kind="noise detector",
        metrics=metrics,
    )
    return dataclasses.replace(plain, **changes)


def test_definitions_say_how_each_kind_is_ranked() -> None:
    """An error has no samples, a detector no outcomes of them, and not every threshold was fixed
    beforehand.
    """
    late = [detected("tpr_at_1_fpr", seed) for seed in range(3)]
    fixed = [
        detected("tpr_fixed_threshold", seed, testbed=PluginSpec(name="u")) for seed in range(3)
    ]
    for records, expected, other in (
        (fixed, "fixed beforehand", "no defender"),
        (late, "which no defender can choose", "beforehand"),
        ([*fixed, *late], "which no defender can choose on t, judging noise.", "only"),
    ):
        every = boards([run(*records)])
        (one,) = questions([board_view(board) for board in every])
        made = definitions.of_question(one, board_names(every))
        worst, rank = (dict(made[key].lines) for key in ("worst", "rank"))
        assert expected in worst["What it is"] and other not in worst["What it is"]
        assert worst["Ties"] == rank["Ties"] and "not by sample" in rank["Ties"]
        assert "each entry’s own" in rank["Below it"]
    every = boards([run(*recovered("x", 0.005))])
    (one,) = questions([board_view(board) for board in every])
    made = definitions.of_question(one, board_names(every))
    worst, rank = (dict(made[key].lines) for key in ("worst", "rank"))
    assert worst["Ties"] == rank["Ties"] and "logarithms" in rank["Ties"]
    assert "seeds alone" in rank["Below it"]


def test_n_is_of_the_attack_that_was_measured_least() -> None:
    """Failed seeds, and seeds of the worst attack alone, were counted."""
    cells = [detected("tpr_fixed_threshold", seed) for seed in range(5)]
    cells += [detected("tpr_fixed_threshold", seed, OTHER) for seed in range(4)]
    cells[-1] = dataclasses.replace(cells[-1], status="failed", metrics={})
    (one,) = questions([board_view(board) for board in boards([run(*cells)])])
    assert [entry.n for entry in one.groups[0].entries] == ["3 × 64"]
    errors = recovered("x", 0.005)
    more = [dataclasses.replace(one, attack=OTHER, seed=seed) for seed, one in enumerate(errors)]
    errors += [dataclasses.replace(errors[0], seed=seed) for seed in (3, 4)]
    (one,) = questions([board_view(board) for board in boards([run(*errors, *more)])])
    assert [entry.n for entry in one.groups[0].entries] == ["3 × 4"]


def test_what_was_recovered_is_drawn_of_the_last_epoch(
    make_store: Callable[..., Path], tmp_path: Path
) -> None:
    """Beside the target that it should be; the curve alone said how near it came."""

    def draw(one: Record) -> Record:
        if one.defense.name != "anp" or len(one.pictures) < 2:
            return one
        roles = ("recovered:epoch 10", "recovered:epoch 9")
        pictures = [
            dataclasses.replace(picture, role=role, treatment="")
            for picture, role in zip(one.pictures, roles, strict=False)
        ]
        return dataclasses.replace(one, pictures=tuple(pictures))

    page = render(read_runs(make_store(tmp_path / "store", draw)))
    (scene,) = re.findall(
        r'<figure class="scene"[^>]*>(?:(?!</figure>).)*of the target.*?</figure>', page, re.DOTALL
    )
    assert "Recovered, epoch 10" in scene and "epoch 9" not in scene
    assert "On digits-ddpm" in scene


def test_a_question_counts_all_its_answers(store: Path, class_store: Path) -> None:
    """The good ones came first and the rest was "and 12 more"."""
    every = boards([*read_runs(store), *read_runs(class_store)])
    for one in questions([board_view(board) for board in every]):
        counts = [int(word) for word in one.tally.replace(",", "").split() if word.isdecimal()]
        assert sum(counts) == len(one.groups)
        yes = sum(group.answer.good is True for group in one.groups)
        assert (f"{yes} yes" in one.tally) is (yes > 0)
        for entry in (entry for group in one.groups for entry in group.entries):
            seeds, _, samples = entry.n.partition(" × ")
            assert entry.samples == int(seeds) * int((samples or "1").replace(",", ""))


def test_menus_offer_what_there_is(store: Path, class_store: Path) -> None:
    """Every value of a menu keeps something; statuses are those of the entries and cells."""
    every: list[Board] = boards([*read_runs(store), *read_runs(class_store)])
    facets = {
        key: values for key, _, values in front([board_view(board) for board in every])["facets"]
    }
    assert set(facets["calls"]) == {"noise", "image", "prompt"}
    assert {"failed", "skipped", "holds", "outside the budget"} <= {*facets["status"]}
    assert "control" not in facets["family"] and len(facets["testbed"]) == len(every)


def test_what_a_method_needs_and_an_attack_alters_stand_on_the_board(
    store: Path, class_store: Path
) -> None:
    """As the runs say, not guessed from a family: repairs read "weights" whatever they needed."""
    every = boards([*read_runs(store), *read_runs(class_store)])
    variables = front([board_view(board) for board in every])
    needs = {
        "none": "",
        **{"clip_x0": "nothing", "clip_xt": "nothing", "noise_shift": "nothing"},
        **{"finetune": "clean data, weights", "anp": "clean data, weights"},
        **{"train_on_generated": "queries", "diffusion_classifier": "weights"},
        **{"strip": "classifier, training data", "cognitive_distillation": ""},
    }
    columns = variables["whole"].columns
    assert {column.spec.name: column.needs for column in columns} == needs
    entries = [
        entry
        for one in variables["asked"]
        for group in one.question.groups
        for entry in group.entries
    ]
    assert entries and all(entry.needs == needs[entry.cell.defense.name] for entry in entries)
    facets = {key: values for key, _, values in variables["facets"]}
    assert facets["alters"] == ["data", "data, objective"] and "acts" not in facets
    assert facets["needs"] == [
        *("nothing", "queries", "weights", "classifier, training data", "clean data, weights")
    ]
    about = {
        column.spec.name: definition.lines
        for column, definition in zip(columns, variables["column_definitions"], strict=True)
    }
    assert ("Needs", "clean data, weights") in about["finetune"]
    assert variables["attackers"](["badnets"]) == ["data", "data, objective"]
    assert variables["attackers"](["baddiffusion", "none", "unheard-of"]) == ["data, objective"]
    defenders = variables["defenders"]
    assert defenders("queries") == ["queries", "weights", "clean data, weights"]
    assert defenders("weights") == ["weights", "clean data, weights"]
    assert defenders("nothing") == facets["needs"] and defenders("") == []


def test_several_defenses_at_once_need_what_each_needs(store: Path) -> None:
    """Of a part that no run describes nothing is claimed; and a name may be anything."""
    words = methods.described(read_runs(store))
    assert methods.needs("finetune + clip_x0", words) == "clean data, weights"
    assert methods.needs("train_on_generated + finetune", words) == "clean data, weights"
    assert methods.needs("finetune + unheard_of", words) == ""
    assert methods.needs(" + ".join(["finetune"] * 900) + " + \x1b", words) == ""
    assert methods.needs(" + ".join(["finetune"] * 900), words) == "clean data, weights"
    assert methods.needs("none", words) == methods.alters("none", words) == ""


def test_a_flag_is_beside_the_number_it_is_about() -> None:
    """In the ranking and in the matrix."""
    flag = Flag("vacuous-threshold", "asr", "vacuous threshold, everything passes")
    cells = [
        record(seed=seed, defense=spec, kind=kind, metrics=rates(0.5, 0.1), flags=(flag,))
        for spec, kind in ((NONE, "control"), (PluginSpec(name="d"), "sampler"))
        for seed in range(3)
    ]
    (board,) = boards([run(*cells)])
    (question,) = questions([board_view(board)])
    assert all("vacuous threshold" in entry.flags for entry in question.groups[0].entries)
    assert items(whole([board]))["a", "d", ASR].table.badges == ("vacuous threshold",)
    assert render([run(*cells)]) == render([run(*reversed(cells))])
