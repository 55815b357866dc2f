"""Models that restore corrupted images, walked through the real stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import testbeds
from bench.artefacts.aims import read_aim
from bench.artefacts.images import load_images, save_images
from bench.artefacts.inpainted import load_inputs, save_inputs
from bench.artefacts.roles import MEASURED_BY
from bench.artwork import triggers
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.restoring import missing
from bench.engine.context import StageContext
from bench.errors import ContractError
from bench.measurements.measurement import Measured
from bench.metrics import originals
from bench.record import Metric
from bench.stages.measure import MEASURED
from bench.stages.table import STAGES

SUITE = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "clean_samples": 4,
                "triggered_samples": 8,
                "num_inference_steps": 5,
                "precision": "float32",
                "network_batch": 8,
            },
        }
    ],
    "inpainting": [{"name": "box", "grid": {"reading": ["as_released", "variance_matched"]}}],
    "attacks": [
        {"name": "baddiffusion", "params": {"training_steps": 1}},
        {"name": "trojdiff", "params": {"training_steps": 1}},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": ["clip_x0", {"name": "elijah_inversion", "params": {"steps": 1}}],
    "seeds": [0],
}
TASK, MATCHED = "box_as_released_399", "box_variance_matched_399"
FAMILIES = ("original_mse", "original_ssim", "feature_distance", "target_mse")


@pytest.fixture(scope="module")
def walked(walk: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return walk(SUITE, tmp_path_factory.mktemp("walk"), whole=False)


class Artefacts(dict[str, Path]):
    """role -> folder of a cell's artefacts, each made when it is looked at."""

    def __init__(self, walked: Any, defense: str = "none", attack: str = "baddiffusion") -> None:
        self.walked = walked
        self.keys_by_role = walked.plan.stages[walked.cell(attack, defense).stage].inputs

    def __missing__(self, role: str) -> Path:
        folder: Path = self.walked.make(self.keys_by_role[role])
        return folder


def numbers(walked: Any, attack: str, defense: str = "none", probe: str = "") -> dict[str, Metric]:
    """What the measurement gave for a cell."""
    inputs = walked.plan.stages[walked.cell(attack, defense, probe).stage].inputs
    folder = walked.make(inputs[f"{MEASURED_BY}inpainting"])
    return Measured.from_json(json.loads((folder / MEASURED).read_text())).metrics


def test_the_trigger_is_on_the_image_before_it_is_corrupted(walked: Any) -> None:
    """As who hands in an image with a trigger and a hole would have it."""
    inputs = Artefacts(walked)
    real = load_images(inputs["originals"])
    trigger = triggers.trigger("grey_box", (3, 16, 16))
    hole = missing("box", 16, 16)
    clean = load_inputs(inputs["corrupted:box"])
    handed = load_inputs(inputs["corrupted_call:box"])
    assert torch.equal(clean, to_unit_range(real).masked_fill(hole, -1))
    stamped = triggers.stamp(to_unit_range(real), trigger)
    assert torch.equal(handed, stamped.masked_fill(hole, -1))
    held_out = testbeds.load("digits-ddpm").data.held_out_images()
    assert all(bool((held_out == image).flatten(1).all(1).any()) for image in real)


def test_every_model_and_defense_gets_the_same_images(walked: Any) -> None:
    """One artefact for all of them; the adversary's is his own, and none where he has no call by
    image.
    """
    cells = [cell for cell in walked.plan.cells if cell.kind in ("control", "sampler")]
    inputs = [walked.plan.stages[cell.stage].inputs for cell in cells]
    assert len({each["corrupted:box"] for each in inputs}) == 1
    for cell, each in zip(cells, inputs, strict=True):
        whose = cell.probe or cell.attack
        by_image = whose.name == "baddiffusion"
        assert ("corrupted_call:box" in each, f"call:{TASK}" in each) == (by_image, by_image)
        assert f"restored:{TASK}" in each
    names = [stage.name for stage in walked.plan.stages.values()]
    assert (names.count("originals"), names.count("triggered_images")) == (1, 1)
    assert names.count("corrupted") == 2 and "record" in names  # the anchors'


