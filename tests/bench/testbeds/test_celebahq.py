"""``celebahq-ddpm`` on tiny data and a tiny network, saved in the formats the real ones are
published in.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from bench import planner, registry
from bench.errors import UserError
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds.celebahq_ddpm import CELEBAHQ_DDPM
from bench.testbeds.data import celebahq
from bench.testbeds.data import images as _images
from bench.testbeds.testbed import Testbed, fingerprints, missing

COUNT = 20


def random_images(size: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 3, size, size), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(
        buffer, kind, **({"compress_level": 0} if kind == "PNG" else {})
    )
    return buffer.getvalue()


def save_folder(folder: Path, images: np.ndarray) -> None:
    """Written last to first, so that the order of writing is not the order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in reversed(range(len(images))):
        (folder / f"{row:05}.png").write_bytes(encoded(images[row]))


def tiny(data: Path, **changes: Any) -> Testbed:
    return CELEBAHQ_DDPM.changed(**({"data": str(data), "image_count": COUNT} | changes))


def test_the_last_tenth_by_file_name_is_held_out(tmp_path) -> None:
    images = random_images()
    save_folder(tmp_path / "celeba", images)
    testbed = tiny(tmp_path / "celeba")
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:18])
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[18:])
    assert testbed.data.train_images().dtype == torch.uint8 and testbed.data.train_labels() is None


def test_what_is_decoded_once_is_what_a_plugin_of_a_third_partys_is_shown(
    tmp_path, monkeypatch
) -> None:
    """It sees the files that the testbed names and no others: gigabytes were decoded again into
    the memory it may use, and every one of its stages failed. A link names the copy as the link
    is called, which is all that is seen inside.
    """
    save_folder(tmp_path / "elsewhere/version2", random_images())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/celeba").symlink_to(tmp_path / "elsewhere/version2")
    monkeypatch.chdir(tmp_path)
    data = tiny(Path("data/celeba")).data
    (copy,) = data.also_reads()
    assert not Path(copy).exists()
    data.train_images()
    assert Path(copy).is_file() and Path(copy).parent == tmp_path / "data"
    suite = {
        "name": "s", "testbeds": [{"name": "celebahq-ddpm", "params": {
            "data": "data/celeba", "image_count": COUNT, "weights": None,
            "inception_weights": None}}],
        "attacks": ["none"], "seeds": [0],
    }  # fmt: skip
    monkeypatch.setattr(
        planner.stages, "fingerprints", lambda testbed: dict.fromkeys(testbed.parts(), "")
    )
    known = registry.use()
    plan = planner.make_plan(parse_suite(suite, known, "s.yaml"), known, STAGES)
    located = {stage.locations for stage in plan.stages.values() if stage.name == "reference"}
    assert located and not [paths for paths in located if not {"data/celeba", copy} <= {*paths}], (
        copy
    )


def test_parquet_is_read_by_file_then_row(tmp_path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = random_images()
    (tmp_path / "celeba" / "data").mkdir(parents=True)
    for part, rows in ((1, images[12:]), (0, images[:12])):
        table = arrow.table(
            {
                "image": [{"bytes": encoded(row), "path": None} for row in rows],
                "label": [1] * len(rows),
            }
        )
        parquet.write_table(
            table, tmp_path / "celeba" / "data" / f"train-{part:05}-of-00002.parquet"
        )
    testbed = tiny(tmp_path / "celeba")
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:18])
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[18:])
    with pytest.raises(UserError, match="30 images were declared, got 20"):
        tiny(tmp_path / "celeba", image_count=30).data.train_images()


