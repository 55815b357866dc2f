"""What the testbeds over Stable Diffusion share, by way of a tiny ``imagenette-sd``: weights,
pictures, classifiers, settings.
"""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.classification.architectures import torchvision_classifier
from bench.errors import UserError
from bench.testbeds import imagenette_sd
from bench.testbeds.data import images as _images
from bench.testbeds.data import pictures
from bench.testbeds.data.pictures import split_rows
from bench.testbeds.imagenette_sd import IMAGENETTE_SD
from bench.testbeds.parts import published, sscd
from bench.testbeds.parts import stable_diffusion as _stable_diffusion
from bench.testbeds.parts.stable_diffusion import HUB_ID, REVISION, pretrain_judge
from bench.testbeds.testbed import fingerprints, missing


@pytest.fixture()
def data(imagenette_folder: Path) -> Path:
    return imagenette_folder


@pytest.fixture()
def tiny(imagenette: Any) -> Any:
    return imagenette


@pytest.fixture()
def judged(judged_imagenette: Any) -> Any:
    return judged_imagenette


@pytest.mark.parametrize(
    ("width", "height"), [(64, 32), (32, 64), (300, 200), (10, 12), (16, 16), (33, 47)]
)
def test_the_central_square_is_taken_and_never_squeezed(
    width: int, height: int, tmp_path: Path
) -> None:
    """A centred disc stays a disc: as wide as high, in the middle."""
    rows, columns = np.indices((height, width))
    radius = min(width, height) / 4
    disc = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2 <= radius**2
    Image.fromarray((disc * 255).astype(np.uint8)).save(tmp_path / "disc.png")
    image = _images.decode(
        _images.Encoded("disc", tmp_path / "disc.png"), 16, shrink=True, crop=True
    ).astype(float)[0]
    across, down = image.sum(0), image.sum(1)
    assert abs((across > 0.5 * across.max()).sum() - (down > 0.5 * down.max()).sum()) <= 1
    assert (
        np.abs(np.average(np.arange(16), weights=across) - 7.5) < 0.6
        and np.abs(np.average(np.arange(16), weights=down) - 7.5) < 0.6
    )
    assert image.sum() / 255 == pytest.approx(np.pi * 16, rel=0.25)


def test_the_decoded_copy_is_made_once(tiny, monkeypatch, tmp_path: Path) -> None:
    images = tiny().data.train_images().clone()
    assert len(list(tmp_path.glob("imagenette.16.*.npy"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode_all", lambda *_, **__: pytest.fail("decoded again"))
        assert torch.equal(tiny().data.train_images(), images)
    moved = tiny(decoded=str(tmp_path / "elsewhere"))
    assert torch.equal(moved.data.train_images(), images) and list(
        (tmp_path / "elsewhere").glob("imagenette.16.*.npy")
    )


def test_the_base_model_is_stable_diffusion_asked_by_the_classes(tiny) -> None:
    generator = tiny().base_generator()
    assert generator.image_shape == (3, 16, 16) and generator.classes == 10
    assert generator.prompts == tiny().data.prompts()
    assert not any(
        p.requires_grad
        for part in (generator.vae, generator.text_encoder)
        for p in part.parameters()
    )
    first, again, other = (tiny().fresh_generator(seed) for seed in (3, 3, 4))
    weights = [model.unet.conv_in.weight for model in (generator, first, again, other)]
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[0], weights[1]) and torch.equal(
        first.vae.quant_conv.weight, generator.vae.quant_conv.weight
    )


def test_a_repository_with_a_safety_checker_loads_without_it(
    tiny, stable_diffusion: Path, tmp_path: Path
) -> None:
    """CompVis/stable-diffusion-v1-4 names one in its index; it is neither fetched nor loaded."""
    folder = shutil.copytree(stable_diffusion, tmp_path / "weights")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    assert tiny(weights=str(folder)).base_generator().classes == 10
    assert not any("safety" in pattern for pattern in IMAGENETTE_SD.generator.hub_files)


def test_the_pinned_snapshot_in_the_hubs_cache_is_used_without_a_network(
    tiny, stable_diffusion: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError) as caught:
        tiny(weights=HUB_ID).base_generator()
    assert (
        "\n" not in str(caught.value)
        and HUB_ID in str(caught.value)
        and REVISION in str(caught.value)
    )
    shutil.copytree(
        stable_diffusion,
        tmp_path / "hub" / "models--CompVis--stable-diffusion-v1-4" / "snapshots" / REVISION,
    )
    assert tiny(weights=HUB_ID).base_generator().classes == 10


def test_only_what_is_needed_is_asked_of_the_hub(tiny, monkeypatch, stable_diffusion: Path) -> None:
    """The repository also holds pickles, half-precision copies and a safety checker of 1.2 GB; the
    tokenizer needs a .txt.
    """
    request: dict[str, Any] = {}

    def fetch(repository: str, **options: Any) -> str:
        request.update(options | {"repository": repository})
        return str(stable_diffusion)

    monkeypatch.setattr(published, "snapshot_download", fetch)
    tiny(weights=HUB_ID).base_generator()
    assert (request["repository"], request["revision"]) == (HUB_ID, REVISION)

    def wanted(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in request["allow_patterns"])

    files = [
        path.relative_to(stable_diffusion).as_posix()
        for path in stable_diffusion.rglob("*")
        if path.is_file()
    ]
    assert all(wanted(name) for name in files), "a part would not be fetched"
    for name in (
        "safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "text_encoder/pytorch_model.bin",
    ):  # fmt: skip
        assert not wanted(name)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "unet/diffusion_pytorch_model.safetensors",
            r"must hold diffusion_pytorch_model\.safetensors",
        ),
        (
            "vae/diffusion_pytorch_model.safetensors",
            r"must hold vae/diffusion_pytorch_model\*\.safetensors, which is missing",
        ),
        (
            "text_encoder/model.safetensors",
            r"must hold text_encoder/model\*\.safetensors, which is missing",
        ),
        ("model_index.json", r"must hold model_index\.json, which is missing"),
    ],
)
def test_a_folder_with_a_part_missing_is_refused(
    tiny, stable_diffusion: Path, tmp_path: Path, part: str, message: str
) -> None:
    folder = shutil.copytree(stable_diffusion, tmp_path / "weights")
    (folder / part).unlink()
    with pytest.raises(UserError, match=message) as caught:
        tiny(weights=str(folder)).base_generator()
    assert "\n" not in str(caught.value)
    assert any(
        part.rpartition("/")[2].partition(".")[0] in line
        for line in missing(tiny(weights=str(folder)))
    )


