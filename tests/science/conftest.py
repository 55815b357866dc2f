"""A store as another version left it: its attack knows fewer parameters than the pages ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.engine.record import Metric, PluginSpec, Record

NONE = PluginSpec(name="none")
HAT = PluginSpec(name="baddiffusion", params={"trigger": "grey_box", "target": "hat"}, label="baddiffusion(target=hat)")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite digits with and without clipping, three seeds, each attacked cell with its control."""
    store = tmp_path_factory.mktemp("store")
    cells = [
        Record(
            testbed=PluginSpec(name="digits-ddpm"), attack=attack, probe=probe, defense=defense, seed=seed, status="ok",
            protocol="p", metrics={name: Metric(value=0.1 * seed, n=128) for name in ("mse[noise]", "asr[noise]", "fid[x]")},
        )
        for seed in range(3)
        for attack, probe in ((HAT, None), (NONE, HAT))
        for defense in (NONE, PluginSpec(name="clip_x0"))
    ]  # fmt: skip
    account = {"suite": "digits", "description": "", "started": "", "finished": None,
               "cells": [{"inline": json.loads(cell.to_json())} for cell in cells]}  # fmt: skip
    (store / "runs").mkdir()
    (store / "runs" / "digits.json").write_text(json.dumps(account))
    return store
