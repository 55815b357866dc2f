"""What the shipped suites show first, by the durations that the testbeds declare, on two slots."""

import re
from pathlib import Path

import pytest

from bench.engine.schedule import forecast, order, turns_of
from bench.planner import make_plan
from bench.registry import Registry
from bench.stages.table import STAGES
from bench.suite import load_suite

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"
#: Four of the 27 minutes that `make leaderboard` takes on two slow cores.
FOUR_MINUTES = 4 / 27


class Schedule:
    """The forecast for some suites, made together."""

    def __init__(self, suites, registry):
        self.plans = [make_plan(load_suite(name, registry), registry, STAGES) for name in suites]
        self.stages = {key: stage for plan in self.plans for key, stage in plan.stages.items()}
        self.turns = turns_of(self.plans)
        self.done = self.forecast(self.turns)
        self.end = max(self.done.values())

    def forecast(self, turns, stages=None):
        stages = stages or self.stages
        return forecast(stages, order(stages, stages, turns), lambda stage: stage.seconds, slots=2)

    def ends(self, wanted=lambda cell: True):
        """When the cells that are ``wanted`` are there, with them, the first one first."""
        cells = [cell for plan in self.plans for cell in plan.cells if cell.stage and wanted(cell)]
        return sorted(((self.done[cell.stage], cell) for cell in cells), key=lambda one: one[0])


@pytest.fixture(scope="module")
def registry():
    return Registry()


@pytest.fixture(scope="module")
def leaderboard(registry):
    """The suites of `make leaderboard`."""
    (suites,) = re.findall(r"^BOARD\s*:= (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    return Schedule(suites.split(), registry)


@pytest.fixture(scope="module")
def whole(registry):
    return Schedule(["digits", "poison", "sd"], registry)


def attacked(cell):
    return cell.probe is None and cell.kind not in ("anchor", "control", "population")


@pytest.mark.parametrize("name", ["leaderboard", "whole"])
def test_every_testbed_has_a_complete_cell_within_four_minutes(name, leaderboard, request):
    schedule = request.getfixturevalue(name)
    minutes = FOUR_MINUTES * leaderboard.end
    for testbed in ("digits-ddpm", "digits-cfg", "digits-sd"):
        ends = schedule.ends(
            lambda cell, named=testbed: (
                cell.testbed.name == named and attacked(cell) and "detector" not in cell.kind
            )
        )
        assert 0 < ends[0][0] <= minutes, ends[0]


def test_something_is_there_at_once(leaderboard):
    """A testbed's real images, and what needs no model: within a minute as declared, which is
    several times as long as they take.
    """
    first = [cell for seconds, cell in leaderboard.ends() if seconds < 60]
    assert {cell.testbed.name for cell in first} == {"digits-ddpm", "digits-cfg", "digits-sd"}
    assert {cell.kind for cell in first} == {"anchor", "noise detector"}


def test_every_family_has_a_number_in_the_first_third(leaderboard):
    families = {(cell.testbed.name, cell.kind) for _, cell in leaderboard.ends(attacked)}
    assert len(families) == 10
    for name, kind in families:
        seconds, cell = leaderboard.ends(
            lambda cell, of=(name, kind): attacked(cell) and (cell.testbed.name, cell.kind) == of
        )[0]
        assert seconds < leaderboard.end / 3, cell


def test_a_seed_of_everything_comes_before_the_others(leaderboard, whole):
    """Within half the time where there are seeds enough; two of the three suites of `make
    leaderboard` have one seed only, which is most of its work.
    """
    for schedule, share in ((leaderboard, None), (whole, 0.5)):
        first = schedule.ends(lambda cell: cell.seed == 0 and cell.kind != "population")
        last = first[-1][0]
        needed = _needed(schedule, first)
        work = sum(schedule.stages[key].seconds or 0 for key in needed)
        assert last <= 1.02 * work / 2
        assert share is None or last <= share * schedule.end


def _needed(schedule, ends):
    """The stages behind the records of ``ends``."""
    waiting, needed = [cell.stage for _, cell in ends], set()
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += schedule.stages[key].inputs.values()
    return needed


def test_the_board_fills_steadily(leaderboard):
    """In the order of the longest chain alone, most cells were there in the last twentieth."""
    seconds = [0.0, *(end for end, _ in leaderboard.ends())]
    assert max(later - sooner for sooner, later in zip(seconds, seconds[1:], strict=False)) < (
        leaderboard.end / 8
    )
    chains = leaderboard.forecast({})
    ends = [chains[cell.stage] for _, cell in leaderboard.ends()]
    assert sum(end > 0.95 * leaderboard.end for end in ends) > len(ends) / 2


@pytest.mark.parametrize("name", ["leaderboard", "whole"])
def test_the_order_costs_no_time(name, request):
    """Against the longest chain first, suite by suite, and against two slots that never wait."""
    schedule = request.getfixturevalue(name)
    work = sum(stage.seconds or 0 for stage in schedule.stages.values())
    before = sum(max(schedule.forecast({}, plan.stages).values()) for plan in schedule.plans)
    assert schedule.end <= 1.01 * min(work / 2, before)


def test_the_order_is_the_same_every_time(leaderboard, registry):
    again = Schedule([plan.suite for plan in leaderboard.plans], registry)
    assert again.turns == leaderboard.turns and again.done == leaderboard.done
    assert all(turn >= (0, 0) for turn in again.turns.values())
    assert again.turns.keys() == again.stages.keys()
