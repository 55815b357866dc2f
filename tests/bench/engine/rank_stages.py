"""The real training stage, with a note of what each rank ended with. Loads torch only in the
ranks.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from bench.engine.context import StageKind


def train(params, inputs, out, context):
    """``train_generator``, then ``notes/<rank>``: the hash of its weights, its losses and its
    cost.
    """
    from bench.stages.train import run as train_generator

    cost = train_generator(params, inputs, out, context)
    (weights,) = (out / "generator").rglob("*.safetensors")
    with np.load(out / "losses.npz") as arrays:
        losses = arrays["losses"].tolist()
    noted = {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "losses": losses,
        "cost": cost,
    }
    Path(os.environ["RANK_NOTES"], os.environ["RANK"]).write_text(json.dumps(noted))
    return cost


STAGES = {"train": StageKind(run=train, distributed=True)}
