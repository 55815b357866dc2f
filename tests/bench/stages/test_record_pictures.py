"""What a reader sees of a cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.artefacts.aims import Aim, save_aim
from bench.stages import record

NOBODY = {"defense": {"name": "none"}, "kind": "none"}


@pytest.mark.parametrize("target", [None, torch.zeros(3, 4, 4)])
def test_a_trigger_is_drawn_whatever_its_attack_aims_at(tmp_path: Path, target) -> None:
    """An attack on labels has no target picture, and its trigger is what a reader looks for."""
    save_aim(Aim(target=target, trigger=torch.ones(3, 4, 4)), tmp_path)
    strips = {role: images for role, _, images in record._strips(NOBODY, {"aim": tmp_path})}
    assert set(strips) == {"trigger_image"} | ({"target_image"} if target is not None else set())
    assert strips["trigger_image"].unique().tolist() == [255]