def test_whole_multiples_are_reduced_by_the_area_average() -> None:
    """The slow definition: the mean of each block of four pixels, rounded."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 512, 512), dtype=np.uint8)
    reduced = _images.decode(_images.Encoded("x", encoded(pixels)), 256, shrink=True)
    expected = pixels.reshape(3, 256, 2, 256, 2).mean(axis=(2, 4))
    assert np.abs(reduced - expected).max() <= 0.5


def test_other_sizes_are_reduced_without_aliasing() -> None:
    """A pixel checkerboard at 300 must become even grey at 256, not a moire pattern; a constant
    must stay itself.
    """
    board = np.broadcast_to(
        (np.indices((300, 300)).sum(0) % 2 * 255).astype(np.uint8), (3, 300, 300)
    )
    grey = _images.decode(_images.Encoded("x", encoded(board)), 256, shrink=True)
    assert grey.shape == (3, 256, 256)
    nearest = np.asarray(
        Image.fromarray(np.ascontiguousarray(board[0])).resize((256, 256), Image.Resampling.NEAREST)
    )
    assert grey.std() < 0.75 * nearest.std()
    flat = _images.decode(
        _images.Encoded("x", encoded(np.full((3, 300, 300), 77, np.uint8))), 256, shrink=True
    )
    assert (flat == 77).all()


def test_jpeg_and_grey_files_become_rgb(tmp_path) -> None:
    colour = np.zeros((3, 256, 256), np.uint8)
    colour[0] = 200
    red = _images.decode(_images.Encoded("x", encoded(colour, "JPEG")), 256, shrink=True)
    assert np.abs(red.astype(int) - colour).max() <= 4
    Image.fromarray(np.full((256, 256), 90, np.uint8)).save(tmp_path / "grey.png")
    assert (
        _images.decode(_images.Encoded("x", tmp_path / "grey.png"), 256, shrink=True) == 90
    ).all()


@pytest.mark.parametrize(
    ("width", "height"),
    [(178, 218), (255, 255), (512, 256)],
    ids=["CelebA, not HQ", "too small", "not square"],
)
def test_other_data_sets_are_refused_by_size(tmp_path, width, height) -> None:
    """Squeezing or enlarging would make a data set of ours and call it CelebA-HQ."""
    save_folder(tmp_path / "celeba", random_images())
    Image.new("RGB", (width, height)).save(tmp_path / "celeba" / "00003.png")
    with pytest.raises(
        UserError,
        match=rf"00003\.png must be square and at least 256 x 256 pixels, got {width} x {height}",
    ):
        tiny(tmp_path / "celeba").data.train_images()
    assert [path.name for path in tmp_path.iterdir()] == ["celeba"], (
        "a half-made copy was left behind"
    )


def test_a_corrupt_image_is_named_and_leaves_no_copy(tmp_path) -> None:
    save_folder(tmp_path / "celeba", random_images())
    path = tmp_path / "celeba" / "00007.png"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"00007\.png is not a readable image") as caught:
        tiny(tmp_path / "celeba").data.train_images()
    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == [
        "celeba"
    ]


def test_half_a_data_set_is_an_error_before_decoding(tmp_path) -> None:
    save_folder(tmp_path / "celeba", random_images())
    with pytest.raises(
        UserError, match=r"image_count must be the number of images in .*: 20, got 30000"
    ):
        fingerprints(tiny(tmp_path / "celeba", image_count=30_000))


def test_the_decoded_copy_is_made_once_and_again_when_the_data_changes(
    tmp_path, monkeypatch
) -> None:
    images = random_images()
    save_folder(tmp_path / "celeba", images)
    testbed = tiny(tmp_path / "celeba")
    testbed.data.train_images()
    (copy,) = tmp_path.glob("celeba.256.*.npy")
    assert np.load(copy).shape == (COUNT, 3, 256, 256)
    with monkeypatch.context() as patch:
        patch.setattr(celebahq, "decode_all", lambda *_, **__: pytest.fail("decoded again"))
        np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[18:])
    images[19] ^= 255
    save_folder(tmp_path / "celeba", images)
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[18:])
    (second,) = set(tmp_path.glob("celeba.256.*.npy")) - {copy}
    second.write_bytes(second.read_bytes()[:1000])  # A copy cut short by a stray hand.
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:18])


def test_writing_to_the_tensor_leaves_the_copy_on_disk_alone(tmp_path) -> None:
    images = random_images()
    save_folder(tmp_path / "celeba", images)
    testbed = tiny(tmp_path / "celeba")
    testbed.data.train_images().zero_()
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:18])


def test_a_read_only_place_beside_the_data_is_one_line_and_decoded_moves_it(tmp_path) -> None:
    """Data sets on a cluster often stand on a read-only share."""
    images = random_images()
    save_folder(tmp_path / "share" / "celeba", images)
    blocked = tmp_path / "a file"
    blocked.touch()
    with pytest.raises(
        UserError, match="cannot be written to .*; set decoded to a folder that can be"
    ) as caught:
        tiny(tmp_path / "share" / "celeba", decoded=str(blocked)).data.train_images()
    assert "\n" not in str(caught.value)
    moved = tiny(tmp_path / "share" / "celeba", decoded=str(tmp_path / "scratch"))
    np.testing.assert_array_equal(moved.data.train_images().numpy(), images[:18])
    assert sorted(os.listdir(tmp_path / "share")) == ["celeba"]
    assert [Path(name).match("celeba.256.*.npy") for name in os.listdir(tmp_path / "scratch")] == [
        True
    ]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    save_folder(tmp_path / "celeba", random_images())
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(_images.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB for the decoded images, 0.0 GB are free"):
        tiny(tmp_path / "celeba").data.train_images()
    assert [path.name for path in tmp_path.iterdir()] == ["celeba"]


def test_no_data_and_no_weights_say_what_to_get_and_where(tmp_path, monkeypatch) -> None:
    """The published weights are a pickle, so the line must point to the conversion, and the hub is
    not asked.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lines = missing(CELEBAHQ_DDPM)
    assert len(lines) == 3 and all("\n" not in line for line in lines)
    assert "'data/celebahq'" in lines[0] and "30,000 images" in lines[0]
    assert "weights/ddpm-ema-celebahq-256" in lines[1] and "turn it into safetensors" in lines[1]
    with pytest.raises(UserError, match="turn it into safetensors"):
        CELEBAHQ_DDPM.base_generator()