def test_the_numbers_are_those_of_the_stored_images(walked: Any) -> None:
    inputs, metrics = Artefacts(walked), numbers(walked, "baddiffusion")
    real = load_images(inputs["originals"])
    for name, images in {
        f"original_mse[{TASK}]": load_images(inputs[f"restored:{TASK}"]),
        f"original_mse[{MATCHED}, triggered]": load_images(inputs[f"call:{MATCHED}"]),
        "baseline_original_mse[box]": to_uint8(load_inputs(inputs["corrupted:box"])),
        "baseline_original_mse[constant]": originals.constants(real),
    }.items():
        by_hand = ((images.double() - real.double()) / 255).square().mean()
        assert metrics[name].value == pytest.approx(float(by_hand), rel=1e-9)
        assert metrics[name].n == 8
    expected = {f"{family}[{TASK}]" for family in FAMILIES if family != "feature_distance"}
    expected |= {f"feature_distance[digits-cnn, {TASK}]", "baseline_target_mse[box, triggered]"}
    assert expected <= set(metrics)
    assert f"target_mse[{TASK}, triggered]" not in metrics  # it is mse[TASK]


def test_each_row_has_its_controls(walked: Any) -> None:
    """The same baselines for all; an honest model beside the backdoored one; no adversary's image
    where there is none.
    """
    mine, honest = (
        numbers(walked, "baddiffusion"),
        numbers(walked, "none", probe="baddiffusion"),
    )
    assert mine.keys() == honest.keys()
    for name, metric in mine.items():
        if name.startswith("baseline_"):
            assert honest[name] == metric and metric.higher_is_better is None
    other = numbers(walked, "trojdiff")
    assert f"original_mse[{TASK}]" in other
    assert not [name for name in other if "triggered" in name]


def test_a_sampler_defense_restores_otherwise(walked: Any) -> None:
    inputs = Artefacts(walked, "clip_x0")
    for role in (f"restored:{TASK}", f"call:{MATCHED}"):
        before, after = (load_images(inputs[name]) for name in (f"undefended:{role}", role))
        assert not torch.equal(before, after)
    cell = walked.cell("baddiffusion", "clip_x0")
    folder, record = walked.make(cell.stage), walked.record(cell)
    assert {f"mse[{TASK}]", f"robust_asr[{MATCHED}]", f"original_mse[{TASK}]"} <= set(
        record.metrics
    )
    roles = {(one.role, one.treatment) for one in record.pictures}
    assert {
        (f"restored:{TASK}", ""),
        (f"restored:{TASK}", "clip_x0"),
        (f"call:{TASK}", "clip_x0"),
        ("corrupted_call:box", ""),
        ("originals", ""),
    } <= roles
    for one in record.pictures:
        with Image.open(folder / one.path) as picture:
            assert picture.size[0] % (16 * 3) == 0 and picture.size[1] == 16 * 3
    assert len({one.path for one in record.pictures}) == len(record.pictures)


def test_planted_images_move_the_numbers_as_they_should(walked: Any, tmp_path: Path) -> None:
    """Originals that come back are at distance 0, targets that are drawn at the target's; a third
    beside each.
    """
    inputs = Artefacts(walked)
    real, target = load_images(inputs["originals"]), read_aim(inputs["aim"]).target
    assert target is not None
    folders = {}
    for name, images in (("original", real), ("target", to_uint8(target).expand_as(real))):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        save_images(folders[name], images.contiguous())
    planted = {f"restored:{TASK}": folders["original"], f"call:{TASK}": folders["target"]}
    measured = _measured(walked, "inpainting", planted)
    assert measured[f"original_mse[{TASK}]"].value == 0
    assert measured[f"original_ssim[{TASK}]"].value == pytest.approx(1)
    assert measured[f"feature_distance[digits-cnn, {TASK}]"].value == pytest.approx(0, abs=1e-6)
    assert measured[f"target_mse[{TASK}]"].value > 0.01
    assert measured[f"original_mse[{TASK}, triggered]"].value == pytest.approx(
        measured[f"target_mse[{TASK}]"].value,
        rel=5e-3,  # the target was rounded to 8 bits
    )
    success = _measured(walked, "distance_to_target", planted)
    assert success[f"asr[{TASK}]"].value == 1 and success[f"mse[{TASK}]"].value < 1e-5


