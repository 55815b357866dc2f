"""Shared by the tests of the stages."""

from __future__ import annotations

from typing import Any

import pytest

SMALL = {
    "clean_samples": 20,
    "triggered_samples": 4,
    "num_inference_steps": 2,
    "precision": "float32",
}
NOISE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-ddpm", "params": SMALL}],
    "attacks": [
        {"name": "baddiffusion", "params": {"training_steps": 1}},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": [
        "clip_x0",
        {"name": "anp", "params": {"epochs": 1, "steps_per_epoch": 1, "samples": 4}},
    ],
    "detectors": ["noise_shift"],
    "seeds": [0],
}
CLASSES = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-cfg",
            "params": {
                **{name: value for name, value in SMALL.items() if name != "triggered_samples"},
                "class_samples": 12,
                "generated_samples": 30,
                "judged_images": 40,
                "test_images": 6,
            },
        }
    ],
    "attacks": [
        {"name": "badnets", "params": {"training_steps": 1}},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": [
        "train_on_generated",
        {"name": "diffusion_classifier", "params": {"timesteps": 2}},
    ],
    "detectors": [{"name": "strip", "params": {"overlays": 3}}],
    "seeds": [0],
}


@pytest.fixture(scope="session")
def small_suites() -> dict[str, dict[str, Any]]:
    """One suite called by noise, and one with classes; every stage that has a plugin is in one of
    them. Controls train for one step, too.
    """
    return {"noise": NOISE, "classes": CLASSES}
