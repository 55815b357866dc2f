"""``cifar10-ddpm`` on tiny data and a tiny network, saved in the formats the real ones are
published in.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from bench.diffusion.schedule import Schedule
from bench.errors import UserError
from bench.testbeds.cifar10_ddpm import CIFAR10_DDPM, REVISION
from bench.testbeds.data import images as _images
from bench.testbeds.data.cifar10 import CLASS_NAMES, TRAIN_RECORDS
from bench.testbeds.parts import inception as _inception
from bench.testbeds.parts import published
from bench.testbeds.testbed import Testbed, faults, fingerprints, missing

#: google/ddpm-cifar10-32's own settings, with fewer channels.
NETWORK: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 4,
}
SCHEDULER = DDPMScheduler(variance_type="fixed_large")


def random_images(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def save_flat(folder: Path, safetensors: bool = True, **changes: Any) -> UNet2DModel:
    """As google/ddpm-cifar10-32: the network's and the scheduler's files side by side."""
    torch.manual_seed(0)
    network = UNet2DModel(**(NETWORK | changes))
    network.save_pretrained(folder, safe_serialization=safetensors)
    SCHEDULER.save_pretrained(folder)
    return network


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def save_binary(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """cifar-10-batches-bin: a sixth of the images in each of five training files, the last sixth in
    the test file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(
        (*TRAIN_RECORDS, "test_batch.bin"), np.array_split(np.arange(len(images)), 6), strict=True
    ):
        (folder / name).write_bytes(
            b"".join(bytes([labels[row]]) + images[row].tobytes() for row in rows)
        )


@pytest.fixture()
def images() -> np.ndarray:
    return random_images(24)


@pytest.fixture()
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, 24)


def tiny(data: Path, **changes: Any) -> Testbed:
    return CIFAR10_DDPM.changed(
        **({"data": str(data), "train_count": 20, "held_out_count": 4} | changes)
    )


@pytest.mark.parametrize(
    "inner", ["", "cifar-10-batches-bin"], ids=["records directly", "unpacked archive"]
)
def test_binary_version_gives_exact_pixels_labels_and_order(
    tmp_path, images, labels, inner
) -> None:
    """A wrong plane order or an off-by-one in the record would train and measure on scrambled
    images.
    """
    save_binary(tmp_path / inner, images, labels)
    testbed = tiny(tmp_path)
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:20])
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[20:])
    np.testing.assert_array_equal(testbed.data.train_labels().numpy(), labels[:20])
    assert (
        testbed.data.train_images().dtype == torch.uint8
        and testbed.data.train_labels().dtype == torch.int64
    )
    testbed.data.train_images().zero_()  # Each caller owns what it was handed.
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:20])


def test_binary_record_layout_is_label_then_red_green_blue_rows(tmp_path) -> None:
    """The format as published, written byte by byte: the first red value, the last of the first
    row, the first green one.
    """
    record = bytearray(3073)
    record[0], record[1], record[32], record[1 + 1024] = 7, 11, 22, 33
    (tmp_path / "one.bin").write_bytes(record)
    pixels, label = _images.read_cifar_binary([tmp_path / "one.bin"], 10)
    assert label.tolist() == [7]
    assert (pixels[0, 0, 0, 0], pixels[0, 0, 0, 31], pixels[0, 1, 0, 0], int(pixels.sum())) == (
        11,
        22,
        33,
        66,
    )


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 4 * 3073))
def test_truncated_records_are_refused_at_any_length(tmp_path_factory, size) -> None:
    """A download cut short must never be read as fewer, shifted images."""
    path = tmp_path_factory.mktemp("cut") / "data_batch_1.bin"
    path.write_bytes(bytes(size))
    if size and size % 3073 == 0:
        assert len(_images.read_cifar_binary([path], 10)[0]) == size // 3073
    else:
        with pytest.raises(
            UserError, match=r"data_batch_1\.bin must hold whole records of 3073 bytes"
        ):
            _images.read_cifar_binary([path], 10)


