"""The real stages on the real testbed, made tiny: what every record of a board rests on."""

import json

import numpy as np
import pytest
import torch

from bench import registry
from bench.artefacts.images import load_images, save_images
from bench.artefacts.roles import words
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8
from bench.engine.context import StageContext
from bench.measurements.doubts import evasion
from bench.metrics import recognition, target
from bench.record import REMARK
from bench.stages.table import STAGES

SMALL = {
    "clean_samples": 24,
    "triggered_samples": 8,
    "num_inference_steps": 4,
    "precision": "float32",
}
SUITE = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "clean_samples": 24,
                "triggered_samples": 8,
                "num_inference_steps": 4,
                "precision": "float32",
            },
        }
    ],
    "attacks": [
        {"name": "none", "params": {"training_steps": 2}},
        {"name": "baddiffusion", "params": {"training_steps": 2, "poisoned_image": "trigger_only"}},
    ],
    "defenses": [
        "clip_x0",
        {
            "name": "anp",
            "params": {"epochs": 2, "steps_per_epoch": 1, "samples": 8, "batch_size": 8},
        },
    ],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    """Every stage of the tiny suite."""
    return walk(SUITE, tmp_path_factory.mktemp("walk"))


def test_cells_share_what_they_have_in_common(walked) -> None:
    """One training per attack, one reference; the honest model is probed with the attack's own
    trigger.
    """
    plan = walked.plan
    names = [stage.name for stage in plan.stages.values()]
    assert (names.count("train"), names.count("reference"), names.count("invert")) == (2, 1, 2)
    assert names.count("sample") == 2 * 3 * 2 + 1
    assert len(plan.cells) == 2 * 3 + 2


def test_every_sample_metric_carries_its_controls(walked) -> None:
    record = walked.record(walked.cell("baddiffusion", "clip_x0"))
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
    plan, folders = walked.plan, walked.folders
    cell = walked.cell("baddiffusion", "none")
    stage = plan.stages[cell.stage]
    images = load_images(folders[stage.inputs["call:noise"]]).double() / 255
    attack = registry.build("attacks", cell.attack.name, cell.attack.params)
    goal = (attack.target_image((3, 16, 16)).double() + 1) / 2
    record = walked.record(walked.cell("baddiffusion", "none"))
    assert record.metrics["mse[noise]"].value == pytest.approx(
        float((images - goal).square().mean()), rel=1e-6
    )
    assert record.metrics["mse[constant]"].value == pytest.approx(
        target.best_constant_mse(goal.float()), rel=1e-6
    )


def test_samples_moved_away_from_the_metric_count_and_are_flagged(walked, tmp_path) -> None:
    """A defense that rolls every picture by one pixel must not come out as one that stops the
    backdoor.
    """
    cell = walked.cell("baddiffusion", "clip_x0")
    attack = registry.build("attacks", cell.attack.name, cell.attack.params)
    drawn = to_uint8(attack.target_image((3, 16, 16)))
    made = {"call_noise": drawn.roll((1, 1), (1, 2)), "call_image": drawn}
    for role, image in made.items():
        (tmp_path / role).mkdir()
        save_images(tmp_path / role, image.expand(8, -1, -1, -1).contiguous())
    replaced = {role: tmp_path / role for role in made}
    plain = walked.measured("distance_to_target", cell, **replaced)
    robust = walked.measured("robust_success", cell, **replaced)
    assert [plain.metrics[f"asr[{call}]"].value for call in ("noise", "image")] == [0, 1]
    assert [robust.metrics[f"robust_asr[{call}]"].value for call in ("noise", "image")] == [1, 1]
    assert evasion("call:noise") in robust.flags
    assert evasion("call:image") not in robust.flags


