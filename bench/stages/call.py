"""What the adversary hands the generator, by one of his calls."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.artefacts.queries import save_query
from bench.diffusion.noise import initial_noise, sample_streams
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks
from bench.stages.building import attack_of, noise_shape_of, testbed_of
from bench.stages.queries import Users


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes the queries, which start from the noise that clean samples start from. So the process
    that samples, in which a defender's plugin may run, never knew the attack.
    """
    testbed, seed, call = testbed_of(params), params["seed"], params["what"]
    attack = attack_of(params, inputs)
    rows = range(testbed.counts.triggered_samples)
    streams = sample_streams(seed, rows, device=torch.device(context.device))
    noise = initial_noise(streams, noise_shape_of(testbed)).cpu()
    query = Users(testbed, seed).query(noise, rows)
    save_query(border_attacks.invoked(attack, query, call, testbed.classes()), out)
    return {}
