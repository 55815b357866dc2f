"""What a bundle must hold follows from the suite alone."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from bench.bundle.expected import expected

SUITE = {
    "name": "two",
    "testbeds": ["digits-ddpm", "digits-cfg"],
    "attacks": [
        {"name": "baddiffusion", "testbeds": ["digits-ddpm"]},
        {"name": "badnets", "testbeds": ["digits-cfg"]},
    ],
    "defenses": [{"name": "weight_noise", "testbeds": ["digits-cfg"]}],
    "seeds": [0, 1],
}


def test_a_column_is_asked_for_where_the_suite_meets_it(tmp_path: Path) -> None:
    """A bundle of a column that the suite has on one testbed would else lack the others' cells for
    ever. One that the suite does not list meets everything.
    """
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    known = expected(str(path))
    ((listed, met),) = known.listed.items()
    assert listed[0] == "weight_noise" and met == {"digits-cfg"}

    def cells(params: str) -> set[tuple[str, str, int]]:
        rows = [json.loads(one) for one in known.column([("weight_noise", params)])]
        return {(testbed[0], attack[0], seed) for testbed, attack, _, _, seed in rows}

    there = {("digits-cfg", name, seed) for name in ("badnets", "none") for seed in (0, 1)}
    assert cells(listed[1]) == there
    other = {("digits-ddpm", name, seed) for name in ("baddiffusion", "none") for seed in (0, 1)}
    assert cells('{"strength": 0.5}') == there | other
