"""Held-out images that carry the adversary's trigger, as he hands them to who restores images."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.artefacts.images import load_images
from bench.artefacts.inpainted import BY_IMAGE, save_inputs
from bench.artefacts.roles import ORIGINALS
from bench.contracts.data import Query
from bench.diffusion.images import to_unit_range
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border, border_attacks
from bench.stages.building import attack_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes what his call by image adds to the noise, here to none."""
    attack = attack_of(params, inputs)
    images = to_unit_range(load_images(inputs[ORIGINALS]))
    query = Query(noise=torch.zeros_like(images), images=images)
    handed = border_attacks.invoked(attack, query, BY_IMAGE, testbed_of(params).classes()).noise
    save_inputs(out, border.in_range(handed, f"{attack.card.name}: invoke({BY_IMAGE!r})"))
    return {}
