"""An attack that samples as nobody else does, walked through the real stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.artefacts.images import load_images
from bench.artefacts.queries import load_query

SUITE = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "clean_samples": 12,
                "triggered_samples": 4,
                "num_inference_steps": 4,
                "precision": "float32",
            },
        }
    ],
    "attacks": [
        {"name": "trojdiff", "params": {"training_steps": 1}},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": ["clip_x0"],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def walked(walk: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return walk(SUITE, tmp_path_factory.mktemp("walk"))


def samples(walked: Any, defense: str, call: str) -> tuple[Any, torch.Tensor]:
    cell = walked.cell("trojdiff", defense)
    key = walked.plan.stages[cell.stage].inputs[f"call:{call}"]
    return walked.plan.stages[key], load_images(walked.folders[key])


def test_the_adversarys_sampler_draws_his_calls_and_no_others(walked: Any) -> None:
    """From the same start the two samplers lead elsewhere; a defense sees both."""
    own, theirs = samples(walked, "none", "trojan")
    user, users = samples(walked, "none", "noise")
    assert own.params["attack"]["name"] == "trojdiff" and "attack" not in user.params
    starts = [load_query(walked.folders[stage.inputs["queries"]]).noise for stage in (own, user)]
    assert torch.equal(*starts)
    assert not torch.equal(theirs, users)
    for call, undefended in (("trojan", theirs), ("noise", users)):
        assert not torch.equal(samples(walked, "clip_x0", call)[1], undefended)


def test_every_call_is_measured(walked: Any) -> None:
    record = walked.record(walked.cell("trojdiff", "clip_x0"))
    for call in ("trojan", "noise"):
        assert {f"asr[{call}]", f"mse[{call}]", f"robust_asr[{call}]"} <= set(record.metrics)


def test_keys_hold_the_code_of_the_adversarys_sampler(walked: Any) -> None:
    """Or a changed sampler would be judged by samples of the old one."""
    own, _ = samples(walked, "none", "trojan")
    user, _ = samples(walked, "none", "noise")
    assert ("attacks.trojdiff", "Back") in own.code.symbols
    assert ("attacks.trojdiff", "Back") not in user.code.symbols
    beyond = {key: walked.beyond_its_code(key) for key in walked.plan.stages}
    assert {key: names for key, names in beyond.items() if names} == {}
