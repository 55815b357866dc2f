"""The order of the work, and the forecast of it, without running anything."""

import pytest

from bench.engine.schedule import Durations, forecast, longest_chain, order, turns_of


def seconds(stage):
    return stage.seconds


@pytest.fixture
def graph(lab):
    """Two trainings, 10 and 30 s, each with a record of 1 s; the longer one's turn is the second.

    Returns the lab, and the keys of the trainings and of the records.
    """
    trained = [lab.stage("train", seconds=10, seed=0), lab.stage("train", seconds=30, seed=1)]
    records = [lab.cell({"clean": key}, seed=seed) for seed, key in enumerate(trained)]
    return lab, trained, records


def turns_in(lab, *turns):
    """The turns of the stages if these are the cells'."""
    ends = [cell.stage for cell in lab.cells]
    return turns_of([lab.plan(turns=dict(zip(ends, turns, strict=True)))])


def queue(lab, *turns):
    return order(lab.stages, lab.stages, turns_in(lab, *turns) if turns else {})


def test_turns_come_before_chains(graph):
    lab, trained, _ = graph
    by_chain, by_turn = queue(lab), queue(lab, (0, 0), (1, 0))
    assert min(trained, key=by_chain.get) == trained[1]
    assert min(trained, key=by_turn.get) == trained[0]
    # A number of the first turn comes before a longer training of the second.
    assert sorted(by_turn, key=by_turn.get).index(graph[2][0]) == 1


def test_a_shared_stage_has_the_first_turn_of_those_that_need_it(graph):
    lab, trained, _ = graph
    lab.cell({"clean": trained[1]}, attack="two")
    turns = turns_in(lab, (1, 0), (2, 0), (0, 7))
    assert turns[trained[1]] == (0, 7) and turns[trained[0]] == (1, 0)


def test_a_forecast_is_the_schedule_of_the_executor(graph):
    """Free slots take what is ready, in its order; what another needs is waited for."""
    lab, trained, records = graph
    at = queue(lab, (0, 0), (1, 0))
    one = forecast(lab.stages, at, seconds, slots=1)
    assert [one[key] for key in (*trained, *records)] == [10, 40, 10, 40]
    both = forecast(lab.stages, at, seconds, slots=2)
    assert [both[key] for key in (*trained, *records)] == [10, 30, 10, 30]
    assert longest_chain(lab.stages, {key: lab.stages[key].seconds or 0 for key in at}) == 30


def test_what_is_at_work_is_nearer_and_never_overdue(graph):
    lab, trained, records = graph
    at = queue(lab, (0, 0), (1, 0))
    now = forecast(lab.stages, at, seconds, 2, {trained[0]: 4.0, trained[1]: 50.0})
    assert now[trained[0]] == now[records[0]] == 6 and now[trained[1]] == 0
    del at[trained[0]]
    left = forecast(lab.stages, at, seconds, 2, {trained[1]: 10.0})
    assert left[records[0]] == 0 and left[records[1]] == 20 and trained[0] not in left


def test_what_ran_here_counts_before_what_is_declared(graph):
    lab, trained, records = graph
    stage, other = (lab.stages[key] for key in trained)
    durations = Durations([{"alike": stage.alike[:1], "cost": {"seconds": 4.0}}])
    assert durations.of(stage) == 4.0 and durations.of(other) == 4.0
    durations.took(stage, 8.0)
    assert durations.of(stage) == 6.0
    assert Durations().of(other) == 30 and Durations().of(lab.stages[records[0]]) is None


def test_a_fast_machine_shortens_what_is_only_declared(graph):
    """Little by little: the first stages are small, and a page that says hours is closed."""
    lab, trained, _ = graph
    durations = Durations()
    repair = lab.stages[lab.stage("repair", seconds=60)]
    durations.took(lab.stages[trained[0]], 30.0)
    assert 60 < durations.of(repair) < 75
    for _ in range(200):
        durations.took(lab.stages[trained[0]], 5.0)
    assert 30 < durations.of(repair) < 35


@pytest.mark.parametrize(
    "odd",
    [{}, {"cost": None}, {"cost": {"seconds": "3"}}, {"cost": {"seconds": float("nan")}},
     {"cost": {"seconds": 3}, "alike": 5}, {"cost": {"seconds": 3}, "alike": [{}]}],
)  # fmt: skip
def test_a_manifest_of_another_version_tells_nothing(odd):
    """It ended `castlewalls run --dry-run` with a traceback."""
    assert Durations([{"alike": ["train"], **odd}] if "alike" not in odd else [odd]).timed == {}
