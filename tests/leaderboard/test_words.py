"""What a metric means is the run's to say: the board shows it, believes no more than it can check,
and does without.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import measurements
from bench.record import SHARE, Metric, PluginSpec, Record, Run, read_runs
from bench.words import GROUPS, MetricWords
from leaderboard.board import boards
from leaderboard.matrix import matrices
from leaderboard.names import UNKNOWN, Vocabulary, vocabulary
from leaderboard.report import build, render
from leaderboard.sound import MOST, sound
from leaderboard.view import board_view

OURS = Vocabulary(measurements.declared())
THEIRS = MetricWords(
    name="glare[*]",
    title="glare, {}",
    sentence="How much {} glares & <b>blinds</b>.",
    group="Brightness",
    higher_is_better=False,
    low=0.0,
    high=10.0,
    unit="lm",
    decimals=1,
    order=3,
    control=1,
)


def record(defense: str, value: float, **changes: Any) -> Record:
    plain = Record(
        testbed=PluginSpec(name="t"),
        attack=PluginSpec(name="a"),
        defense=PluginSpec(name=defense),
        seed=0,
        status="ok",
        kind="control" if defense == "none" else "sampler",
        protocol="p",
        metrics={"glare[day]": Metric(value=value, higher_is_better=False)},
    )
    return dataclasses.replace(plain, **changes)


def run(*records: Record, metrics: tuple[MetricWords, ...] = (THEIRS,), **changes: Any) -> Run:
    plain = Run(
        suite="s",
        description="",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00",
        counts={},
        records=[(Path("/nowhere"), one) for one in records],
        metrics=metrics,
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("asr[noise]", 0.8284, "0.83"),
        ("asr[noise]", -0.0004, "0.00"),
        ("mse[noise]", 0.009834, "0.00983"),
        ("fid[digits-cnn]", 2.8512, "2.85"),
        ("fid[digits-cnn]", 123.4, "123"),
        ("amplification", 1.3148, "1.31"),
        ("trigger_classifier_misses", 0.0111, "0.0111"),
        ("cost[seconds]", 12.34, "12.3 s"),
        ("cost[peak_memory_bytes]", 2**31, "2,048 MiB"),
        ("cost[generator_calls]", 76800, "76,800"),
        ("new", -1.5, "−1.50"),
    ],
)
def test_numbers_are_written_for_people(name: str, value: float, expected: str) -> None:
    """As many decimals as declared or three significant digits, no exponent, no minus zero."""
    assert OURS.words(name).number(value) == expected


def test_metrics_stand_in_the_order_of_their_groups_and_then_as_declared() -> None:
    names = [
        "fid[x]", "prompt_accuracy", "robust_asr[noise]", "asr[noise]", "asr[sound]", "asr[clean]",
        "asr[prompt]", "p_t", "ta", "auroc[generated]", "auroc[sound]", "auroc[clean]",
        "inversion_mse_best", "glare[day]", "cost[seconds]", "cost[attack_seconds]",
        "mse[constant]", "a_novelty",
    ]  # fmt: skip
    both = Vocabulary((*measurements.declared(), THEIRS))
    assert sorted(reversed(names), key=both.order) == names
    assert both.words("asr[sound]").label == "ASR, sound"
    assert "by sound" in both.words("asr[sound]").sentence
    groups = [both.words(name).group for name in names]
    assert [group for group in dict.fromkeys(groups) if group in GROUPS] == [
        group for group in GROUPS if group in groups
    ]


def test_a_metric_that_nobody_declares_is_shown_under_its_own_name() -> None:
    """A plugin's new metric must not break the board or disappear; a rate is written as one."""
    words = UNKNOWN.words("novelty[x]")
    assert (words.label, words.group, words.sentence, words.known) == (
        "novelty[x]",
        "Other",
        "",
        False,
    )
    rate = UNKNOWN.words("novelty[x]", SHARE)
    assert rate.bounded and rate.number(0.12345) == "0.12"
    assert UNKNOWN.words("asr[noise]").number(0.8284) == "0.83"


def test_a_strangers_metric_has_its_words_format_direction_and_place() -> None:
    page = render([run(record("none", 4.04), record("dim", 1.26))])
    assert "<legend>Brightness</legend>" in page and "glare, day" in page
    assert (
        "How much day glares &amp; &lt;b&gt;blinds&lt;/b&gt;." in page and "<b>blinds" not in page
    )
    assert "4.0 lm" in page and "1.3 lm" in page and "Lower is better for the defender." in page
    (board,) = boards([run(record("none", 4.04), record("dim", 1.26))])
    (table,) = matrices(board)
    steps = [cell.step for cell in table.rows[0][1]]
    assert steps[0] is not None and steps[1] is not None and steps[0] < steps[1]
    assert [words.name for words in board_view(board).controls.columns] == ["glare[day]"]


def test_what_is_declared_holds_for_every_record() -> None:
    """A value outside its bounds is no value, and a direction is the declaration's."""
    (board,) = boards([run(record("none", 4.0), record("dim", -1.0))])
    cells = matrices(board)[0].rows[0][1]
    assert [one.text for one in cells] == ["4.0 lm", "–"]
    turned = record("d", 1.0, metrics={"glare[day]": Metric(value=1.0, higher_is_better=True)})
    checked = sound(turned, Vocabulary([THEIRS]))
    assert checked.metrics["glare[day]"].higher_is_better is False
    assert [flag.code for flag in checked.flags] == ["direction-reversed"]


