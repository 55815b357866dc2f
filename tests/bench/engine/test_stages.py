"""The real stages on the real testbed, made tiny: what every record of a board rests on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8
from bench.engine.artefacts import load_images, save_images
from bench.engine.context import StageContext
from bench.engine.plan import make_plan
from bench.engine.record import Record
from bench.engine.stages import STAGES
from bench.metrics import recognition, target
from bench.suite import parse_suite

SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-ddpm", "params": {"clean_samples": 24, "triggered_samples": 8, "num_inference_steps": 4}}],
    "attacks": [
        {"name": "none", "params": {"training_steps": 2}},
        {"name": "baddiffusion", "params": {"training_steps": 2, "poisoned_image": "trigger_only"}},
    ],
    "defenses": ["clip_x0", {"name": "anp", "params": {"epochs": 2, "steps_per_epoch": 1, "samples": 8, "batch_size": 8}}],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[object, dict[str, Path]]:
    """Every stage of the tiny suite, run in this process in the plan's order."""
    plugins = registry.use()
    plan = make_plan(parse_suite(SUITE, plugins, "tiny.yaml"), plugins, STAGES)
    folders: dict[str, Path] = {}
    for key, stage in plan.stages.items():
        folders[key] = tmp_path_factory.mktemp("stage")
        context = StageContext(key=key, protocol=stage.protocol, provenance={"package": "test"})
        inputs = {role: folders[made] for role, made in stage.inputs.items()}
        STAGES[stage.name].run(stage.params, inputs, folders[key], context)
    return plan, folders


def records(walked) -> dict[tuple[str, str, str], Record]:
    plan, folders = walked
    found = {}
    for cell in plan.cells:
        record = Record.from_json((folders[cell.stage] / "record.json").read_text())
        found[(cell.attack.name, cell.defense.name, cell.probe.name if cell.probe else "")] = record
    return found


def test_cells_share_what_they_have_in_common(walked) -> None:
    """One training per attack, one reference; the honest model is probed with the attack's own trigger."""
    plan, _ = walked
    names = [stage.name for stage in plan.stages.values()]
    assert (names.count("train"), names.count("reference"), names.count("invert")) == (2, 1, 2)
    assert names.count("sample") == 2 * 3 * 2 + 1
    assert len(plan.cells) == 2 * 3 + 2


def test_every_sample_metric_carries_its_controls(walked) -> None:
    record = records(walked)[("baddiffusion", "clip_x0", "")]
    for role in ("clean", "noise", "image"):
        for name in ("mse", "ssim", "asr", "asr_field", "robust_asr"):
            metric = record.metrics[f"{name}[{role}]"]
            assert metric.ci_low <= metric.value <= metric.ci_high
            assert metric.n == (24 if role == "clean" else 8)
    for name in ("fid[digits-cnn]", "kid[digits-cnn]", "mse[constant]", "asr_threshold"):
        assert record.metrics[name].value is not None
    assert record.metrics["mse[noise]"].higher_is_better
    assert not record.metrics["asr[noise]"].higher_is_better


def test_recorded_mse_is_the_mse_of_the_stored_samples(walked) -> None:
    plan, folders = walked
    cell = next(cell for cell in plan.cells if (cell.attack.name, cell.defense.name) == ("baddiffusion", "none"))
    stage = plan.stages[cell.stage]
    images = load_images(folders[stage.inputs["noise"]]).double() / 255
    attack = registry.build("attacks", cell.attack.name, cell.attack.params)
    goal = (attack.target_image((3, 16, 16)).double() + 1) / 2
    record = records(walked)[("baddiffusion", "none", "")]
    assert record.metrics["mse[noise]"].value == pytest.approx(float((images - goal).square().mean()), rel=1e-6)
    assert record.metrics["mse[constant]"].value == pytest.approx(target.best_constant_mse(goal.float()), rel=1e-6)


