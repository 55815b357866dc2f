"""``cifar10-cfg`` on tiny data and tiny networks, in the formats of the real ones, and one tiny
suite of it from end to end.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from bench import registry, testbeds
from bench.classification.training import ClassifierSettings
from bench.diffusion.training import TrainingSettings
from bench.engine.context import StageContext
from bench.errors import UserError
from bench.planner import make_plan
from bench.record import Record
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds import cifar10_cfg
from bench.testbeds.cifar10_cfg import CIFAR10_CFG, JUDGE_FILE
from bench.testbeds.data.cifar10 import TEST_RECORDS, TRAIN_RECORDS
from bench.testbeds.parts import digits_cnn, digits_extractor, sscd
from bench.testbeds.parts.cifar10_unet import Cifar10UNet
from bench.testbeds.parts.inception import Inception
from bench.testbeds.testbed import Testbed, fingerprints, missing

NETWORK: dict[str, Any] = Cifar10UNet.network | {
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TRAIN, HELD_OUT = 60, 12


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    """The binary version: 60 training images and 12 test images, every class alike."""
    draw = np.random.default_rng(0)
    rows = [
        bytes([row % 10]) + draw.integers(0, 256, 3072, dtype=np.uint8).tobytes()
        for row in range(TRAIN + HELD_OUT)
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    for name, chosen in zip(
        TRAIN_RECORDS + TEST_RECORDS, np.array_split(np.arange(len(rows)), 6), strict=True
    ):
        (folder / name).write_bytes(b"".join(rows[row] for row in chosen))
    return folder


@pytest.fixture()
def judge(tmp_path: Path) -> Path:
    path = tmp_path / JUDGE_FILE
    save_file(CIFAR10_CFG.judge.untrained(5, None, CIFAR10_CFG.data).state_dict(), path)
    return path


def tiny(data: Path, **changes: Any) -> Testbed:
    return CIFAR10_CFG.changed(
        **({"data": str(data), "train_count": TRAIN, "held_out_count": HELD_OUT} | changes)
    )


def save_generator(folder: Path, **changes: Any) -> None:
    torch.manual_seed(0)
    network = UNet2DModel(**(NETWORK | changes))
    DDPMPipeline(unet=network, scheduler=DDPMScheduler()).save_pretrained(folder)


# --- data and declaration -------------------------------------------------------------------------


def test_labels_come_with_the_images(data: Path) -> None:
    testbed = tiny(data)
    assert testbed.data.train_labels().tolist() == [row % 10 for row in range(TRAIN)]
    assert testbed.data.held_out_labels().tolist() == [
        row % 10 for row in range(TRAIN, TRAIN + HELD_OUT)
    ]
    assert (
        testbed.data.train_images().shape == (TRAIN, 3, 32, 32)
        and testbed.data.train_labels().dtype == torch.int64
    )
    assert testbed.data.class_names[4] == "deer"  # the paper's target


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    """An unconditional export would otherwise fail somewhere inside an attack."""
    for split, count in (("train", TRAIN), ("test", HELD_OUT)):
        (tmp_path / split).mkdir()
        for row in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / split / f"{row}.png")
    for read in ("train_labels", "held_out_labels"):
        with pytest.raises(
            UserError, match="cifar10-cfg: every image in .* must have its class, got none"
        ) as caught:
            getattr(tiny(tmp_path).data, read)()
        assert "\n" not in str(caught.value)


def test_errors_name_this_testbed(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="^cifar10-cfg: no CIFAR-10 in"):
        tiny(tmp_path / "nowhere").data.train_images()
    with pytest.raises(UserError, match="^cifar10-cfg: train_count must be the number of images"):
        tiny(data, train_count=7).data.train_images()


def test_the_shipped_settings_are_the_papers() -> None:
    """Appendix A.3 to A.5: 25 batches of 2000 an epoch; w = 5 of (1 + w) e_c - w e_u is 6 of e_u +
    w (e_c - e_u).
    """
    testbed = CIFAR10_CFG
    scratch = testbed.training_settings("scratch")
    assert (scratch.steps, scratch.batch_size, scratch.learning_rate) == (25 * 1000, 2000, 2e-4)
    assert (scratch.optimizer, scratch.weight_decay, scratch.label_dropout) == ("adamw", 1e-4, 0.1)
    assert scratch.ema_decay is None and not scratch.horizontal_flip
    assert testbed.training_settings("finetune") == dataclasses.replace(
        scratch, steps=2500, warmup_steps=250
    )
    assert (scratch.accumulation_steps, scratch.gradient_checkpointing) == (4, False)
    small = CIFAR10_CFG.changed(
        accumulation_steps=20, gradient_checkpointing=True
    ).training_settings("scratch")
    assert small == dataclasses.replace(scratch, accumulation_steps=20, gradient_checkpointing=True)
    sampler = testbed.sampler.settings()
    assert (sampler.name, sampler.num_inference_steps, sampler.clip, sampler.guidance_scale) == (
        "ddim",
        50,
        "none",
        6.0,
    )
    assert (
        testbed.counts.class_samples,
        testbed.counts.clean_samples,
        testbed.features.extractor,
    ) == (
        10_000,
        10_000,
        "inception-v3-compat",
    )
    classifier = testbed.classifier_settings()
    assert (classifier.learning_rate, classifier.weight_decay, classifier.steps) == (
        1e-2,
        5e-4,
        391 * 30,
    )
    assert CIFAR10_CFG.changed(**json.loads(json.dumps(testbed.params()))) == testbed
    assert not testbeds.is_embedded("cifar10-cfg") and testbeds.is_embedded("digits-cfg")


def test_the_shipped_network_is_the_papers() -> None:
    """64 channels times 1, 2, 2, 2, attention in every level, dropout 0.1, ten classes and the null
    label.
    """
    generator = CIFAR10_CFG.fresh_generator(0)
    config = generator.unet.config
    assert tuple(config.block_out_channels) == (64, 128, 128, 128)
    assert generator.classes == 10 and generator.image_shape == (3, 32, 32)
    assert {
        type(block).__name__ for block in (*generator.unet.down_blocks, *generator.unet.up_blocks)
    } == {
        "AttnDownBlock2D",
        "AttnUpBlock2D",
    }
    dropouts = {module.p for module in generator.unet.modules() if isinstance(module, nn.Dropout)}
    assert 0.1 in dropouts
    betas = generator.schedule.betas
    assert (len(betas), betas[0], betas[-1]) == (1000, pytest.approx(1e-4), pytest.approx(0.02))


def test_fresh_generators_follow_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are needed for it: from scratch is what the paper does."""
    monkeypatch.setattr(Cifar10UNet, "network", NETWORK)
    first, again, other = (
        CIFAR10_CFG.fresh_generator(seed).unet.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classifier": "resnet19"},
            "classifier must be one of 'resnet18', 'resnet50', 'vgg16', 'densenet121', got "
            "'resnet19'",
        ),
        ({"classifier_epochs": 0}, "classifier_epochs must be positive, got 0"),
        ({"scratch_epochs": 0}, "scratch_epochs must be positive, got 0"),
        (
            {"sscd": "f.pt"},
            "sscd_sha256 must be the sha256 of the file sscd, 64 hexadecimal digits in lower "
            "case, got None",
        ),
        (
            {"sscd": "f.pt", "sscd_sha256": "A" * 64},
            "sscd_sha256 must be the sha256 of the file sscd, 64 hex.*, got 'AAA",
        ),
        ({"sscd_sha256": "0" * 64}, "sscd_sha256 must be null without sscd, got '000"),
    ],
)
def test_bad_parameters_are_refused_on_construction(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"cifar10-cfg: {message}"):
        CIFAR10_CFG.changed(**changes)


