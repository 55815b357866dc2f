"""An attack that learns something beside the network, walked through the real stages: what it
learnt is what its backdoor is called with, for its own model and for the honest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.artefacts.aims import read_aim
from bench.artefacts.judged import load_judged
from bench.artefacts.learnt import FILE, load_learnt
from bench.artefacts.queries import load_query
from bench.contracts.attack import TrainingAttack
from bench.contracts.card import Card
from bench.contracts.data import TrainingStep
from bench.diffusion.noise import initial_noise, sample_streams
from bench.engine.admission import take_over
from bench.engine.context import StageContext
from bench.errors import ContractError
from bench.stages.border_attacks import Learning
from bench.stages.table import STAGES

COUNTS = {
    "clean_samples": 8,
    "triggered_samples": 4,
    "num_inference_steps": 2,
    "precision": "float32",
}
LEARNS = {"training_steps": 2, "noises": 2, "inner_steps": 2}
SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-ddpm", "params": COUNTS}],
    "attacks": [
        {"name": "invibackdoor", "params": LEARNS},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": ["clip_x0"],
    "detectors": ["noise_shift"],
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def walked(walk: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return walk(SUITE, tmp_path_factory.mktemp("walk"))


def made(walked: Any, name: str, **params: Any) -> list[tuple[Any, Path]]:
    """The stages of that name with these parameters, and what each made."""
    return [
        (stage, walked.folders[key])
        for key, stage in walked.plan.stages.items()
        if stage.name == name
        and all(stage.params[field] == value for field, value in params.items())
    ]


def triggers(walked: Any) -> dict[int, Tensor]:
    return {
        stage.params["seed"]: load_learnt(folder)["trigger"]
        for stage, folder in made(walked, "train")
        if stage.params["attack"]["name"] == "invibackdoor"
    }


def test_each_seed_learns_its_own_and_is_called_with_it(walked: Any) -> None:
    learnt = triggers(walked)
    assert set(learnt) == {0, 1} and not torch.equal(learnt[0], learnt[1])
    # Two steps of Adam on signs, at its rate of .001.
    assert all(0 < float(one.abs().max()) < 0.00201 for one in learnt.values())
    for seed, trigger in learnt.items():
        ((_, folder),) = made(walked, "call", seed=seed)
        noise = initial_noise(sample_streams(seed, range(4)), (3, 16, 16))
        assert torch.equal(load_query(folder).noise, noise + trigger)
        ((_, folder),) = made(walked, "judged_noise", seed=seed)
        sets = load_judged(folder).sets
        assert torch.equal(sets["noise"], sets["clean"] + trigger)
    drawn = [read_aim(folder).trigger for _, folder in made(walked, "aim")]
    assert all(any(torch.equal(one, drawn_one) for drawn_one in drawn) for one in learnt.values())


def test_an_honest_model_is_called_with_the_same_trigger(walked: Any) -> None:
    """A control that was called with nothing would be none."""
    cells = [
        cell
        for cell in walked.plan.cells
        if cell.probe and cell.attack.name == "none" and cell.kind in ("control", "sampler")
    ]
    assert len(cells) == 4
    for cell in cells:
        roles = walked.plan.stages[cell.stage].inputs
        sampled = walked.plan.stages[roles["call:noise"]]
        call = walked.plan.stages[sampled.inputs["queries"]]
        trained = walked.plan.stages[call.inputs["learnt"]]
        assert trained.params["attack"]["name"] == "invibackdoor"
        assert trained.params["seed"] == cell.seed
        assert sampled.inputs["generator"] != call.inputs["learnt"]


def test_what_a_strangers_process_left_is_checked(walked: Any, tmp_path: Path) -> None:
    """It becomes the noise of every call."""
    stage, folder = next(
        one for one in made(walked, "train") if one[0].params["attack"]["name"] != "none"
    )
    admit = STAGES["train"].admit
    assert admit is not None
    take_over(folder, tmp_path)
    admit(stage.params, {}, tmp_path, StageContext(key=stage.key))
    assert (tmp_path / FILE).read_bytes() == (folder / FILE).read_bytes()
    save_file({"trigger": torch.full((3, 16, 16), float("nan"))}, tmp_path / FILE)
    with pytest.raises(ContractError, match="^invibackdoor, in its process,, in trigger"):
        admit(stage.params, {}, tmp_path, StageContext(key=stage.key))


@dataclass(frozen=True, kw_only=True)
class Learns(TrainingAttack):
    """Begins and goes on as it is told."""

    card = Card(name="learns", summary="learns", alters=frozenset({"objective"}), tuned=())
    learns = True

    def begin(self, shape: Any) -> Any:
        return BEGINS[0]

    def learn(self, step: TrainingStep) -> Any:
        return GOES_ON[0](self.learnt)


BEGINS: list[Any] = [{}]
GOES_ON: list[Callable[[Mapping[str, Tensor]], Any]] = [dict]
WEIGHT = {"weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("begins", "message"),
    [
        ({}, "begin() must return tensors by name, got a dict"),
        (None, "begin() must return tensors by name, got None"),
        ({"a b": torch.ones(1)}, "begin() must name a tensor by a word"),
        ({"x" * 65: torch.ones(1)}, "begin() must name a tensor by a word"),
        ({"x": torch.ones(1).double()}, "begin(), in x, must return a tensor (1,) float32"),
        ({"x": 3}, "begin(), in x, must return a tensor () float32, got an int"),
        ({"x": torch.tensor([float("inf")])}, "begin(), in x, "),
        ({"x": torch.zeros(10_000_001)}, "begin() must return at most 10,000,000 numbers"),
    ],
)
def test_what_an_attack_begins_with_is_tensors_by_name(begins: Any, message: str) -> None:
    BEGINS[0] = begins
    with pytest.raises(ContractError) as error:
        Learning(Learns(), (3, 16, 16))
    assert str(error.value).startswith("learns: " + message)


def _learn(learning: Learning) -> None:
    rows = {"images": torch.zeros(2, 3, 4, 4), "poisoned": torch.zeros(2, dtype=torch.bool)}
    schedule: Any = SimpleNamespace()
    learning.learn(lambda x, *_: x, rows, torch.zeros(2, 3, 4, 4), torch.zeros(2), schedule)


@pytest.mark.parametrize(
    ("goes_on", "message"),
    [
        (lambda learnt: {}, "learn() must return tensors by name"),
        (lambda learnt: {"other": learnt["weight"]}, "learn() must return ['weight'], got ['oth"),
        (lambda learnt: {"weight": torch.ones(3)}, "learn(), in weight, must return a tensor (2,)"),
        (lambda learnt: {"weight": learnt["weight"] / 0}, "learn(), in weight, "),
    ],
)
def test_what_it_goes_on_with_is_the_same_tensors(goes_on: Any, message: str) -> None:
    BEGINS[0], GOES_ON[0] = WEIGHT, goes_on
    learning = Learning(Learns(), (3, 4, 4))
    with pytest.raises(ContractError) as error:
        _learn(learning)
    assert str(error.value).startswith("learns: " + message)


def test_nothing_that_was_learnt_can_be_changed_behind_its_back() -> None:
    """A tensor that the plugin keeps and writes to later would change the trigger of a call."""
    kept = torch.ones(2)

    def goes_on(learnt: Mapping[str, Tensor]) -> dict[str, Tensor]:
        learnt["weight"].mul_(5)
        return {"weight": kept}

    BEGINS[0], GOES_ON[0] = WEIGHT, goes_on
    learning = Learning(Learns(), (3, 4, 4))
    _learn(learning)
    kept.mul_(7)
    learning.knowing().learnt["weight"].mul_(3)  # as a loss could
    assert learning.tensors["weight"].tolist() == [1, 1] and WEIGHT["weight"].tolist() == [1, 1]
    assert learning.knowing().learnt["weight"].tolist() == [1, 1]