def test_cifar_100_records_are_refused_by_their_labels(tmp_path, images, labels) -> None:
    labels[2] = 10
    save_binary(tmp_path, images, labels)
    with pytest.raises(UserError, match=r"data_batch_1\.bin: labels must be in 0\.\.9, got 10"):
        tiny(tmp_path).data.train_images()


def test_a_forgotten_batch_is_named(tmp_path, images, labels) -> None:
    save_binary(tmp_path, images, labels)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is missing"):
        tiny(tmp_path).data.train_images()


@pytest.mark.parametrize(
    ("field", "read"), [("train_count", "train_images"), ("held_out_count", "held_out_images")]
)
def test_half_a_data_set_is_an_error_not_a_number(tmp_path, images, labels, field, read) -> None:
    """FID against part of the training set would look like a result."""
    save_binary(tmp_path, images, labels)
    with pytest.raises(UserError, match=rf"{field} must be the number of images .*, got 7"):
        getattr(tiny(tmp_path, **{field: 7}).data, read)()


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_the_pickled_version_is_refused_and_never_opened(tmp_path, inner) -> None:
    """Its files run code when they are unpickled; the message names the version to take instead."""
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(
        UserError,
        match="pickled python version, which is never loaded; instead, download the binary",
    ) as caught:
        tiny(tmp_path).data.train_images()
    assert "\n" not in str(caught.value) and not Path("pwned").exists()


def test_no_data_says_what_to_download_and_where(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        fingerprints(tiny(tmp_path / "nowhere"))
    assert "cifar-10-binary.tar.gz" in str(caught.value) and str(tmp_path / "nowhere") in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def save_folders(root: Path, images: np.ndarray, labels: np.ndarray | None, train: int) -> None:
    for row, pixels in enumerate(images):
        folder = root / ("train" if row < train else "test")
        folder = folder if labels is None else folder / CLASS_NAMES[labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:03}.png").write_bytes(png(pixels))


def test_class_folders_give_labels_in_name_order(tmp_path) -> None:
    """Written in shuffled order: the order read must be the files' names', on every file system."""
    images, labels = random_images(30), np.arange(30) % 10
    order = np.random.default_rng(2).permutation(30)
    for row in order:
        save_folders(tmp_path, images[row : row + 1], labels[row : row + 1], train=int(row < 20))
        folder = tmp_path / ("train" if row < 20 else "test") / CLASS_NAMES[labels[row]]
        # The content decides, not the suffix.
        (folder / "000.png").rename(folder / f"{row:03}.jpeg")
    testbed = tiny(tmp_path, held_out_count=10)
    expected = np.argsort(labels[:20], kind="stable")
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:20][expected])
    np.testing.assert_array_equal(testbed.data.train_labels().numpy(), labels[:20][expected])
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[20:])


def test_flat_folders_have_no_labels(tmp_path, images) -> None:
    save_folders(tmp_path, images, None, 20)
    (tmp_path / "train" / ".hidden.png").write_bytes(b"not an image")
    (tmp_path / "train" / "notes.txt").write_text("not an image either")
    testbed = tiny(tmp_path)
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:20])
    assert testbed.data.train_labels() is None


