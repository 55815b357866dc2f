"""The truth about what was poisoned is one: who poisons the set again gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from bench.artefacts.aims import read_rows
from bench.contracts.card import Card
from bench.contracts.data import TrainingSet
from bench.errors import ContractError
from bench.stages import poisoned_rows


@dataclass(frozen=True, kw_only=True)
class Drawn:
    card: ClassVar[Card] = Card(name="drawn", summary="for tests")


def made(monkeypatch: pytest.MonkeyPatch, out: Any, *sets: TrainingSet) -> None:
    """The stage, of an attack that poisons like this, one call after another."""
    left = list(sets)
    monkeypatch.setattr(poisoned_rows, "testbed_of", lambda params: None)
    monkeypatch.setattr(poisoned_rows, "plugin_of", lambda *names: Drawn())
    monkeypatch.setattr(poisoned_rows, "poisoned_set", lambda *given: left.pop(0))
    monkeypatch.setattr(poisoned_rows, "poison_doubts", lambda *given: [])
    poisoned_rows.run({"attack": {}, "seed": 0}, {}, out, SimpleNamespace())  # type: ignore[arg-type]


def rows(marked: int = 0, pixel: int = 0, label: int | None = 0) -> TrainingSet:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images[marked] = pixel
    labels = None if label is None else torch.tensor([label, 1, 2])
    return TrainingSet(images, torch.arange(3) == marked, labels)


@pytest.mark.parametrize("label", [0, None])
def test_the_same_rows_twice_are_the_truth(monkeypatch, tmp_path, label) -> None:
    made(monkeypatch, tmp_path, rows(label=label), rows(label=label))
    assert read_rows(tmp_path).poisoned.tolist() == [True, False, False]


@pytest.mark.parametrize("other", [rows(marked=1), rows(pixel=1), rows(label=1)])
def test_an_attack_with_randomness_of_its_own_is_refused(monkeypatch, tmp_path, other) -> None:
    """Its generator, its classifier and its suspected set would each be poisoned otherwise, and an
    honest detector was measured against a truth that was not its set's.
    """
    with pytest.raises(ContractError, match=r"^drawn: poison\(\) must draw from rng alone"):
        made(monkeypatch, tmp_path, rows(), other)