# --- weights, judge, copy detector ----------------------------------------------------------------


def test_base_weights_are_those_of_a_run(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        UserError, match="there are no base weights .* scheme: scratch, or set weights"
    ) as caught:
        tiny(data).base_generator()
    assert "\n" not in str(caught.value) and not tiny(data).generator.has_weights
    with pytest.raises(UserError, match="no weights folder 'weights/none'"):
        tiny(data, weights="weights/none").base_generator()
    save_generator(tmp_path / "conditional")
    testbed = tiny(data, weights=str(tmp_path / "conditional"))
    assert testbed.base_generator().classes == 10 and testbed.generator.has_weights
    save_generator(tmp_path / "unconditional", num_class_embeds=None)
    with pytest.raises(
        UserError, match="weights must embed 10 classes and the null label, those in .* embed None"
    ):
        tiny(data, weights=str(tmp_path / "unconditional")).base_generator()


def test_the_judge_is_read_and_its_absence_says_how_to_make_it(
    tmp_path: Path, data: Path, judge: Path
) -> None:
    classifier = tiny(data, judge=str(judge), classifier="vgg16").evaluation_classifier()
    assert (
        torch.equal(classifier.head.weight, load_file(judge)["head.weight"])
        and not classifier.training
    )
    absent = tiny(data, judge=str(tmp_path / "weights" / JUDGE_FILE))
    # At planning, not after a thousand epochs.
    for ask in (absent.evaluation_classifier, absent.judge.fingerprint):
        with pytest.raises(
            UserError, match="make it with `castlewalls pretrain cifar10-cfg --output .*weights`"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    save_file({"head.weight": torch.zeros(10, 512)}, tmp_path / "other.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for name in ("other", "pickle"):
        with pytest.raises(
            UserError, match="judge must be a file that `castlewalls pretrain` wrote, got .*: "
        ) as caught:
            tiny(data, judge=str(tmp_path / f"{name}.safetensors")).evaluation_classifier()
        assert "\n" not in str(caught.value)


def test_pretrain_makes_the_judge_and_says_how_good_it_is(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real recipe for a few steps: the file loads, and is hashed."""
    monkeypatch.setattr(
        cifar10_cfg,
        "JUDGE_TRAINING",
        ClassifierSettings(steps=2, batch_size=8, shift=4, horizontal_flip=True),
    )
    monkeypatch.setattr(cifar10_cfg, "CIFAR10_CFG", tiny(data))
    reached = testbeds.pretrain("cifar10-cfg", tmp_path / "made")
    assert (
        set(reached) == {"judge_held_out_accuracy"} and 0 <= reached["judge_held_out_accuracy"] <= 1
    )
    assert testbeds.damaged_files(tmp_path / "made") == []
    judged = tiny(data, judge=str(tmp_path / "made" / JUDGE_FILE)).evaluation_classifier()
    assert judged.classes == 10


def test_without_data_pretrain_says_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="cifar10-cfg: no CIFAR-10 in 'data/cifar10'; download the binary version"
    ):
        testbeds.pretrain("cifar10-cfg", tmp_path / "made")


def test_the_copy_detector_is_checked_before_anything_runs(
    data: Path, judge: Path, copy_detector: dict[str, str]
) -> None:
    testbed = tiny(data, judge=str(judge), **copy_detector)
    assert (testbed.copies.extractor, testbed.copies.weights()) == (
        sscd.NAME,
        copy_detector["sscd"],
    )
    assert tiny(data).copies.extractor is None and tiny(data).copies.weights() is None
    fingerprints(testbed)
    with pytest.raises(
        UserError, match="cifar10-cfg: .* must have the sha256 given as sscd_sha256"
    ):
        fingerprints(testbed.changed(sscd_sha256="0" * 64))
    with pytest.raises(UserError, match="cifar10-cfg: no SSCD network at 'elsewhere.pt'"):
        fingerprints(testbed.changed(sscd="elsewhere.pt"))


def test_missing_lists_each_absent_thing_once(
    tmp_path: Path, data: Path, judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `castlewalls doctor` prints. Base weights that were not asked for are not missing."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    changes = {"judge": str(tmp_path / "none"), "sscd": "none.pt", "sscd_sha256": "0" * 64}
    lines = missing(tiny(tmp_path / "nowhere", **changes))
    words = ("binary.tar.gz", "inception", "no evaluation classifier", "no SSCD network")
    assert all(word in line for line, word in zip(lines, words, strict=True))
    assert all("\n" not in line for line in lines)
    assert "no weights folder" in missing(tiny(data, weights="weights/none", judge=str(judge)))[0]
    save_generator(tmp_path / "weights")
    # Inception
    assert len(missing(tiny(data, weights=str(tmp_path / "weights"), judge=str(judge)))) == 1


def test_fingerprint_follows_data_judge_and_weights(
    tmp_path: Path, data: Path, judge: Path
) -> None:
    original = fingerprints(tiny(data, judge=str(judge)))
    moved = judge.rename(tmp_path / "moved.safetensors")
    assert fingerprints(tiny(data, judge=str(moved))) == original
    save_file(CIFAR10_CFG.judge.untrained(6, None, CIFAR10_CFG.data).state_dict(), judge)
    assert fingerprints(tiny(data, judge=str(judge))) != original
    save_generator(tmp_path / "weights")
    assert fingerprints(tiny(data, judge=str(moved), weights=str(tmp_path / "weights"))) != original


# --- a tiny suite, from end to end ----------------------------------------------------------------

SMALL = {"clean_samples": 20, "class_samples": 8, "generated_samples": 10, "judged_images": 6}
SMALL |= {"num_inference_steps": 2, "network_batch": 20}


@pytest.fixture()
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Less of everything, float32 for the CPU, and a feature extractor that needs no download."""
    training = TrainingSettings(
        steps=1, batch_size=4, precision="float32", label_dropout=0.1, optimizer="adamw"
    )
    monkeypatch.setattr(Cifar10UNet, "network", NETWORK)
    monkeypatch.setattr(Testbed, "training_settings", lambda self, scheme: training)
    monkeypatch.setattr(
        Testbed, "classifier_settings", lambda self: ClassifierSettings(steps=2, batch_size=4)
    )
    monkeypatch.setattr(Inception, "extractor", digits_cnn.NAME)
    monkeypatch.setattr(Inception, "register", lambda self: digits_extractor.register())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


def plan_of(testbed: Testbed, **changes: Any) -> Any:
    plugins = registry.use()
    attacks = [{"name": name, "params": {"scheme": "scratch"}} for name in ("none", "badnets")]
    suite = {
        "name": "tiny",
        "testbeds": [{"name": "cifar10-cfg", "params": testbed.params()}],
        "attacks": attacks,
        "defenses": ["clip_x0", "train_on_generated"],
        "detectors": [{"name": "strip", "params": {"overlays": 2}}],
        "seeds": [0],
    }
    return make_plan(parse_suite(suite | changes, plugins, "tiny.yaml"), plugins, STAGES)


def test_a_tiny_suite_runs_from_data_to_records(
    small: None, data: Path, judge: Path, copy_detector: dict[str, str], tmp_path: Path
) -> None:
    plan = plan_of(tiny(data, judge=str(judge), **SMALL, **copy_detector))
    folders: dict[str, Path] = {}
    for key, stage in plan.stages.items():
        folders[key] = tmp_path / "stages" / key
        folders[key].mkdir(parents=True)
        context = StageContext(key=key, provenance={"package": "test"})
        STAGES[stage.name].run(
            stage.params,
            {role: folders[made] for role, made in stage.inputs.items()},
            folders[key],
            context,
        )
    records = {
        (cell.attack.name, cell.defense.name): Record.from_json(
            (folders[cell.stage] / "record.json").read_text()
        )
        for cell in plan.cells
    }
    # Nobody has trained a clean base model, so there is no anchor of one.
    assert ("real_images", "none") in records and ("base_model", "none") not in records
    control = records["badnets", "none"].metrics
    assert {
        "fid[digits-cnn]",
        "prompt_accuracy",
        "g1",
        "asr[prompt]",
        "ta",
        "p_t",
        f"replication[{sscd.NAME}]",
    } <= set(control)
    assert (
        control[f"replication[{sscd.NAME}]"].n == control[f"replication_p95[{sscd.NAME}]"].n == 20
    )
    assert (
        control["asr[prompt]"].n == 8 and not control[f"replication[{sscd.NAME}]"].higher_is_better
    )
    assert {"ta", "classifier_asr"} <= set(records["badnets", "train_on_generated"].metrics)
    assert "auroc[training set]" in records["badnets", "strip"].metrics
    # Replication belongs to a generator, not to a defense: the control column alone has it.
    having = {
        pair
        for pair, record in records.items()
        if any(name.startswith("replication") for name in record.metrics)
    }
    assert having == {("badnets", "none"), ("none", "none")}


def test_another_classifier_or_copy_detector_trains_no_generator_anew(
    data: Path, judge: Path, copy_detector: dict[str, str], tmp_path: Path
) -> None:
    """A thousand epochs are not repeated to look at the same generator through another network."""
    first = plan_of(tiny(data, judge=str(judge)))

    def shared(**changes: Any) -> set[str]:
        other = plan_of(tiny(data, judge=str(judge), **changes))
        return {first.stages[key].name for key in set(first.stages) & set(other.stages)}

    data_alone = {"reference", "aim", "poisoned_rows", "suspected", "train"}
    drawn = data_alone | {"sample", "features", "measure", "judged_images", "pool"}
    classified = {"classifier", "trigger_classifier"}
    assert shared(classifier="vgg16") == drawn
    assert shared(**copy_detector) == drawn | classified | {"score", "by_set"}
    assert shared(clean_samples=500) == data_alone | classified | {"measure"}
    moved = judge.rename(tmp_path / "moved.safetensors")
    assert set(plan_of(tiny(data, judge=str(moved))).stages) == set(first.stages)


def test_training_features_are_made_once_a_training_set(
    data: Path, judge: Path, copy_detector: dict[str, str]
) -> None:
    """Two attacks and an honest set that both probe: three sets, and only the control column asks
    for them.
    """
    attacks = [
        {"name": name, "params": {"scheme": "scratch"}}
        for name in ("none", "badnets", "relabel_only")
    ]
    plan = plan_of(tiny(data, judge=str(judge), **copy_detector), attacks=attacks)
    assert [stage.name for stage in plan.stages.values()].count("training_features") == 3
    asking = {
        cell.kind for cell in plan.cells if "training_features" in plan.stages[cell.stage].inputs
    }
    assert asking == {"control"}
    without = plan_of(tiny(data, judge=str(judge)))
    assert not any(stage.name == "training_features" for stage in without.stages.values())


def test_with_base_weights_there_is_an_anchor_of_them(
    data: Path, judge: Path, tmp_path: Path
) -> None:
    save_generator(tmp_path / "weights")
    plan = plan_of(tiny(data, judge=str(judge), weights=str(tmp_path / "weights")))
    assert [cell.attack.name for cell in plan.cells if cell.kind == "anchor"] == [
        "real_images",
        "base_model",
    ]