RENAMED = {"airplane": "Plane", "automobile": "car", "ship": "boats", "truck": "lorry"}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (lambda name: RENAMED.get(name, name), str.upper),
        (lambda name: f"0{CLASS_NAMES.index(name)}", CLASS_NAMES.index),
    ],
)
def test_class_folders_are_known_by_their_names_in_any_order(tmp_path, train, test) -> None:
    """Numbered by the order of their names, plane, car, bird ... would be other classes: a bird
    would be an airplane.
    """
    images, labels = random_images(30), np.arange(30) % 10
    save_folders(tmp_path, images, labels, 20)
    for split, renamed in (("train", train), ("test", test)):
        for name in CLASS_NAMES:
            (tmp_path / split / name).rename(tmp_path / split / f"{renamed(name)}~")
        for path in list((tmp_path / split).iterdir()):
            path.rename(path.with_name(path.name[:-1]))
    testbed = tiny(tmp_path, held_out_count=10)
    assert testbed.data.faults(testbed) == []
    for split in ("train", "held_out"):
        pixels_read, labels_read = testbed.data._split(split)
        own = {pixels.tobytes(): label for pixels, label in zip(images, labels, strict=True)}
        assert [own[pixels.tobytes()] for pixels in pixels_read] == labels_read.tolist()


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            {"bird": "vogel", "cat": "katze"},
            r"class folders must be named as CIFAR-10's .* or 0 to 9, got katze, vogel",
        ),
        ({"bird": "0", "cat": "1"}, "got 0, 1"),
        ({name: str(number + 1) for number, name in enumerate(CLASS_NAMES)}, "or 0 to 9, got 10"),
        ({"bird": ""}, "every class must have a folder with images, none has bird"),
        ({"bird": "plane"}, "the folders airplane and plane are the same class, airplane"),
        ({"bird": "1_bird"}, "got 1_bird"),
    ],
)
def test_other_class_folders_are_refused(tmp_path, rename, message) -> None:
    images, labels = random_images(30), np.arange(30) % 10
    save_folders(tmp_path, images, labels, 20)
    for name, other in rename.items():
        if other:
            (tmp_path / "train" / name).rename(tmp_path / "train" / other)
        else:
            shutil.rmtree(tmp_path / "train" / name)
    (line,) = tiny(
        tmp_path, held_out_count=10, train_count=20 - 2 * ("" in rename.values())
    ).data.faults(None)
    assert re.search(message, line) and str(tmp_path / "train") in line
    with pytest.raises(UserError, match=message):
        tiny(tmp_path, held_out_count=10).data.train_images()


def test_classes_in_one_split_only_are_refused(tmp_path, images) -> None:
    save_folders(tmp_path, images[:20], np.arange(20) % 10, 20)
    save_folders(tmp_path, images[20:], None, 0)
    with pytest.raises(
        UserError, match=r"must both hold class folders, or none; got them in train/, not in test/"
    ):
        tiny(tmp_path).data.train_images()
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(
        UserError, match=r"must hold images in train/ and in test/, got none in test/"
    ):
        tiny(tmp_path).data.train_images()


def test_images_beside_class_folders_are_refused(tmp_path, images) -> None:
    """Their label would be a guess."""
    save_folders(tmp_path, images, np.arange(24) % 10, 20)
    (tmp_path / "train" / "loose.png").write_bytes(png(images[0]))
    with pytest.raises(UserError, match=r"got both: loose\.png and airplane/"):
        tiny(tmp_path).data.train_images()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an image"),
        (b"no image at all", "is not an image"),
        (png(random_images(1)[0])[:1500], "is not a readable image"),
        (png(random_images(1, 33)[0]), "must be 32 x 32 pixels, got 33 x 33"),
    ],
    ids=["empty", "text", "truncated", "wrong size"],
)
def test_a_defective_image_is_named(tmp_path, images, content, message) -> None:
    save_folders(tmp_path, images, None, 20)
    (tmp_path / "train" / "005.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"005\.png {message}") as caught:
        tiny(tmp_path).data.train_images()
    assert "\n" not in str(caught.value)


def test_deep_colour_is_refused_not_clipped(tmp_path, images) -> None:
    """Pillow would silently clip 16-bit grey to white."""
    save_folders(tmp_path, images, None, 20)
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "train" / "005.png")
    with pytest.raises(UserError, match=r"005\.png must be an 8-bit grey or RGB image"):
        tiny(tmp_path).data.train_images()


def save_parquet(
    path: Path, images: np.ndarray, labels: np.ndarray | None, column: str = "img", **columns: Any
) -> None:
    """As `datasets` exports CIFAR-10: a struct of bytes and path, and the label, several row groups
    to a file.
    """
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data: dict[str, Any] = {column: [{"bytes": png(pixels), "path": None} for pixels in images]}
    if labels is not None:
        data["label"] = labels.tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(data | columns), path, row_group_size=3)


