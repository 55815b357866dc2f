"""What a run's account says of its plugins, and how a reader takes it from anywhere."""

import json

import pytest

from bench import sentences
from bench.export import export
from bench.plugin import Card, SamplerDefense
from bench.record import methods_of, read_account, read_runs
from bench.registry import Registry
from bench.results import published, read_results
from bench.runner import prepare
from bench.sentences import END, described
from bench.words import LONGEST_SENTENCE, MethodWords


def test_every_plugin_is_described_in_three_sentences():
    """What it does, how, and how its adversary calls: a method's page said the first twice."""
    registry = Registry()
    for group in ("attacks", "defenses", "detectors"):
        for name in registry.names(group):
            cls = registry.get(group, name)
            if name == "none" or any(one["required"] for one in _parameters(cls)):
                continue
            (words,) = described([cls()])
            assert words.name == name
            assert sum(len(END.split(text)) for text in words.sentences) == 3, words.sentences
            assert {*words.alters} == cls.card.alters and {*words.needs} >= cls.card.needs
            for sentence in words.sentences:
                assert 10 < len(sentence) <= LONGEST_SENTENCE and sentence[0] == sentence[0].upper()
                assert sentence.endswith((".", "?", "!", "…"))
            start = cls.card.summary[1:].rstrip(".")
            assert start in words.sentences[0]
    (trojdiff,) = described([registry.attack("trojdiff")])
    assert (
        trojdiff.sentences[2] == "The adversary calls by trojan (biased noise, the adversary's "
        "sampler) and noise (biased noise, the user's sampler)."
    )
    assert trojdiff.alters == ("data", "objective", "sampling") and trojdiff.needs == ()
    (elijah,) = described([registry.defense("elijah")])
    assert elijah.needs == ("clean data", "queries", "weights"), "its own, and of what it uses"
    assert described([registry.attack("none"), registry.defense("none")]) == ()


def _parameters(cls):
    from bench.catalogue import describe

    return describe(cls.card.name)[0]["parameters"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It is mine.", "It is mine."),
        ("It is mine. It looks twice. And again!\n\nMore.", "It looks twice. And again!"),
        ("Is it?\nIt asks.", "It asks."),
        ("After Lee et al. 2024, v. 2.", "After Lee et al. 2024, v. 2."),
        ("", None),
    ],
)
def test_how_it_works_is_what_follows_a_files_first_sentence(monkeypatch, text, wanted):
    class Mine(SamplerDefense):
        card = Card(name="mine", summary="for tests")

    monkeypatch.setattr(sentences, "documentation", lambda cls: text)
    (words,) = described([Mine()])
    assert words.sentences == ("For tests.",) + (() if wanted is None else (wanted,))


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
        *(
            {"name": "a", "sentences": [], "alters": [], "needs": needs}
            for needs in (
                "weights", None, 3, [3], [["weights"]], ["<b>x</b>"], ["a|b"], ["a, b"], ["x" * 41],
                ["weights", "weights"], ["weights", "base weights"], [" "], [""],
                [chr(97 + i) for i in range(13)],
            )
        ),
        {"name": "a", "sentences": [], "needs": []}, {"name": "a", "sentences": [], "alters": []},
        {"name": "a", "sentences": ["What its user must have: , ."]},
    ],
)  # fmt: skip
def test_an_odd_description_is_left_out(odd):
    """It may come from anywhere, and no number depends on it."""
    good = MethodWords("good", ("It works.",))
    assert methods_of([odd, good.to_json(), good.to_json()]) == (good,)
    assert methods_of(odd) == ()


@pytest.mark.parametrize(
    ("last", "kept", "alters", "needs"),
    [
        ("What its user must have: weights.", [], (), ("weights",)),
        (
            "What its user must have: clean data, queries and weights.",
            *([], (), ("clean data", "queries", "weights")),
        ),
        ("It alters data and objective.", [], ("data", "objective"), ()),
        ("It alters nothing.", [], (), ()),
        (
            "It alters data; the adversary calls by noise (a; b) and image.",
            *(["The adversary calls by noise (a; b) and image."], ("data",), ()),
        ),
        ("It alters more than <b>anybody</b>.", ["It alters more than <b>anybody</b>."], (), ()),
    ],
)
def test_what_older_accounts_say_as_prose_is_read(last, kept, alters, needs):
    """Bundles and results from before have it in the last sentence, and nowhere else."""
    words = MethodWords.from_json({"name": "a", "sentences": ["One.", last]})
    assert words == MethodWords("a", ("One.", *kept), alters, needs)
    assert MethodWords.from_json(words.to_json()) == words


def test_the_published_runs_say_of_our_methods_what_their_cards_do():
    """A card that changes leaves the published word behind."""
    registry = Registry()
    names = [
        (group, name)
        for group in ("attacks", "defenses", "detectors")
        for name in registry.names(group)
    ]
    ours = {one.name: one for one in described(registry.get(*name)() for name in names)}
    read = read_results(published())
    assert read
    for run in read:
        parts = {
            part
            for _, record in run.records
            if record.kind not in ("anchor", "population")
            for spec in (record.attack, record.probe, record.defense)
            if spec
            for part in spec.name.split(" + ")
        }
        named = {one.name: one for one in run.methods}
        assert parts - {"none"} <= set(named), run.suite
        for name, one in named.items():
            assert (one.alters, one.needs) == (ours[name].alters, ours[name].needs), name


def test_descriptions_go_from_an_account_to_results_and_back(tmp_path, make_account):
    words = MethodWords("a", ("One.", "Two."), ("data",), ("clean data", "weights"))
    store = make_account(tmp_path / "store", [words.to_json(), 7])
    (run,) = read_runs(store)
    assert [one.name for one in run.methods] == ["a"]
    export(store, run.suite, tmp_path / "results", partial=True)
    (again,) = read_results(tmp_path / "results")
    assert again.methods == run.methods
    text = json.loads((tmp_path / "results" / run.suite / "run.json").read_text())
    assert text["methods"] == [
        {
            "name": "a", "sentences": ["One.", "Two."], "alters": ["data"],
            "needs": ["clean data", "weights"],
        }
    ]  # fmt: skip


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