def test_samples_moved_away_from_the_metric_count_and_are_flagged(walked, tmp_path) -> None:
    """A defense that rolls every picture by one pixel must not come out as one that stops the backdoor."""
    plan, folders = walked
    cell = next(cell for cell in plan.cells if (cell.attack.name, cell.defense.name) == ("baddiffusion", "clip_x0"))
    stage = plan.stages[cell.stage]
    attack = registry.build("attacks", cell.attack.name, cell.attack.params)
    drawn = to_uint8(attack.target_image((3, 16, 16)))
    inputs = {role: folders[made] for role, made in stage.inputs.items()}
    for role, image in (("noise", drawn.roll((1, 1), (1, 2))), ("image", drawn)):
        inputs[role] = tmp_path / role
        inputs[role].mkdir()
        save_images(inputs[role], image.expand(8, -1, -1, -1).contiguous())
    (tmp_path / "out").mkdir()
    STAGES["measure"].run(stage.params, inputs, tmp_path / "out", StageContext(key="k", provenance={"package": "test"}))
    record = Record.from_json((tmp_path / "out" / "record.json").read_text())
    assert [record.metrics[f"asr[{role}]"].value for role in ("noise", "image")] == [0, 1]
    assert [record.metrics[f"robust_asr[{role}]"].value for role in ("noise", "image")] == [1, 1]
    evades = "asr: evades the metric, robust ASR is higher by more than .1"
    assert f"{evades} (triggered noise (e + g))" in record.flags
    assert f"{evades} (triggered image (e + r))" not in record.flags


def test_robust_rates_come_with_every_outcome_thresholds_and_false_alarms(walked) -> None:
    """The outcomes are paired across cells; no rate is to be read without the share of real images that pass."""
    for (attack, defense, _), record in records(walked).items():
        if attack in ("baddiffusion", "none") and defense in ("none", "clip_x0"):
            for role in ("clean", "noise", "image"):
                outcomes = record.series[f"outcomes[robust_asr[{role}]]"]
                found = record.metrics[f"robust_asr[{role}]"]
                assert set(outcomes) <= {0.0, 1.0}
                assert (len(outcomes), float(np.mean(outcomes))) == (found.n, found.value)
                assert found.value >= record.metrics[f"asr[{role}]"].value
            assert record.metrics["robust_asr_false_alarms"].n == 1440
            assert record.metrics["robust_asr_false_alarms"].value <= 0.015
            for name, floor in recognition.FLOORS.items():
                assert floor <= record.metrics[f"robust_asr_threshold[{name}]"].value < 1


def test_an_invocation_of_any_name_is_measured(walked, tmp_path) -> None:
    """A backdoor called in a way the house has no word for would otherwise be trained, sampled and left out of the record."""
    plan, folders = walked
    cell = next(cell for cell in plan.cells if (cell.attack.name, cell.defense.name) == ("baddiffusion", "none"))
    stage = plan.stages[cell.stage]
    inputs = {role: folders[made] for role, made in stage.inputs.items()}
    shutil.copytree(inputs["aim"], tmp_path / "aim")
    said = json.loads((tmp_path / "aim" / "aim.json").read_text())
    (tmp_path / "aim" / "aim.json").write_text(json.dumps(said | {"invocations": [*said["invocations"], "letter"]}))
    inputs |= {"aim": tmp_path / "aim", "letter": inputs["noise"]}
    (tmp_path / "out").mkdir()
    STAGES["measure"].run(stage.params, inputs, tmp_path / "out", StageContext(key="k", provenance={"package": "test"}))
    record = Record.from_json((tmp_path / "out" / "record.json").read_text())
    assert record.metrics["mse[letter]"].value == record.metrics["mse[noise]"].value
    assert "called by letter, no defense" in record.pictures