def test_a_parquet_file_whose_labels_are_damaged_is_named(tmp_path, images, labels) -> None:
    """It was "None cannot be read", or a traceback."""
    path = tmp_path / "train.parquet"
    save_parquet(path, images, labels)
    data = bytearray(path.read_bytes())
    column = pytest.importorskip("pyarrow.parquet").ParquetFile(path).metadata.row_group(0)
    chunk = next(
        column.column(index)
        for index in range(column.num_columns)
        if column.column(index).path_in_schema == "label"
    )
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="train.parquet is not a readable parquet file") as refused:
        _images.parquet_labels([path])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_export_gives_exact_pixels_labels_and_order(
    tmp_path, images, labels, column
) -> None:
    save_parquet(
        tmp_path / "plain_text" / "train-00001-of-00002.parquet",
        images[10:20],
        labels[10:20],
        column,
    )
    save_parquet(
        tmp_path / "plain_text" / "train-00000-of-00002.parquet", images[:10], labels[:10], column
    )
    save_parquet(
        tmp_path / "plain_text" / "test-00000-of-00001.parquet", images[20:], labels[20:], column
    )
    testbed = tiny(tmp_path)
    np.testing.assert_array_equal(testbed.data.train_images().numpy(), images[:20])
    np.testing.assert_array_equal(testbed.data.train_labels().numpy(), labels[:20])
    np.testing.assert_array_equal(testbed.data.held_out_images().numpy(), images[20:])


def test_defects_of_a_parquet_export_are_named(tmp_path, images, labels) -> None:
    train, test = tmp_path / "train.parquet", tmp_path / "test.parquet"
    save_parquet(train, images[:20], labels[:20])
    with pytest.raises(
        UserError, match=r"must hold parquet files named train\* and test\*, got train\.parquet"
    ):
        tiny(tmp_path).data.train_images()
    save_parquet(test, images[20:], labels[20:])
    save_parquet(train, images[:20], labels[:20] + 91)
    with pytest.raises(
        UserError,
        match=r"every label must be in 0\.\.9, got 100|every label must be in 0\.\.9, got 9\d",
    ):
        tiny(tmp_path).data.train_images()
    save_parquet(train, images[:20], labels[:20], column="picture")
    with pytest.raises(
        UserError,
        match=r"train\.parquet: a column named img or image is needed, got picture, label",
    ):
        tiny(tmp_path).data.train_images()
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({"img": [{"bytes": None, "path": "elsewhere.png"}] * 20}), train
    )
    with pytest.raises(
        UserError, match=r"train\.parquet, row 0: the image must be stored in the file as bytes"
    ):
        tiny(tmp_path).data.train_images()
    for kind, values in (
        ("string", [str(row % 10) for row in range(20)]),
        ("double", [row % 10 + 0.0 for row in range(20)]),
    ):
        save_parquet(train, images[:20], None, label=values)
        with pytest.raises(
            UserError,
            match=rf"train\.parquet: the column label must hold whole numbers, got {kind}",
        ):
            tiny(tmp_path).data.train_labels()
    train.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        UserError, match=r"train\.parquet is not a readable parquet file: it is a git-lfs pointer"
    ):
        tiny(tmp_path).data.train_images()
    train.write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match=r"train\.parquet is not a readable parquet file"):
        tiny(tmp_path).data.train_images()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch) -> None:
    (tmp_path / "train.parquet").touch()
    (tmp_path / "test.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="needs pyarrow: pip install pyarrow"):
        tiny(tmp_path).data.train_images()


# --- weights --------------------------------------------------------------------------------------


def test_both_checkpoint_layouts_load_the_same_network(tmp_path) -> None:
    """Flat as google/ddpm-cifar10-32, nested as any pipeline diffusers saves today: the same noise,
    to the last bit.
    """
    network = save_flat(tmp_path / "flat").eval()
    DDPMPipeline(unet=network, scheduler=SCHEDULER).save_pretrained(tmp_path / "nested")
    x, t = (
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 900]),
    )
    with torch.no_grad():
        expected = network(x, t).sample
        for layout in ("flat", "nested"):
            generator = tiny(tmp_path, weights=str(tmp_path / layout)).base_generator()
            assert torch.equal(generator.predict_noise(x, t), expected)
            np.testing.assert_allclose(generator.schedule.betas, Schedule.linear().betas, rtol=1e-6)
            assert generator.scheduler_config[
                "variance_type"
            ] == "fixed_large" and generator.image_shape == (3, 32, 32)
            assert not generator.unet.training


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_pickled_weights_are_refused(tmp_path, layout, monkeypatch) -> None:
    """Only a .bin in the folder: the message says why, and torch's unpickler is never reached."""
    folder = tmp_path / "unet" if layout == "nested" else tmp_path
    save_flat(folder, safetensors=False)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(
        UserError, match=r"got diffusion_pytorch_model\.bin, a pickle, which is never loaded"
    ) as caught:
        tiny(tmp_path, weights=str(tmp_path)).base_generator()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": 64}, r"\(3, 32, 32\), .* draw \(3, 64, 64\)"),
        ({"in_channels": 1, "out_channels": 1}, r"draw \(1, 32, 32\)"),
    ],
)
def test_weights_of_another_image_shape_are_refused(tmp_path, changes, message) -> None:
    save_flat(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        tiny(tmp_path, weights=str(tmp_path)).base_generator()


def test_a_v_prediction_checkpoint_is_refused(tmp_path) -> None:
    """Its output is no noise estimate: every attack and sampler here would be silently wrong."""
    save_flat(tmp_path)
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="must predict the noise"):
        tiny(tmp_path, weights=str(tmp_path)).base_generator()


