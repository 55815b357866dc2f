"""What a run's account says of its plugins, and how a reader takes it from anywhere."""

import json

import pytest

from bench import sentences
from bench.export import export
from bench.plugin import Card, SamplerDefense
from bench.record import methods_of, read_account, read_runs
from bench.registry import Registry
from bench.results import read_results
from bench.runner import prepare
from bench.sentences import described
from bench.words import LONGEST_SENTENCE, MethodWords


def test_every_plugin_is_described_in_at_most_three_sentences():
    """By its card, its file and what it declares; each printable, on one line."""
    registry = Registry()
    for group in ("attacks", "defenses", "detectors"):
        for name in registry.names(group):
            cls = registry.get(group, name)
            if name == "none" or any(one["required"] for one in _parameters(cls)):
                continue
            (words,) = described([cls()])
            assert words.name == name and 2 <= len(words.sentences) <= 3
            for sentence in words.sentences:
                assert 10 < len(sentence) <= LONGEST_SENTENCE and sentence[0] == sentence[0].upper()
                assert sentence.endswith((".", "?", "!", "…"))
            start = cls.card.summary[1:].rstrip(".")
            assert start in words.sentences[0]
    (trojdiff,) = described([registry.attack("trojdiff")])
    assert (
        "It alters data, objective and sampling; the adversary calls by trojan"
        in (trojdiff.sentences[2])
    )
    assert described([registry.attack("none"), registry.defense("none")]) == ()


def _parameters(cls):
    from bench.catalogue import describe

    return describe(cls.card.name)[0]["parameters"]


@pytest.mark.parametrize(
    "text",
    [
        *("word " * 200, "x" * 900, "ß" * 595, "\n"),
        *("soft\u00adhyphen", "zero\u200bwidth", "\u202ebackwards"),
    ],
)
def test_whatever_an_author_writes_is_a_sentence(monkeypatch, text):
    """A long first paragraph ended every run of the plugin with a traceback."""

    class Odd(SamplerDefense):
        card = Card(name="odd", summary="for tests")

    monkeypatch.setattr(sentences, "documentation", lambda cls: text)
    (words,) = described([Odd()])
    assert all(len(sentence) <= LONGEST_SENTENCE for sentence in words.sentences)
    assert MethodWords.from_json(words.to_json()) == words


def test_the_suites_plan_describes_its_plugins_once():
    names = [one["name"] for one in prepare("digits").plan.methods]
    assert names == ["anp", "baddiffusion", "clip_x0", "clip_xt", "noise_shift"]


@pytest.mark.parametrize(
    "odd",
    [
        None, 3, "text", [], {"name": "a"}, {"name": "a", "sentences": "text"},
        {"name": "a", "sentences": ["x"] * 4}, {"name": "a", "sentences": ["x" * 601]},
        {"name": "a", "sentences": [1]}, {"name": 1, "sentences": []},
        {"name": "", "sentences": []}, {"name": "a", "sentences": ["two\nlines"]},
        {"name": "a", "sentences": ["\x1b[31m"]}, {"name": "a", "sentences": [], "more": 1},
        {"name": "a", "sentences": [["x"]]}, {"name": ["a"], "sentences": []},
    ],
)  # fmt: skip
def test_an_odd_description_is_left_out(odd):
    """It may come from anywhere, and no number depends on it."""
    good = MethodWords("good", ("It works.",))
    assert methods_of([odd, good.to_json(), good.to_json()]) == (good,)
    assert methods_of(odd) == ()


def test_descriptions_go_from_an_account_to_results_and_back(tmp_path, make_account):
    store = make_account(tmp_path / "store", [MethodWords("a", ("One.", "Two.")).to_json(), 7])
    (run,) = read_runs(store)
    assert [one.name for one in run.methods] == ["a"]
    export(store, run.suite, tmp_path / "results", partial=True)
    (again,) = read_results(tmp_path / "results")
    assert again.methods == run.methods
    text = json.loads((tmp_path / "results" / run.suite / "run.json").read_text())
    assert text["methods"] == [{"name": "a", "sentences": ["One.", "Two."]}]


@pytest.fixture
def make_account():
    """``make_account(store, methods)``: a store with one skipped cell."""

    def make(store, methods):
        (store / "runs").mkdir(parents=True)
        cell = prepare("digits", seeds=[0]).plan.cells[0]
        record = cell.without_result("skipped", "no reason")
        entry = cell.about() | {
            "id": cell.id, "status": "skipped", "inline": json.loads(record.to_json())
        }  # fmt: skip
        account = {
            "suite": "digits", "description": "", "started": "2026-01-01", "finished": "2026-01-02",
            "metrics": [], "methods": methods, "cells": [entry],
        }  # fmt: skip
        path = store / "runs" / "digits.json"
        path.write_text(json.dumps(account))
        assert read_account(path)["methods"] == methods
        return store

    return make
