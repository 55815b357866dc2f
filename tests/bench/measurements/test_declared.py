"""Every number is declared beside what measures it: by name, direction and bounds, and once."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from bench import measurements
from bench.errors import ContractError, UserError
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.record import RANKED, SLACK, Metric
from bench.words import COSTS, GROUPS, MetricWords, declaration_of, split

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text())["numbers"]
MATERIALS = Materials(testbed=None, seed=0, inputs={})


def numbers() -> list[tuple[str, str, float | None, str]]:
    """(measurement, metric, value, unit) of all that the tiny suites measure."""
    return [
        (cell.partition(" ")[0], name, value, unit)
        for suite in GOLDEN.values()
        for cell, metrics in suite.items()
        for name, (value, _, unit) in metrics.items()
    ]


def test_every_number_is_declared_with_its_unit_and_lies_within_its_bounds() -> None:
    """The tiny suites make nearly every metric; the measure stage refuses the rest."""
    seen = set()
    for measurement, name, value, unit in numbers():
        words = declaration_of(measurements.declared(), name)
        assert words is not None, (measurement, name)
        assert words.unit == unit, (name, unit)
        assert value is None or words.low - SLACK <= value <= words.high + SLACK, (name, value)
        seen.add(words.name)
    # No tiny suite has a noise detector, an inversion of the trigger, another call, a call for a
    # class or a set, a detector of models, or images to restore.
    elsewhere = (
        "noise_detection recovered_trigger reached_class reached_set model_score model_detection "
        "inpainting"
    ).split()
    unseen = {
        words.name
        for one in measurements.table().values()
        for words in one.metrics
        if one.name not in elsewhere and words.name not in seen
    }
    assert unseen <= {
        f"{family}[*]" for family in ("asr", "mse", "ssim", "asr_field", "robust_asr", "precision")
    }


def test_no_two_measurements_declare_the_same_name() -> None:
    """A reader would have two sentences for one number."""
    names = Counter(words.name for words in (*measurements.declared(), *COSTS))
    assert [name for name, count in names.items() if count > 1] == []
    for one in measurements.table().values():
        assert all(declaration_of(measurements.declared(), name) for name in one.borrows), one.name


def test_what_the_board_ranks_by_is_declared_as_its_law_says() -> None:
    """The law holds for records of no declaration; two truths would be one too many."""
    import re

    ruled = 0
    for words in measurements.declared():
        for families, low, high, direction in RANKED:
            if re.fullmatch(families, words.family):
                ruled += 1
                assert (words.low, words.high) == (low, high), words.name
                assert words.higher_is_better in (direction, None) or direction is None, words.name
    assert ruled > 40


def test_each_declaration_has_a_sentence_and_a_group_of_ours() -> None:
    """A name without a sentence would stand there with nothing to say."""
    for words in (*measurements.declared(), *COSTS):
        assert words.sentence and words.group in GROUPS, words.name
        assert MetricWords.from_json(json.loads(json.dumps(words.to_json()))) == words
        if split(words.name)[1] == "*" and words.family not in ("robust_asr_threshold",):
            assert "{}" in words.title + words.sentence, words.name


def measurement(**metrics: bool | None) -> Measurement:
    """One that gives these metrics with these directions, and declares ``mine``, lower is better,
    and ``more[*]``.
    """
    return Measurement(
        name="mine",
        metrics=(
            MetricWords(name="mine", title="mine", higher_is_better=False),
            MetricWords(name="more[*]", title="more, {}"),
        ),
        borrows=("theirs",),
        run=lambda materials: Measured(
            metrics={
                name.replace("__", "["): Metric(value=0.5, higher_is_better=better)
                for name, better in metrics.items()
            }
        ),
    )


def test_a_number_that_is_not_declared_is_refused() -> None:
    """Nobody could say what it means, nor which way is good."""
    assert measurement(mine=False, theirs=None).measured(MATERIALS).metrics.keys() == {
        "mine",
        "theirs",
    }
    with pytest.raises(ContractError, match="mine gives other, which it does not declare"):
        measurement(other=None).measured(MATERIALS)
    with pytest.raises(ContractError, match="declares mine with .* False, and gives it with True"):
        measurement(mine=True).measured(MATERIALS)


def test_one_reason_for_all_that_a_measurement_leaves_out() -> None:
    one = replace(
        measurement(),
        run=lambda materials: Measured(
            metrics={"mine": Metric(value=1.0, higher_is_better=False)},
            absent={"*": "no trigger", "more[a]": "no a"},
        ),
    )
    assert one.measured(MATERIALS).absent == {"more[*]": "no trigger", "more[a]": "no a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": (MetricWords(name="robust_asr[letter]", title="x"),)}, "'robust_asr' is"),
        ({"metrics": (MetricWords(name="asr", title="x"),)}, "the metric 'asr' is distance_to_"),
        ({"metrics": (), "borrows": ("fid[*]",)}, r"the metric 'fid\[\*\]' is another"),
    ],
)
def test_a_package_cannot_give_a_number_of_ours(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    """What defenses are ranked by is read by its family."""
    theirs = replace(measurement(), **change)  # type: ignore[arg-type]
    monkeypatch.setattr(EntryPoint, "load", lambda self: theirs)
    entry = EntryPoint("theirs", "a:b", measurements.GROUP)
    monkeypatch.setattr(measurements, "entry_points", lambda group: (entry,) if group else ())
    monkeypatch.setenv(measurements.TRUSTED, " theirs ,")
    with pytest.raises(UserError, match=message):
        measurements.table.__wrapped__()


def test_a_packages_measurement_is_loaded_only_if_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plugin's package could make its own numbers with it."""

    def load(entry: EntryPoint) -> object:
        raise AssertionError("imported")

    monkeypatch.setattr(EntryPoint, "load", load)
    entry = EntryPoint("theirs", "a:b", measurements.GROUP)
    monkeypatch.setattr(measurements, "entry_points", lambda group: (entry,))
    monkeypatch.delenv(measurements.TRUSTED, raising=False)
    assert "theirs" not in measurements.table.__wrapped__()
    assert measurements.untrusted() == ["theirs"]
    monkeypatch.setenv(measurements.TRUSTED, "their")
    with pytest.raises(UserError, match="CASTLEWALLS_MEASUREMENTS names 'their', which no"):
        measurements.table.__wrapped__()


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a" * 301},
        {"name": "*[x]"},
        {"title": "two\nlines"},
        {"title": "\u202eturned"},
        {"sentence": "long" * 200},
        {"sentence": 7},
        {"group": ""},
        {"low": 1.0, "high": 0.0},
        {"low": math.nan},
        {"high": "1"},
        {"low": True},
        {"order": -1},
        {"order": 1.0},
        {"control": 10**9},
        {"headline": True},
        {"decimals": 7},
        {"scale": "log"},
        {"scale": ["unit"]},
        {"colour": "red"},
        {"higher_is_better": 1},
        {"in_matrix": "no"},
        {"flags_of": "a\tb"},
        {"beauty": 1},
    ],
)
def test_a_declaration_that_cannot_be_shown_is_refused(change: dict[str, object]) -> None:
    """It may come from anywhere: a package, or somebody's store."""
    with pytest.raises(ValueError, match="metric|must be") as caught:
        MetricWords.from_json({"name": "a", "title": "A", **change})
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_a_measurement_says_of_every_cell_what_it_leaves_out() -> None:
    """A family stands once, however many of it have words of their own."""
    distances = measurements.named("distance_to_target")
    assert distances.names == ("asr[*]", "mse[*]", "ssim[*]", "asr_field[*]", "asr_threshold")
    assert measurements.named("composition").names[-2:] == (
        "trigger_classifier_misses",
        "trigger_classifier_misses[*]",
    )
    assert distances.reason(Situation(testbed=None, family="anchor"))  # type: ignore[arg-type]
