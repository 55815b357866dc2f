"""The prompts that a detector judges: the adversary's, by each of his calls through the prompt, and
what users ask.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bench.artefacts.judged import Judged, save_judged
from bench.contracts.data import Query
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks
from bench.stages.building import attack_of, noise_shape_of, testbed_of
from bench.stages.queries import clean_prompts


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes, from the wordings of :func:`~bench.stages.queries.clean_prompts`, those of one third
    as what is judged against, of another as what fixes the threshold, and the last third as a
    control and as what the adversary changes.
    """
    testbed = testbed_of(params)
    attack = attack_of(params, inputs)
    reference, threshold, clean = clean_prompts(testbed, params["seed"])
    noise = torch.zeros((len(clean), *noise_shape_of(testbed)))
    query = Query(noise=noise, prompts=clean)
    called = {
        call.name: border_attacks.invoked(attack, query, call.name).prompts or clean
        for call in type(attack).calls
        if call.through == "prompt"
    }
    sets = {"reference": reference, "threshold": threshold, "clean": clean, **called}
    save_judged(Judged(sets=sets, rows={}), out)
    return {}
