"""``imagenette-sd`` on tiny photographs in the archive's layout, and two tiny suites of it from end
to end.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import UserError
from bench.testbeds.data.imagenette import CLASSES
from bench.testbeds.imagenette_sd import IMAGENETTE_SD
from bench.testbeds.parts import sscd


@pytest.fixture()
def data(imagenette_folder: Path) -> Path:
    return imagenette_folder


@pytest.fixture()
def tiny(imagenette: Any) -> Any:
    return imagenette


@pytest.fixture()
def judged(judged_imagenette: Any) -> Any:
    return judged_imagenette


def test_the_classes_are_the_papers_and_garbage_truck_is_number_six() -> None:
    assert IMAGENETTE_SD.data.class_names[6] == "garbage truck" and len(CLASSES) == 10
    assert sorted(CLASSES) == list(CLASSES), "torchvision's numbering by folder must be the same"
    assert IMAGENETTE_SD.data.prompts()[:2] == (
        "A photo of a tench",
        "A photo of a English springer",
    )


def test_images_and_labels_come_by_class_then_file(tiny, data: Path) -> None:
    testbed = tiny()
    assert testbed.data.train_labels().tolist() == sorted([*range(10)] * 3)
    assert testbed.data.held_out_labels().tolist() == [*range(10)]
    images = testbed.data.train_images()
    assert images.shape == (30, 3, 16, 16) and images.dtype == torch.uint8
    with Image.open(data / "train" / "n02102040" / "n02102040_1.JPEG") as opened:
        square = (
            opened.convert("RGB").crop((4, 0, 24, 20)).resize((16, 16), Image.Resampling.BICUBIC)
        )
    np.testing.assert_array_equal(images[4].numpy(), np.asarray(square).transpose(2, 0, 1))
    assert testbed.data.held_out_images().shape == (10, 3, 16, 16)


def test_folders_may_be_named_by_class_and_lie_one_deeper(tiny, data: Path, tmp_path: Path) -> None:
    before = tiny().data.train_images().clone()
    for split in ("train", "val"):
        for wnid, name in CLASSES.items():
            (data / split / wnid).rename(data / split / name.replace(" ", "_").upper())
    data.rename(tmp_path / "imagenette2")
    data.mkdir()
    (tmp_path / "imagenette2").rename(data / "imagenette2")
    assert torch.equal(tiny().data.train_images(), before)


def test_the_shipped_settings_are_the_papers() -> None:
    """Research note and appendix A: 9,469 images in batches of 16 for 50 epochs; no dropout, no
    flips, averaged weights.
    """
    testbed = IMAGENETTE_SD
    settings = testbed.training_settings("finetune")
    assert settings.steps == 592 * 50
    assert (settings.batch_size, settings.accumulation_steps, settings.learning_rate) == (
        16,
        4,
        1e-4,
    )
    assert (
        settings.schedule,
        settings.warmup_steps,
        settings.optimizer,
        settings.weight_decay,
    ) == (
        "constant",
        0,
        "adamw",
        0.01,
    )
    assert (
        settings.ema_decay,
        settings.label_dropout,
        settings.horizontal_flip,
        settings.lora_rank,
    ) == (
        0.9999,
        0,
        False,
        None,
    )
    sampler = testbed.sampler.settings()
    assert (sampler.name, sampler.num_inference_steps, sampler.guidance_scale, sampler.clip) == (
        "ddim",
        50,
        5.0,
        "none",
    )
    assert (
        testbed.counts.class_samples,
        testbed.counts.clean_samples,
        testbed.counts.generated_samples,
    ) == (
        1000,
        9469,
        None,
    )
    assert (testbed.data.resolution, testbed.features.extractor) == (512, "inception-v3-compat")
    assert (
        testbed.data.train_count,
        testbed.data.held_out_count,
        testbed.classifiers.classifier,
    ) == (
        9469,
        3925,
        "resnet50",
    )
    classifier = testbed.classifier_settings()
    assert (classifier.steps, classifier.learning_rate, classifier.weight_decay) == (
        379 * 10,
        1e-2,
        5e-4,
    )
    assert IMAGENETTE_SD.changed(**json.loads(json.dumps(testbed.params()))) == testbed


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda data: shutil.rmtree(data / "val"),
            r"no ImageNette in '.*'; unpack imagenette2\.tgz there",
        ),
        (lambda data: shutil.rmtree(data / "val" / "n03425413"), r"n03425413 \(gas pump\) missing"),
        (
            lambda data: (data / "train" / "n01440764").rename(data / "train" / "trout"),
            "trout is none of ImageNette's ten classes",
        ),
        (
            lambda data: (data / "train" / "Tench").mkdir(),
            "and Tench are the same of|and n01440764 are the same of",
        ),
        (
            lambda data: (data / "train" / "n01440764" / "n01440764_1.JPEG").unlink(),
            "train_count must be .*: 29, got 30",
        ),
    ],
)
def test_an_incomplete_data_set_is_refused_with_exit_code_2(
    judged, data: Path, break_it, message: str, refused_with_exit_code_2
) -> None:
    break_it(data)
    assert re.search(message, refused_with_exit_code_2("imagenette-sd", judged().params()))


def test_a_missing_judge_or_a_wrong_parameter_is_refused_with_exit_code_2(
    tiny, refused_with_exit_code_2
) -> None:
    assert "make it with `castlewalls pretrain imagenette-sd" in refused_with_exit_code_2(
        "imagenette-sd", tiny().params()
    )
    assert "training must be one of 'full', 'lora', got 'half'" in refused_with_exit_code_2(
        "imagenette-sd", {"training": "half"}
    )


def test_a_corrupt_image_is_named(tiny, data: Path) -> None:
    path = data / "val" / "n03417042" / "n03417042_0.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"n03417042_0\.JPEG is not a readable image") as caught:
        tiny().data.train_images()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("training", ["full", "lora"])
def test_a_tiny_suite_runs_from_photographs_to_records(
    judged, walk, copy_detector: dict[str, str], training: str
) -> None:
    records = walk(judged(training=training, **copy_detector), 6)
    assert set(records) == {"none", "badnets", "real_images", "base_model"}
    assert all(record.status == "ok" for record in records.values())
    values = {name: metric.value for name, metric in records["badnets"].metrics.items()}
    assert sum(values[name] for name in ("g1", "g2", "g3", "g4")) == pytest.approx(1)
    # int(0.25 x 30) rows among 3 of the target class
    assert values["p_t"] == pytest.approx(7 / (7 + 3))
    assert {
        "fid[digits-cnn]",
        "ta",
        "classifier_asr",
        "asr[prompt]",
        f"replication[{sscd.NAME}]",
    } <= set(values)
