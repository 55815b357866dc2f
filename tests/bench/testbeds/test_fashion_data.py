"""Fashion-MNIST's files as they are published, packed or not, wherever they are; what is wrong with
one is message in a line that names it.
"""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.testbeds.data import fashion
from bench.testbeds.data.fashion import FashionMNIST
from bench.testbeds.data.idx import MOST_ROWS, read_idx
from bench.testbeds.digits_cfg import DIGITS_CFG

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def over(folder: Path | None, train: int = 60, held_out: int = 40) -> FashionMNIST:
    """The data set in ``folder``, as ``fashion-cfg`` has it."""
    data = None if folder is None else str(folder)
    return FashionMNIST(name="fashion-cfg", data=data, train_count=train, held_out_count=held_out)


def test_images_lie_in_the_middle_of_black(idx_files: ModuleType, tmp_path: Path) -> None:
    data = over(idx_files.save_fashion(tmp_path))
    images, labels = idx_files.garments(60, seed=0)
    padded = data.train_images()
    assert padded.dtype == torch.uint8 and padded.shape == (60, 1, 32, 32)
    assert torch.equal(padded[:, 0, 2:30, 2:30], torch.tensor(images))
    assert int(padded.sum()) == int(images.sum(dtype=np.int64)), "the margin is not black"
    assert data.train_labels().tolist() == labels.tolist()
    assert data.held_out_images().shape == (40, 1, 32, 32) and data.held_out_labels().shape == (40,)
    outline = data.outline()
    assert outline.images.shape == padded.shape and outline.images.device.type == "meta"
    assert torch.equal(outline.labels, data.train_labels())


def test_packed_and_unpacked_files_are_one_data_set(idx_files: ModuleType, tmp_path: Path) -> None:
    """Who has torchvision's files must not measure under other keys than who has Debian's."""
    packed = over(idx_files.save_fashion(tmp_path / "packed"))
    plain = over(
        idx_files.save_fashion(tmp_path / "torchvision/FashionMNIST/raw", packed=False).parents[1]
    )
    assert packed.fingerprint() == plain.fingerprint()
    assert torch.equal(packed.train_images(), plain.train_images())
    other = over(idx_files.save_fashion(tmp_path / "other", train=50), train=50)
    assert other.fingerprint() != packed.fingerprint()


def test_changed_files_are_read_again(idx_files: ModuleType, tmp_path: Path) -> None:
    data = over(idx_files.save_fashion(tmp_path, packed=False))
    before, first = data.fingerprint(), data.train_images()
    images, _ = idx_files.garments(60, seed=9)
    (tmp_path / IMAGES).write_bytes(idx_files.idx(images))
    os.utime(tmp_path / IMAGES, ns=(1, 1))
    assert data.fingerprint() != before and not torch.equal(data.train_images(), first)


def test_without_a_folder_the_usual_places_are_searched(
    idx_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion, "PLACES", (*fashion.PLACES[:-1], str(tmp_path / "debian")))
    data = over(None)
    (missing,) = data.missing()
    assert missing.startswith("fashion-cfg: no Fashion-MNIST in 'data/fashion-mnist', ")
    assert "Debian's package dataset-fashion-mnist" in missing and "\n" not in missing
    idx_files.save_fashion(tmp_path / "debian")
    assert data.missing() == []
    assert fashion.find(None, "x").images["train"].parent == tmp_path / "debian"
    assert data.also_reads() == (str(tmp_path / "debian"),)
    idx_files.save_fashion(tmp_path / "data/FashionMNIST/raw")
    # A third party's plugin is shown what no parameter names, too.
    assert data.also_reads() == ("data/FashionMNIST/raw",)
    assert over("data/FashionMNIST/raw").also_reads() == ()
    assert fashion.find(None, "x").images["train"].parent == Path("data/FashionMNIST/raw")


def _faults(data: FashionMNIST) -> list[str]:
    """What is wrong with files that are all there."""
    assert data.missing() == []
    return data.faults(DIGITS_CFG)