@pytest.mark.parametrize(
    "forged",
    [
        MetricWords(name="asr[noise]", title="ASR", higher_is_better=True),
        MetricWords(name="asr[noise]", title="ASR", low=-9.0, high=9.0),
        MetricWords(name="asr[*]", title="ASR", higher_is_better=True, low=-9.0, high=9.0),
        MetricWords(name="cost[seconds]", title="free", higher_is_better=True),
    ],
    ids=lambda forged: f"{forged.name} {forged.higher_is_better} {forged.high}",
)
def test_no_declaration_turns_round_what_defenses_are_ranked_by(forged: MetricWords) -> None:
    names = Vocabulary([forged])
    low, high, better = names.rule("asr[noise]")
    assert better is False and -0.1 < low and high < 1.1
    assert names.words("cost[seconds]").label == "time"
    odd = record("d", 0.0, metrics={"asr[noise]": Metric(value=-5.0, higher_is_better=True)})
    checked = sound(odd, names)
    assert checked.metrics["asr[noise]"] == Metric(value=None, higher_is_better=False)


def test_of_two_runs_the_one_that_finished_last_is_right() -> None:
    new = dataclasses.replace(THEIRS, title="glare anew, {}")
    early = run(record("none", 1.0), finished="2026-01-01T00:30:00+00:00")
    late = run(record("none", 1.0), metrics=(new,), suite="a")
    for order in ([early, late], [late, early]):
        assert vocabulary(order).words("glare[day]").label == "glare anew, day"


def write(store: Path, metrics: object, one: Record) -> Path:
    (store / "runs").mkdir(parents=True)
    account = {
        "suite": "s",
        "description": "",
        "started": "2026-01-01T00:00:00+00:00",
        "finished": None,
        "metrics": metrics,
        "cells": [{"inline": json.loads(one.to_json())}],
    }
    (store / "runs" / "s.json").write_text(json.dumps(account))
    return store


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "glare[day]"},
        {"name": "glare[day]", "title": "<script>alert(1)</script>" * 9},
        {"name": "glare[day]", "title": "red\x1b[31m"},
        {"name": "glare[day]", "title": "\u202etxet"},
        {"name": "glare[day]", "title": "glare", "low": "-1"},
        {"name": "glare[day]", "title": "glare", "order": 10**12},
        {"name": "glare[day]", "title": "glare", "higher_is_better": "yes"},
        {"name": "glare[day]", "title": "{0.__class__}", "style": "x"},
    ],
)
def test_a_declaration_that_cannot_be_used_is_a_line_and_takes_nothing_else(
    tmp_path: Path, bad: dict[str, object]
) -> None:
    ours = measurements.named("image_quality").metrics[0].to_json()
    (one,) = read_runs(write(tmp_path, [bad, 7, {"title": "x"}, ours], record("none", 1.0)))
    assert [words.name for words in one.metrics] in (["fid[*]"], ["glare[day]", "fid[*]"])
    if len(one.metrics) == 1:
        assert "metrics cannot be used as declared" in one.problems[0]
    page = build(tmp_path, tmp_path / "board.html").read_text()
    assert "glare[day]" in page and "<script>alert" not in page
    assert "\x1b" not in page and "\u202e" not in page


def test_declared_metrics_without_end_do_not_fill_the_page() -> None:
    metrics = {f"glare[{index:04d}]": Metric(value=1.0) for index in range(2000)}
    metrics["asr[noise]"] = Metric(value=0.5, higher_is_better=False)
    checked = sound(record("d", 1.0, metrics=metrics), Vocabulary([THEIRS]))
    assert len(checked.metrics) == MOST and "asr[noise]" in checked.metrics
    assert [flag.code for flag in checked.flags] == ["unknown-metrics"]


def test_a_title_with_braces_is_text() -> None:
    """A format string reads attributes of what it is handed."""
    odd = MetricWords(name="x[*]", title="{0.__class__} {} {y}", sentence="{}")
    words = Vocabulary([odd]).words("x[{}]")
    assert (words.label, words.sentence) == ("{0.__class__} {} {y}", "{}")


def test_a_run_that_declares_nothing_has_the_same_numbers(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """Older stores: every metric under its own name, every rank as it was."""
    store = make_store(tmp_path / "store")
    (before,) = boards(read_runs(store))
    file = store / "runs" / "digits.json"
    data = json.loads(file.read_text())
    del data["metrics"]
    file.write_text(json.dumps(data))
    (after,) = boards(read_runs(store))
    old, new = board_view(after), board_view(before)
    assert [plain for plain, _ in old.rankings] and len(old.rankings) == len(new.rankings)
    for (plain, _), (declared, _) in zip(old.rankings, new.rankings, strict=True):
        assert [(p.rank, p.worst, p.loss) for p in plain.lines] == [
            (p.rank, p.worst, p.loss) for p in declared.lines
        ]
    assert old.groups == ("Cost", "Other") and "Image quality" in new.groups
    assert old.first_metric.startswith("asr[") and build(store, tmp_path / "board.html").is_file()
