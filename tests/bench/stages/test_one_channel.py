"""Grey images, of one channel, on the testbeds of Fashion-MNIST made tiny: what every attack
changes, and all stages of one attack on each, with a defense and a detector of every family and
every measurement. A place that takes images to have three channels fails here.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import registry, testbeds
from bench.artefacts.images import load_images
from bench.stages.building import honest_set, poisoned_set

FEW = {"clean_samples": 8, "num_inference_steps": 2, "train_count": 60, "held_out_count": 40}
NOISE = {
    "attacks": ["baddiffusion"],
    "defenses": [
        "clip_x0",
        "clip_xt",
        {"name": "anp", "params": {"epochs": 1, "steps_per_epoch": 1, "samples": 4}},
        {"name": "finetune", "params": {"steps": 1, "batch_size": 4}},
    ],
    "detectors": ["noise_shift"],
}
CLASSES = {
    "attacks": ["badnets"],
    "defenses": [
        "clip_x0_ddim",
        "train_on_generated",
        {"name": "diffusion_classifier", "params": {"timesteps": 2}},
    ],
    "detectors": [
        {"name": "strip", "params": {"overlays": 3}},
        {"name": "cognitive_distillation", "params": {"steps": 2}},
        {"name": "fct", "params": {"epochs": 1, "draws": 1}},
    ],
}
#: On which testbed, with parameters that keep it short.
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "baddiffusion": ("fashion-ddpm", {"trigger": "stop_sign", "target": "cat"}),
    "baddiffusion_clip_aware": ("fashion-ddpm", {}),
    "trojdiff": ("fashion-ddpm", {}),
    "villandiffusion": ("fashion-ddpm", {}),
    "badnets": ("fashion-cfg", {"pattern": "bomb"}),
    "wanet": ("fashion-cfg", {}),
    "relabel_only": ("fashion-cfg", {}),
    "clean_label": ("fashion-cfg", {"surrogate_steps": 2, "pgd_steps": 2}),
}
SMALL: dict[str, dict[str, Any]] = {
    "fashion-ddpm": {**FEW, "triggered_samples": 4},
    "fashion-cfg": {
        **FEW,
        "class_samples": 8,
        "generated_samples": 20,
        "judged_images": 32,
        "test_images": 6,
    },
}


@pytest.fixture(scope="module", params=[("fashion-ddpm", NOISE), ("fashion-cfg", CLASSES)])
def walked(
    request: pytest.FixtureRequest,
    walk: Any,
    idx_files: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Every stage of a suite of everything that applies to the testbed."""
    name, columns = request.param
    data = idx_files.save_fashion(tmp_path_factory.mktemp("fashion"))
    steps = {"training_steps": 1}
    suite = {
        "name": "tiny",
        "testbeds": [{"name": name, "params": SMALL[name] | {"data": str(data)}}],
        "seeds": [0],
        **columns,
        "attacks": [{"name": one, "params": steps} for one in (*columns["attacks"], "none")],
    }
    return walk(suite, tmp_path_factory.mktemp("walk"), classifier_steps=1)


def test_everything_is_measured_on_grey_images(walked: Any) -> None:
    records = walked.records()
    assert {record.status for record in records.values()} == {"ok"}
    skipped = [cell.reason for cell in walked.plan.cells if cell.stage is None]
    assert all("judges the starting noise" in reason for reason in skipped), skipped
    every = {name for record in records.values() for name in record.metrics}
    assert "fid[fashion-cnn]" in every
    for record in records.values():
        values = [one.value for one in record.metrics.values() if one.value is not None]
        assert values and np.isfinite(values).all()


def test_pictures_are_grey(walked: Any) -> None:
    pictures = [path for folder in walked.folders.values() for path in folder.rglob("*.png")]
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.mode == "L", path
    for folder in walked.folders.values():
        if (folder / "images.npz").is_file():
            assert load_images(folder).shape[1:] == (1, 32, 32)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_grey_images(name: str, idx_files: ModuleType, tmp_path: Path) -> None:
    on, params = ATTACKS[name]
    folder = str(idx_files.save_fashion(tmp_path, train=200))
    testbed = testbeds.build(on, {"data": folder, "train_count": 200, "held_out_count": 40})
    attack = registry.build("attacks", name, params)
    made, honest = poisoned_set(testbed, attack, 0), honest_set(testbed)
    assert made.images.shape[1:] == (1, 32, 32) and bool(made.poisoned.any())
    trigger = attack.adds()
    if trigger is None:
        assert name == "relabel_only"
        return
    if trigger.picture is not None:
        assert trigger.picture((1, 32, 32)).shape == (1, 32, 32)
    if trigger.stamp is not None:
        stamped = trigger.stamp(honest.images[:4].clone())
        assert stamped.shape == (4, 1, 32, 32) and not torch.equal(stamped, honest.images[:4])
