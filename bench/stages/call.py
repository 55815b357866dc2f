"""What the adversary hands the generator, by one of his calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.artefacts.queries import save_query
from bench.contracts.data import Query
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.returned import owner
from bench.engine.context import Inputs, Params, StageContext
from bench.errors import ContractError
from bench.stages import border_attacks
from bench.stages.building import attack_of, noise_shape_of, testbed_of
from bench.stages.queries import Users

#: Rows that an attack is asked for at a time: 10,000 of 256 x 256 pixels, with the copies that show
#: whether it wrote to them, would be 60 GB.
AT_ONCE = 512


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes the queries, which start from the noise that clean samples start from. So the process
    that samples, in which a defender's plugin may run, never knew the attack.
    """
    testbed, seed, call = testbed_of(params), params["seed"], params["what"]
    attack, users = attack_of(params, inputs), Users(testbed, seed)
    shape, device = noise_shape_of(testbed), torch.device(context.device)
    made = []
    for rows in _pieces(testbed.counts.triggered_samples):
        noise = initial_noise(sample_streams(seed, rows, device=device), shape).cpu()
        query = users.query(noise, rows)
        query = border_attacks.invoked(attack, query, call, testbed.classes())
        made.append(replace(query, images=None))
    save_query(_joined(made, owner(attack, "invoke")), out)
    return {}


def _pieces(count: int) -> list[range]:
    return [range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE)]


def _joined(pieces: Sequence[Query], who: str) -> Query:
    """All rows as one query. Raises :class:`ContractError` if some have what others lack."""
    fields: dict[str, Any] = {}
    for name in vars(pieces[0]):
        values = [getattr(piece, name) for piece in pieces]
        if any((value is None) != (values[0] is None) for value in values):
            raise ContractError(f"{who} must give {name} for every row or for none")
        if isinstance(values[0], Tensor):
            fields[name] = torch.cat(values)
        elif values[0] is not None:
            fields[name] = tuple(text for value in values for text in value)
    return Query(**fields)