def test_a_folder_of_weights_that_cannot_be_opened_is_not_called_missing(
    tiny, stable_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's folder: a search in it finds nothing and does not say why."""
    folder = shutil.copytree(stable_diffusion, tmp_path / "weights")
    scandir = os.scandir

    def refused(path: Any = ".") -> Any:
        if os.fspath(path) == str(folder / "scheduler"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError) as caught:
        tiny(weights=str(folder)).generator.weights_folder()
    assert str(caught.value) == f"{folder / 'scheduler'} cannot be read: Permission denied"


def test_another_size_or_a_v_prediction_model_is_refused(
    tiny, save_stable_diffusion, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"must draw images of shape \(3, 512, 512\), those in .* draw \(3, 16, 16\)",
    ):
        tiny(resolution=512).base_generator()
    folder = save_stable_diffusion(tmp_path / "weights", prediction_type="v_prediction")
    with pytest.raises(UserError, match="must predict the noise"):
        tiny(weights=str(folder)).base_generator()


def test_classifiers_start_from_imagenets_weights(tiny, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    published = models.resnet18(weights=None).state_dict()
    save_file(published, tmp_path / "imagenet.safetensors")
    testbed = tiny(imagenet_weights=str(tmp_path / "imagenet.safetensors"))
    network = testbed.fresh_classifier(0)
    assert network.classes == 10 and testbed.fresh_classifier(0, classes=2).classes == 2
    assert any(
        torch.equal(value, published["conv1.weight"])
        for value in network.state_dict().values()
        if value.dim() == 4
    )


def test_pretrain_makes_the_judge_that_is_then_loaded(tiny, tmp_path: Path, monkeypatch) -> None:
    settings = tiny(classifier_epochs=1).classifier_settings()
    assert settings.steps == 2
    testbed = tiny(classifier_epochs=1)
    reached = pretrain_judge(testbed, tmp_path, device="cpu")
    assert 0 <= reached["judge_held_out_accuracy"] <= 1
    judge = testbed.evaluation_classifier()
    assert not judge.training and judge.classes == 10
    monkeypatch.setattr(imagenette_sd, "IMAGENETTE_SD", testbed)
    assert imagenette_sd.pretrain(tmp_path / "new", device="cpu") == reached
    save_file(torchvision_classifier("resnet18", 3, 0).state_dict(), testbed.judge.judge)
    with pytest.raises(UserError, match="judge must be a file that `castlewalls pretrain` wrote"):
        testbed.evaluation_classifier()


def test_missing_names_each_absent_thing_once(tmp_path: Path, monkeypatch) -> None:
    """What `castlewalls doctor` prints of a machine that has nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lines = missing(IMAGENETTE_SD.changed(training="lora"))
    words = ("imagenette2.tgz", HUB_ID, "inception", "pretrain imagenette-sd", "imagenet_weights")
    assert all(word in line for line, word in zip(lines, words, strict=True)) and all(
        "\n" not in line for line in lines
    )
    monkeypatch.setattr(_stable_diffusion.importlib.util, "find_spec", lambda name: None)
    lines = missing(IMAGENETTE_SD.changed(training="lora"))
    assert any("needs peft: pip install peft" in line for line in lines)


def test_fingerprint_follows_every_part_and_not_the_location(
    judged, data: Path, stable_diffusion: Path, tmp_path: Path
) -> None:
    first = fingerprints(judged())
    folder = shutil.copytree(stable_diffusion, tmp_path / "weights")
    moved = shutil.move(data, tmp_path / "moved")
    assert (
        fingerprints(judged(weights=str(folder), data=str(moved), decoded=str(tmp_path))) == first
    )
    shutil.move(moved, data)
    for part in (
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "vae/config.json",
        "unet/config.json",
    ):
        text = (folder / part).read_text()
        (folder / part).write_text(text + "\n")
        assert fingerprints(judged(weights=str(folder))) != first, part
        (folder / part).write_text(text)
    save_file(judged().fresh_classifier(8).state_dict(), judged().judge.judge)
    assert fingerprints(judged()) != first


def test_the_copy_detector_is_checked_before_anything_runs(
    judged, copy_detector: dict[str, str]
) -> None:
    testbed = judged(**copy_detector)
    assert (testbed.copies.extractor, testbed.copies.weights()) == (
        sscd.NAME,
        copy_detector["sscd"],
    )
    assert judged().copies.extractor is None and fingerprints(testbed) == fingerprints(judged())
    with pytest.raises(
        UserError, match="imagenette-sd: .* must have the sha256 given as sscd_sha256"
    ):
        fingerprints(judged(**(copy_detector | {"sscd_sha256": "0" * 64})))


def test_lora_is_a_parameter(tiny) -> None:
    assert tiny(training="lora").training_settings("finetune").lora_rank == 4
    assert tiny(training="lora", lora_rank=16).training_settings("finetune").lora_rank == 16
    assert tiny(lora_rank=16).training_settings("finetune").lora_rank is None
    assert tiny().training_settings("scratch").lora_rank is None
    with pytest.raises(UserError, match="training must be 'full' for scheme: scratch"):
        tiny(training="lora").training_settings("scratch")


def test_without_peft_a_run_with_lora_is_refused_before_it_begins(judged, monkeypatch) -> None:
    fingerprints(judged(training="lora"))
    monkeypatch.setattr(_stable_diffusion.importlib.util, "find_spec", lambda name: None)
    fingerprints(judged())
    with pytest.raises(UserError, match="training: lora needs peft: pip install peft"):
        fingerprints(judged(training="lora"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": "half"}, "training must be one of 'full', 'lora', got 'half'"),
        ({"lora_rank": 0}, "lora_rank must be positive, got 0"),
        (
            {"accumulation_steps": 0},
            "accumulation_steps must be at least 1, got 0",
        ),
        ({"classifier_epochs": 0}, "classifier_epochs must be positive, got 0"),
        ({"resolution": 100}, "resolution must be positive, a multiple of 8, got 100"),
        ({"classifier": "vit"}, "classifier must be one of 'resnet18', .*, got 'vit'"),
        (
            {"sscd": "f.pt"},
            "sscd_sha256 must be the sha256 of the file sscd, 64 hexadecimal digits in lower "
            "case, got None",
        ),
        ({"finetune_epochs": 0}, "finetune_epochs must be positive, got 0"),
        ({"revision": "main"}, "revision must be a full commit hash"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IMAGENETTE_SD.changed(**changes)


def test_split_rows_holds_out_the_last_of_each_class_and_at_least_one() -> None:
    files = [Path(str(row)) for row in range(25)]
    rows = split_rows(files, [0] * 20 + [2] + [1] * 4, 0.1)
    assert rows.train_count == 18 + 3 + 1
    assert [path.name for path in rows.files[rows.train_count :]] == ["18", "19", "24"]
    assert rows.labels[rows.train_count :] == (0, 0, 1), (
        "a class with one image keeps it for training"
    )