def test_corrupt_weights_are_one_line(tmp_path) -> None:
    save_flat(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged or cut short") as caught:
        tiny(tmp_path, weights=str(tmp_path)).base_generator()
    assert "\n" not in str(caught.value)


def test_fresh_generator_has_the_architecture_but_other_seeded_weights(tmp_path) -> None:
    save_flat(tmp_path)
    testbed = tiny(tmp_path, weights=str(tmp_path))
    before = torch.random.get_rng_state()
    first, again, other = (testbed.fresh_generator(seed).unet.state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    shipped = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {name: tuple(value.shape) for name, value in first.items()} == {
        name: value.shape for name, value in shipped.items()
    }
    assert all(torch.equal(first[name], again[name]) for name in first)
    for different in (other, {name: torch.from_numpy(value) for name, value in shipped.items()}):
        assert not torch.equal(first["conv_in.weight"], different["conv_in.weight"])


@pytest.fixture()
def offline(tmp_path, monkeypatch) -> Path:
    """The hub client as with HF_HUB_OFFLINE=1 and an empty cache, whose folder this is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline_without_the_weights_is_one_clear_line(tmp_path, offline) -> None:
    with pytest.raises(UserError) as caught:
        tiny(tmp_path).base_generator()
    message = str(caught.value)
    assert (
        "\n" not in message
        and "google/ddpm-cifar10-32" in message
        and REVISION in message
        and "set weights" in message
    )


def test_offline_with_the_pinned_snapshot_cached_loads_it(tmp_path, offline) -> None:
    """A compute node without a network, after the download on the login node. Another revision in
    the cache does not count.
    """
    snapshots = offline / "models--google--ddpm-cifar10-32" / "snapshots"
    network = save_flat(snapshots / REVISION)
    loaded = tiny(tmp_path).base_generator().unet.state_dict()
    assert torch.equal(loaded["conv_in.weight"], network.state_dict()["conv_in.weight"])
    assert not any("google/ddpm-cifar10-32" in line for line in missing(tiny(tmp_path)))
    with pytest.raises(UserError, match="f" * 40):
        tiny(tmp_path, revision="f" * 40).base_generator()


@pytest.mark.parametrize("weights", ["somewhere/else", "./no/such/folder"])
def test_a_missing_folder_is_no_hub_repository(tmp_path, weights, monkeypatch) -> None:
    """Without a pinned commit nothing is asked of the hub: a typing error must not download a
    stranger's model.
    """
    monkeypatch.setattr(
        published, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub")
    )
    with pytest.raises(UserError, match="no weights folder"):
        tiny(tmp_path, weights=weights, revision=None).base_generator()


@pytest.mark.parametrize(
    "weights", ["gogle/ddpm-cifar10-32", "weights/ddpm", "./no/such/folder", "a/b/c"]
)
def test_a_mistyped_weights_folder_is_found_before_anything_runs(
    tmp_path, images, labels, weights, monkeypatch
) -> None:
    """The declared revision is of the declared repository: with another name it says nothing, and
    hours later the hub is asked.
    """
    monkeypatch.setattr(
        published, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub")
    )
    save_binary(tmp_path, images, labels)
    (fault,) = [line for line in faults(tiny(tmp_path, weights=weights)) if "weights" in line]
    assert f"no weights folder '{weights}'" in fault and "\n" not in fault
    with pytest.raises(UserError, match="no weights folder"):
        fingerprints(tiny(tmp_path, weights=weights))


def test_another_repository_with_a_revision_of_its_own_is_fetched_on_first_use(
    tmp_path, images, labels, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    save_binary(tmp_path, images, labels)
    other = tiny(tmp_path, weights="me/mine", revision="f" * 40)
    assert not [line for line in faults(other) if "weights" in line] and fingerprints(other)


def test_weights_are_looked_at_before_anything_runs_and_all_their_faults_named(tmp_path) -> None:
    save_flat(tmp_path, sample_size=64, num_class_embeds=11)
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path)
    lines = [
        line
        for line in faults(tiny(tmp_path, weights=str(tmp_path)))
        if line.startswith("cifar10-ddpm: weights must")
    ]
    assert len(lines) == 3
    assert "draw images of shape (3, 32, 32)" in lines[0] and "predict the noise" in lines[1]
    assert "without class labels" in lines[2], "the last class would stand for none, in silence"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "main"}, "revision must be a full commit hash"),
        ({"revision": REVISION[:7]}, "revision must be a full commit hash"),
        ({"finetune_epochs": 0}, "finetune_epochs must be positive, got 0"),
        ({"scratch_epochs": -1}, "scratch_epochs must be positive, got -1"),
    ],
)
def test_bad_parameters_are_refused_on_construction(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        CIFAR10_DDPM.changed(**changes)


# --- extractor ------------------------------------------------------------------------------------


def test_inception_weights_pass_only_by_their_hash(tmp_path, monkeypatch) -> None:
    """torch-fidelity unpickles this file, so any other bytes, however named, could run code."""
    path = tmp_path / _inception.INCEPTION_FILE
    path.write_bytes(b"some other pickle")
    testbed = tiny(tmp_path, inception_weights=str(path))
    with pytest.raises(
        UserError,
        match=f"must be {_inception.INCEPTION_FILE} with sha256 {_inception.INCEPTION_SHA256}",
    ):
        testbed.features.weights()
    monkeypatch.setattr(_inception, "INCEPTION_SHA256", _images.content_hash(path))
    assert testbed.features.weights() == str(path)
    with pytest.raises(UserError, match="no inception_weights at"):
        tiny(tmp_path, inception_weights=str(tmp_path / "absent.pth")).features.weights()


def test_cached_inception_weights_are_checked_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert tiny(tmp_path).features.weights() is None
    path = tmp_path / "checkpoints" / _inception.INCEPTION_FILE
    path.parent.mkdir()
    path.write_bytes(b"cut short")
    with pytest.raises(UserError, match="download it again"):
        tiny(tmp_path).features.weights()


# --- declaration ----------------------------------------------------------------------------------


def test_missing_lists_each_absent_thing_once_and_nothing_when_all_is_there(
    tmp_path, images, labels, offline, monkeypatch
) -> None:
    """What `castlewalls doctor` prints."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    lines = missing(tiny(tmp_path / "data"))
    assert [
        word in line
        for line, word in zip(
            lines, ("binary.tar.gz", "google/ddpm-cifar10-32", "inception"), strict=True
        )
    ]
    assert all("\n" not in line for line in lines)
    save_binary(tmp_path / "data", images, labels)
    save_flat(tmp_path / "weights")
    inception = tmp_path / "inception.pth"
    inception.write_bytes(b"weights")
    monkeypatch.setattr(_inception, "INCEPTION_SHA256", _images.content_hash(inception))
    assert (
        missing(
            tiny(
                tmp_path / "data",
                weights=str(tmp_path / "weights"),
                inception_weights=str(inception),
            )
        )
        == []
    )


def test_fingerprint_follows_content_not_location(tmp_path, images, labels) -> None:
    """Same files elsewhere: same protocol. One pixel, one weight or the revision changed:
    another.
    """
    for folder in ("a", "b"):
        save_binary(tmp_path / folder / "data", images, labels)
        save_flat(tmp_path / folder / "weights")
    at = {
        folder: tiny(tmp_path / folder / "data", weights=str(tmp_path / folder / "weights"))
        for folder in ("a", "b")
    }
    original = fingerprints(at["a"])
    assert original == fingerprints(at["b"]) == fingerprints(at["a"])
    np.testing.assert_array_equal(at["b"].data.train_images().numpy(), images[:20])
    images[3, 1, 5, 5] ^= 1
    save_binary(tmp_path / "b" / "data", images, labels)
    changed = fingerprints(at["b"])
    assert changed != original
    # Read again, not served from memory.
    np.testing.assert_array_equal(at["b"].data.train_images().numpy(), images[:20])
    save_flat(tmp_path / "a" / "weights", norm_eps=1e-5)
    assert fingerprints(at["a"]) != original
    pinned = [fingerprints(tiny(tmp_path / "a" / "data", revision=digit * 40)) for digit in "ab"]
    assert pinned[0] != pinned[1]


def test_the_shipped_settings_are_badDiffusions() -> None:
    """391 steps an epoch over 50,000 images in batches of 128; everything else of research note and
    paper, section 4.1.
    """
    testbed = CIFAR10_DDPM
    finetune, scratch = testbed.training_settings("finetune"), testbed.training_settings("scratch")
    assert (finetune.steps, scratch.steps) == (391 * 50, 391 * 400)
    for chosen in (finetune, scratch):
        assert (chosen.batch_size, chosen.learning_rate, chosen.warmup_steps, chosen.schedule) == (
            128,
            2e-4,
            500,
            "cosine",
        )
        assert (chosen.optimizer, chosen.gradient_clip, chosen.ema_decay, chosen.precision) == (
            "adam",
            1.0,
            None,
            "float16",
        )
        assert chosen.horizontal_flip
    sampler = testbed.sampler.settings()
    assert (sampler.name, sampler.num_inference_steps, sampler.clip) == ("ddpm", 1000, "none")
    assert (
        testbed.counts.clean_samples,
        testbed.counts.triggered_samples,
        testbed.features.extractor,
    ) == (
        10_000,
        10_000,
        "inception-v3-compat",
    )
    assert CIFAR10_DDPM.changed(**json.loads(json.dumps(testbed.params()))) == testbed
    small = CIFAR10_DDPM.changed(
        accumulation_steps=8, gradient_checkpointing=True
    ).training_settings("scratch")
    assert (small.accumulation_steps, small.gradient_checkpointing, small.batch_size) == (
        8,
        True,
        128,
    )


def test_working_directory_is_all_that_relative_paths_depend_on(
    tmp_path, images, labels, monkeypatch
) -> None:
    save_binary(tmp_path / "data" / "cifar10", images, labels)
    monkeypatch.chdir(tmp_path)
    assert len(CIFAR10_DDPM.changed(train_count=20).data.train_images()) == 20
    shutil.move(tmp_path / "data", tmp_path / "moved")
    assert not os.path.exists("data")
    with pytest.raises(UserError, match="no CIFAR-10 in 'data/cifar10'"):
        CIFAR10_DDPM.changed(train_count=20).data.train_images()