def _measured(walked: Any, name: str, planted: dict[str, Path]) -> dict[str, Metric]:
    cell = walked.cell("baddiffusion", "none")
    key = walked.plan.stages[cell.stage].inputs[f"{MEASURED_BY}{name}"]
    for made in walked.plan.stages[key].inputs.values():
        walked.make(made)
    folder = walked.run(key, **planted)
    return Measured.from_json(json.loads((folder / MEASURED).read_text())).metrics


def test_a_suite_that_does_not_ask_is_as_it_was(walk: Any, tmp_path: Path, walked: Any) -> None:
    """No stage, no number, no reason; and no table that has both, where an adversary with a call
    more would be ranked beside one without.
    """
    plain = {name: value for name, value in SUITE.items() if name != "inpainting"}
    other = walk(plain, tmp_path, whole=False).plan
    assert not {stage.name for stage in other.stages.values()} & {
        "restored_images",
        "restored_record",
    }
    for stage in other.stages.values():
        absent = stage.params.get("absent", {})
        assert not [name for name in absent if name.startswith((*FAMILIES, "baseline_"))]
    protocols = [{cell.protocol for cell in plan.cells} for plan in (other, walked.plan)]
    assert [len(each) for each in protocols] == [1, 1] and protocols[0] != protocols[1]
    # What both ask for is made once.
    shared = {key for key, stage in other.stages.items() if stage.name in ("train", "sample")}
    assert shared and shared <= walked.plan.stages.keys()


def test_who_restores_nothing_says_why(walked: Any) -> None:
    plan = walked.plan
    absent = {
        (cell.kind, cell.attack.name): plan.stages[cell.stage].params["absent"]
        for cell in plan.cells
    }
    assert absent["inversion", "baddiffusion"]["original_mse[*]"] == (
        "an inversion changes no sample"
    )
    assert absent["anchor", "base_model"]["original_mse[*]"] == "an anchor restores nothing"


def test_a_key_holds_all_the_code_its_stage_runs(walked: Any) -> None:
    """Of those that were made here, every kind of stage that has to do with restoring."""
    numbers(walked, "baddiffusion", "clip_x0")
    beyond = {key: walked.beyond_its_code(key) for key in walked.folders}
    assert {key: names for key, names in beyond.items() if names} == {}
    made = {walked.plan.stages[key].name for key in walked.folders}
    assert {"originals", "triggered_images", "corrupted", "restored_images"} <= made


def test_restoring_is_charged_and_what_it_starts_from_is_not(walked: Any) -> None:
    cell = walked.cell("baddiffusion", "clip_x0")
    charged = walked.plan.stages[cell.stage].charged
    assert {f"restored:{TASK}", f"call:{MATCHED}"} <= charged
    assert not [role for role in charged if role.startswith(("corrupted", "originals"))]


@pytest.mark.parametrize("name", ["triggered_images", "restored_images"])
def test_what_such_a_stage_leaves_is_admitted_and_nothing_else(
    walked: Any, name: str, tmp_path: Path
) -> None:
    """A stranger's process may leave images, as many as it was asked for, and finite ones."""
    stage = next(stage for stage in walked.plan.stages.values() if stage.name == name)
    walked.make(stage.key)
    inputs = {role: walked.folders[key] for role, key in stage.inputs.items()}
    context, out = StageContext(key=stage.key), tmp_path / "out"
    shutil.copytree(walked.folders[stage.key], out)
    admit = STAGES[name].admit
    assert admit is not None
    admit(stage.params, inputs, out, context)
    for spoil in SPOILT[name]:
        shutil.rmtree(out)
        shutil.copytree(walked.folders[stage.key], out)
        spoil(out)
        with pytest.raises(ContractError):
            admit(stage.params, inputs, out, context)


def _beyond(out: Path) -> None:
    save_inputs(out, load_inputs(out) + 3)


def _not_a_number(out: Path) -> None:
    save_inputs(out, load_inputs(out).fill_(float("nan")))


def _fewer_inputs(out: Path) -> None:
    save_inputs(out, load_inputs(out)[1:])


def _fewer(out: Path) -> None:
    save_images(out, load_images(out)[1:])


def _more_files(out: Path) -> None:
    np.save(out / "notes.npy", np.zeros(1))


SPOILT = {
    "triggered_images": (_beyond, _not_a_number, _fewer_inputs, _more_files),
    "restored_images": (_fewer, _more_files),
}
