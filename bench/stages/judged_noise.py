"""The starting noise that a detector judges: the adversary's, by each of his calls, and clean noise
from three streams: what it is judged against, a control, and what fixes its threshold.
"""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.judged import Judged, save_judged
from bench.diffusion.noise import initial_noise, sample_streams
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks
from bench.stages.building import attack_of, noise_shape_of, testbed_of
from bench.stages.queries import Users

NOISE_SAMPLES = 512


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes them."""
    testbed, seed = testbed_of(params), params["seed"]
    attack = attack_of(params, inputs)
    shape, rows = noise_shape_of(testbed), range(NOISE_SAMPLES)
    clean = initial_noise(sample_streams(seed, rows), shape)
    query = Users(testbed, seed).query(clean, rows)
    classes = testbed.classes()
    sets = {
        "reference": initial_noise(sample_streams(seed, rows, "reference noise"), shape),
        "threshold": initial_noise(sample_streams(seed, rows, "threshold noise"), shape),
        "clean": clean,
        **{
            call.name: border_attacks.invoked(attack, query, call.name, classes).noise
            for call in type(attack).calls
            if call.through != "prompt"
        },
    }
    save_judged(Judged(sets=sets, rows={}), out)
    return {}