def test_a_converted_checkpoint_loads_at_256(tmp_path) -> None:
    """google/ddpm-ema-celebahq-256's own settings, with fewer channels and blocks, flat as on the
    hub.
    """
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=256, block_out_channels=(4, 4), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, attention_head_dim=None, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1,
        norm_eps=1e-6, norm_num_groups=2,
    )  # fmt: skip
    network.save_pretrained(tmp_path / "weights")
    DDPMScheduler().save_pretrained(tmp_path / "weights")
    save_folder(tmp_path / "celeba", random_images())
    testbed = tiny(tmp_path / "celeba", weights=str(tmp_path / "weights"))
    generator = testbed.base_generator()
    assert generator.image_shape == (3, 256, 256) == tuple(testbed.data.train_images().shape[1:])
    with torch.no_grad():
        x, t = torch.zeros(1, 3, 256, 256), torch.tensor([10])
        # Convolutions of this size may pick another order of summation from one call to the next.
        torch.testing.assert_close(
            generator.predict_noise(x, t), network.eval()(x, t).sample, rtol=1e-4, atol=1e-5
        )
    first = fingerprints(testbed)
    assert first == fingerprints(
        tiny(tmp_path / "celeba", weights=str(tmp_path / "weights"), decoded=str(tmp_path / "x"))
    )
    # Another image is held out now.
    os.rename(tmp_path / "celeba" / "00019.png", tmp_path / "celeba" / "0.png")
    assert fingerprints(testbed) != first


def test_the_shipped_settings_are_badDiffusions() -> None:
    testbed = CELEBAHQ_DDPM
    finetune, scratch = testbed.training_settings("finetune"), testbed.training_settings("scratch")
    assert testbed.data.train_count == 27_000
    assert (finetune.steps, finetune.batch_size, finetune.learning_rate) == (422 * 100, 64, 8e-5)
    assert (scratch.batch_size, scratch.learning_rate) == (64, 2e-5)
    assert (finetune.warmup_steps, finetune.schedule, finetune.ema_decay, finetune.precision) == (
        500,
        "cosine",
        None,
        "float16",
    )
    assert finetune.horizontal_flip and testbed.features.extractor == "inception-v3-compat"
    assert (
        testbed.sampler.num_inference_steps,
        testbed.sampler.clip,
        testbed.counts.clean_samples,
    ) == (
        1000,
        "none",
        10_000,
    )
    assert CELEBAHQ_DDPM.changed(**json.loads(json.dumps(testbed.params()))) == testbed
    assert (finetune.accumulation_steps, finetune.gradient_checkpointing) == (4, False)
    small = CELEBAHQ_DDPM.changed(
        accumulation_steps=16, gradient_checkpointing=True
    ).training_settings("finetune")
    assert (small.accumulation_steps, small.gradient_checkpointing, small.batch_size) == (
        16,
        True,
        64,
    )
    with pytest.raises(
        ValueError,
        match="accumulation_steps must be a divisor of the training batch of 64 images, got 5",
    ):
        CELEBAHQ_DDPM.changed(accumulation_steps=5)
    with pytest.raises(ValueError, match="gradient_checkpointing must be true or false, got 1"):
        CELEBAHQ_DDPM.changed(gradient_checkpointing=1)
    with pytest.raises(ValueError, match="image_count must be at least 10"):
        CELEBAHQ_DDPM.changed(image_count=9)