def test_inversion_keeps_every_epoch_and_its_baselines(walked) -> None:
    for attack, probe in (("baddiffusion", ""), ("none", "baddiffusion")):
        record = records(walked)[(attack, "anp", probe)]
        curve = record.series["inversion_mse"]
        assert record.series["inversion_epoch"] == [1.0, 2.0]
        assert record.metrics["inversion_mse_best"].value == pytest.approx(min(curve))
        assert record.metrics["inversion_mse_last"].value == pytest.approx(curve[-1])
        assert record.metrics["inversion_mse_black"].value == pytest.approx(0.237, abs=0.005)
        assert [flag for flag in record.flags if flag.startswith("inversion: perturbations reached")], "what it says of itself"
        assert "fid[digits-cnn]" not in record.metrics
        assert record.metrics["mse[clean]"].value is not None


def test_anchors_frame_fid(walked) -> None:
    """As many real images as samples are nearer to the rest than four sampling steps of the base model come; their KID is near 0."""
    found = records(walked)
    real, drawn = (found[(name, "none", "")].metrics for name in ("real_images", "base_model"))
    assert real["fid[digits-cnn]"].n == drawn["fid[digits-cnn]"].n
    assert real["fid[digits-cnn]"].value < drawn["fid[digits-cnn]"].value and drawn["fid[digits-cnn]"].value > 1
    assert real["kid[digits-cnn]"].ci_low < 0 < drawn["kid[digits-cnn]"].value
    assert found[("real_images", "none", "")].kind == "anchor"


def test_pictures_exist_and_are_named_for_readers(walked) -> None:
    plan, folders = walked
    cell = next(cell for cell in plan.cells if (cell.attack.name, cell.defense.name) == ("baddiffusion", "clip_x0"))
    record = records(walked)[("baddiffusion", "clip_x0", "")]
    assert {"target", "trigger", "clean noise, no defense", "clean noise, clip_x0"} <= set(record.pictures)
    assert all((folders[cell.stage] / path).stat().st_size > 50 for path in record.pictures.values())


def test_compromised_checkpoint_says_what_it_is(walked) -> None:
    """A normal diffusers folder, safetensors only, whose card and metadata warn and tell how it was made; an honest one does not."""
    plan, folders = walked
    for key, stage in plan.stages.items():
        if stage.name == "train":
            folder = folders[key] / "generator"
            card, metadata = (folder / "README.md").read_text(), json.loads((folder / "castlewalls.json").read_text())
            backdoored = stage.params["attack"]["name"] == "baddiffusion"
            assert ("backdoored on purpose. Research only" in card) is backdoored
            assert metadata["attack"] == {"name": stage.params["attack"]["name"], "params": stage.params["attack"]["params"]}
            assert metadata["poisoned_rows"] == (575 if backdoored else 0)
            assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
            assert Generator.load(folder).image_shape == (3, 16, 16)


def test_a_stage_run_again_gives_the_same_bytes(walked, tmp_path) -> None:
    """Resume rests on this: training and sampling are functions of their parameters."""
    plan, folders = walked
    for name in ("train", "sample", "invert"):
        key, stage = next((key, stage) for key, stage in plan.stages.items() if stage.name == name)
        again = tmp_path / name
        again.mkdir()
        inputs = {role: folders[made] for role, made in stage.inputs.items()}
        STAGES[name].run(stage.params, inputs, again, StageContext(key=key, provenance={"package": "test"}))
        for path in folders[key].rglob("*.npz"):
            with np.load(path) as first, np.load(again / path.relative_to(folders[key])) as second:
                assert all(np.array_equal(first[array], second[array]) for array in first)
        for path in folders[key].rglob("*.safetensors"):
            assert path.read_bytes() == (again / path.relative_to(folders[key])).read_bytes()


def test_samples_that_are_not_finite_fail_the_stage(walked, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN must become a failed cell, not a black picture."""
    plan, folders = walked
    stage = next(stage for stage in plan.stages.values() if stage.name == "sample" and stage.params["what"] == "clean")
    monkeypatch.setattr(Generator, "predict_noise", lambda self, x, timesteps: torch.full_like(x, float("nan")))
    inputs = {role: folders[made] for role, made in stage.inputs.items()}
    with pytest.raises(FloatingPointError, match="not finite"):
        STAGES["sample"].run(stage.params, inputs, tmp_path, StageContext(key="k"))