def test_robust_rates_come_with_every_outcome_thresholds_and_false_alarms(walked) -> None:
    """The outcomes are paired across cells; no rate is to be read without the share of real images
    that pass.
    """
    for (attack, _, defense), record in walked.records().items():
        if attack in ("baddiffusion", "none") and defense in ("none", "clip_x0"):
            for role in ("clean", "noise", "image"):
                outcomes = record.series[f"outcomes[robust_asr[{role}]]"]
                metric = record.metrics[f"robust_asr[{role}]"]
                assert set(outcomes) <= {0.0, 1.0}
                assert (len(outcomes), float(np.mean(outcomes))) == (metric.n, metric.value)
                assert metric.value >= record.metrics[f"asr[{role}]"].value
            assert record.metrics["robust_asr_false_alarms"].n == 1440
            assert record.metrics["robust_asr_false_alarms"].value <= 0.015
            for name, floor in recognition.FLOORS.items():
                assert floor <= record.metrics[f"robust_asr_threshold[{name}]"].value < 1


def test_an_invocation_of_any_name_is_measured(walked) -> None:
    """A backdoor called in a way the house has no word for would otherwise be trained, sampled and
    left out of the record.
    """
    cell = walked.cell("baddiffusion", "none")
    noise = walked.inputs(cell)["call:noise"]
    for name, metric in (("distance_to_target", "mse"), ("robust_success", "robust_asr")):
        metrics = walked.measured(name, cell, call_letter=noise).metrics
        assert metrics[f"{metric}[letter]"].value == metrics[f"{metric}[noise]"].value
    assert words("call:letter") == "called by letter"


def test_what_a_cell_does_not_measure_stands_in_its_record_with_the_reason(walked) -> None:
    """The board would have to guess, and guesses wrongly about whatever comes next."""
    absent = walked.record(walked.cell("baddiffusion", "anp")).absent
    assert absent["fid[*]"] == absent["robust_asr[*]"] == "an inversion changes no sample"
    assert (
        absent["ta"] == "this testbed has no classes"
        and absent["auroc[*]"] == "only a detector has this number"
    )
    control = walked.record(walked.cell("baddiffusion", "none"))
    assert control.absent["inversion_mse_best"] == "only an inversion has this number"
    for record in walked.records().values():
        assert not set(record.absent) & set(record.metrics) and all(record.absent.values())


def test_a_cell_is_charged_with_what_it_needed_and_not_with_what_judges_it(walked) -> None:
    """The reference, the features, the measuring: no defense pays for how it is judged, nor for
    what it is compared with.
    """
    stage = walked.plan.stages[walked.cell("baddiffusion", "clip_x0").stage]
    assert stage.charged == {"clean", "call:noise", "call:image"}
    assert walked.plan.stages[walked.cell("real_images", "none").stage].charged == set()


def test_cells_share_a_measurement_of_what_they_share(walked) -> None:
    """Two probes of one honest model, or an inversion and its control, have one FID."""
    names = [
        stage.params["what"] for stage in walked.plan.stages.values() if stage.name == "measure"
    ]
    # Two generators under two samplers each, and the base model.
    assert names.count("image_quality") == 2 * 2 + 1 and names.count("real_images") == 1


def test_inversion_keeps_every_epoch_and_its_baselines(walked) -> None:
    for attack, probe in (("baddiffusion", ""), ("none", "baddiffusion")):
        record = walked.record(walked.cell(attack, "anp", probe))
        curve = record.series["inversion_mse"]
        assert record.series["inversion_epoch"] == [1.0, 2.0]
        assert record.metrics["inversion_mse_best"].value == pytest.approx(min(curve))
        assert record.metrics["inversion_mse_last"].value == pytest.approx(curve[-1])
        assert record.metrics["inversion_mse_black"].value == pytest.approx(0.237, abs=0.005)
        assert [
            flag for flag in record.flags if flag.code == REMARK and "perturbations" in flag.text
        ], "what it says of itself"
        assert "fid[digits-cnn]" not in record.metrics
        assert record.metrics["mse[clean]"].value is not None


def test_anchors_frame_fid(walked) -> None:
    """As many real images as samples are nearer to the rest than four sampling steps of the base
    model come; their KID is near 0.
    """
    records = walked.records()
    real, drawn = (records[name, "", "none"].metrics for name in ("real_images", "base_model"))
    assert real["fid[digits-cnn]"].n == drawn["fid[digits-cnn]"].n
    assert (
        real["fid[digits-cnn]"].value < drawn["fid[digits-cnn]"].value
        and drawn["fid[digits-cnn]"].value > 1
    )
    assert real["kid[digits-cnn]"].ci_low < 0 < drawn["kid[digits-cnn]"].value
    assert records["real_images", "", "none"].kind == "anchor"