def test_half_a_data_set_is_refused(idx_files: ModuleType, tmp_path: Path) -> None:
    folder = idx_files.save_fashion(tmp_path)
    assert _faults(over(folder)) == []
    (line,) = _faults(over(folder, train=60_000))
    assert line.startswith("fashion-cfg: train_count must be the number of images in ")
    assert line.endswith(f"{IMAGES}.gz: 60, got 60000")
    (folder / f"{LABELS}.gz").unlink()
    (line,) = over(folder).missing()
    assert line.startswith(f"{folder}: {LABELS} is missing, packed (.gz) or not; install ")


def _header(*sides: int, magic: int = 0x00000803) -> bytes:
    return struct.pack(f">I{len(sides)}I", magic, *sides)


BROKEN = {
    "empty": (b"", "must begin with 00000803, got nothing"),
    "labels": (_header(60, magic=0x801), "must begin with 00000803, got 00000801"),
    "floats": (_header(60, 28, 28, magic=0xD03), "must begin with 00000803, got 00000d03"),
    "header": (_header(60, 28), "the header must be 16 bytes, got 12: download it again"),
    "sides": (_header(60, 32, 32), "a row must be 28 x 28, got 32 x 32"),
    "no rows": (_header(0, 28, 28), f"the rows must be from 1 to {MOST_ROWS:,}, got 0"),
    "bomb": (_header(2**32 - 1, 28, 28), f"from 1 to {MOST_ROWS:,}, got 4,294,967,295"),
    "short": (_header(60, 28, 28) + bytes(100), "60 rows must be 47,040 bytes, got 100: download"),
    "long": (_header(60, 28, 28) + bytes(47_041), "60 rows must be 47,040 bytes, got more"),
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(
    idx_files: ModuleType, tmp_path: Path, name: str, packed: bool
) -> None:
    content, message = BROKEN[name]
    folder = idx_files.save_fashion(tmp_path, packed=packed)
    file = folder / (IMAGES + ".gz" * packed)
    file.write_bytes(gzip.compress(content) if packed else content)
    (line,) = _faults(over(folder))
    assert line.startswith(f"{file}: ") and message in line
    with pytest.raises(UserError, match=file.name):
        over(folder).fingerprint()


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"no gzip"])
def test_a_damaged_archive_is_one_line(idx_files: ModuleType, tmp_path: Path, damage: Any) -> None:
    file = idx_files.save_fashion(tmp_path) / f"{IMAGES}.gz"
    file.write_bytes(damage(file.read_bytes()))
    (line,) = _faults(over(tmp_path))
    assert line.startswith(f"{file} cannot be read: ")


def test_a_flipped_byte_in_an_archive_is_noticed(idx_files: ModuleType, tmp_path: Path) -> None:
    """Its checksum stands at its end, behind the last row."""
    file = idx_files.save_fashion(tmp_path) / f"{IMAGES}.gz"
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(bytes(content))
    (line,) = _faults(over(tmp_path))
    assert line.startswith(f"{file} cannot be read: CRC check failed")


def test_labels_must_be_as_many_and_of_a_class(idx_files: ModuleType, tmp_path: Path) -> None:
    file = idx_files.save_fashion(tmp_path, packed=False) / LABELS
    file.write_bytes(idx_files.idx(np.full(60, 10, dtype=np.uint8)))
    assert _faults(over(tmp_path)) == [f"{file}: labels must be in 0..9, got 10"]
    file.write_bytes(idx_files.idx(np.zeros(59, dtype=np.uint8)))
    (line,) = _faults(over(tmp_path))
    assert line == f"{file} must hold a label for each of the 60 images in {IMAGES}, got 59"


def test_no_more_is_read_than_a_header_says(tmp_path: Path) -> None:
    """A small archive that unpacks to a gigabyte is not unpacked."""
    file = tmp_path / "bomb.gz"
    file.write_bytes(gzip.compress(_header(2, 28, 28) + bytes(2**24), compresslevel=1))
    with pytest.raises(UserError, match="2 rows must be 1,568 bytes, got more"):
        read_idx(file, (28, 28))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe must be a file, but it is a pipe"):
        read_idx(tmp_path / "pipe", ())
