"""What the adversary hands the generator is asked for in pieces, and is what one question gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import registry
from bench.artefacts.queries import load_query
from bench.contracts.attack import Attack
from bench.contracts.data import Query
from bench.engine.context import StageContext
from bench.errors import ContractError
from bench.stages import call
from bench.testbeds.digits_ddpm import DIGITS_DDPM

COUNT = 22


def called(out: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> Query:
    out.mkdir()
    monkeypatch.setattr(call, "AT_ONCE", at_once)
    registry.use()
    testbed = DIGITS_DDPM.changed(triggered_samples=COUNT)
    attack = registry.build("attacks", "baddiffusion")
    params = {
        "testbed": {
            "name": "digits-ddpm",
            "params": testbed.params(("data", "generator", "counts")),
            "parts": ["data", "generator", "counts"],
        },
        "attack": {"name": "baddiffusion", "params": attack.params()},
        "seed": 3,
        "what": "image",
    }
    call.run(params, {}, out, StageContext(key="k"))
    return load_query(out)


def test_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand rows of 256 x 256 pixels took 60 GB at once; the bits are the same."""
    whole = called(tmp_path / "whole", monkeypatch, COUNT)
    pieces = called(tmp_path / "pieces", monkeypatch, 7)
    assert len(whole.noise) == COUNT and whole.noise.equal(pieces.noise)
    assert vars(whole).keys() == vars(pieces).keys() and pieces.images is None


def test_what_some_rows_lack_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(attack: Attack, query: Query, *_: object) -> Query:
        return replace(query, labels=None if len(query.noise) < 7 else query.noise[:, 0, 0, 0])

    monkeypatch.setattr(call.border_attacks, "invoked", halved)
    with pytest.raises(ContractError, match=r"^baddiffusion: invoke\(\) must give labels"):
        called(tmp_path / "pieces", monkeypatch, 7)