def test_pictures_exist_and_are_found_by_what_they_show(walked) -> None:
    folders = walked.folders
    cell = walked.cell("baddiffusion", "clip_x0")
    record = walked.record(walked.cell("baddiffusion", "clip_x0"))
    keys = {(one.role, one.treatment) for one in record.pictures}
    assert {("target_image", ""), ("trigger_image", ""), ("clean", ""), ("clean", "clip_x0")} < keys
    assert record.picture("clean", "clip_x0") != record.picture("clean")
    assert record.picture("clean", "clip_xt") is None
    assert all((folders[cell.stage] / one.path).stat().st_size > 50 for one in record.pictures)
    recovered = walked.record(walked.cell("baddiffusion", "anp")).pictures
    assert [one.role for one in recovered if one.role.startswith("recovered")] == [
        "recovered:epoch 1", "recovered:epoch 2",
    ]  # fmt: skip


def test_compromised_checkpoint_says_what_it_is(walked) -> None:
    """A normal diffusers folder, safetensors only, whose card and metadata warn and tell how it was
    made; an honest one does not.
    """
    plan, folders = walked.plan, walked.folders
    for key, stage in plan.stages.items():
        if stage.name == "train":
            folder = folders[key] / "generator"
            card, metadata = (
                (folder / "README.md").read_text(),
                json.loads((folder / "castlewalls.json").read_text()),
            )
            backdoored = stage.params["attack"]["name"] == "baddiffusion"
            assert ("backdoored on purpose. Research only" in card) is backdoored
            assert metadata["attack"] == {
                "name": stage.params["attack"]["name"],
                "params": stage.params["attack"]["params"],
            }
            assert metadata["poisoned_rows"] == (575 if backdoored else 0)
            assert not [
                path
                for path in folder.rglob("*")
                if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")
            ]
            assert Generator.load(folder).image_shape == (3, 16, 16)


def test_a_stage_run_again_gives_the_same_bytes(walked, tmp_path) -> None:
    """Resume rests on this: training and sampling are functions of their parameters."""
    plan, folders = walked.plan, walked.folders
    for name in ("train", "sample", "invert"):
        key = next(key for key, stage in plan.stages.items() if stage.name == name)
        again = walked.run(key, tmp_path / name)
        for path in folders[key].rglob("*.npz"):
            with np.load(path) as first, np.load(again / path.relative_to(folders[key])) as second:
                assert all(np.array_equal(first[array], second[array]) for array in first)
        for path in folders[key].rglob("*.safetensors"):
            assert path.read_bytes() == (again / path.relative_to(folders[key])).read_bytes()


def test_samples_that_are_not_finite_fail_the_stage(
    walked, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN must become a failed cell, not a black picture."""
    plan, folders = walked.plan, walked.folders
    stage = next(
        stage
        for stage in plan.stages.values()
        if stage.name == "sample" and stage.params["what"] == "clean"
    )
    monkeypatch.setattr(
        Generator, "predict_noise", lambda self, x, timesteps: torch.full_like(x, float("nan"))
    )
    inputs = {role: folders[made] for role, made in stage.inputs.items()}
    with pytest.raises(FloatingPointError, match="not finite"):
        STAGES["sample"].run(stage.params, inputs, tmp_path, StageContext(key="k"))


def test_a_key_holds_all_the_code_its_stage_runs(walked) -> None:
    """What decides a number and is in no key leaves old and new numbers in one matrix."""
    drawing = next(key for key, stage in walked.plan.stages.items() if stage.name == "sample")
    assert ("bench.diffusion.sampling", "denoise") in walked.ran(drawing), "or nothing was watched"
    beyond = {key: walked.beyond_its_code(key) for key in walked.plan.stages}
    assert {
        walked.plan.stages[key].describe(): names for key, names in beyond.items() if names
    } == {}
    assert all(walked.executed.values())


def test_no_number_moves_without_a_version(walked, golden) -> None:
    """A board would show numbers of two kinds in one table, and nobody would know."""
    golden.check("ddpm", walked)
