"""Data sets as people have them: turned photographs, logos on nothing, links, archives' junk,
damaged files. What is wrong is said before anything runs, all of it at once; what is right is read
right.
"""

from __future__ import annotations

import io
import os
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.errors import UserError
from bench.testbeds.data import images as _images
from bench.testbeds.data.captions import read_captions
from bench.testbeds.data.images import (
    Encoded,
    damaged_images,
    decode,
    files_below,
    image_files,
    memory_mapped,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(width: int = 20, height: int = 20, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seen(source: bytes, size: int = 20) -> np.ndarray:
    return decode(Encoded("x", source), size, shrink=True, crop=True)


# --- what is read ---------------------------------------------------------------------------------

#: Orientation tag -> how a camera held that way stores an upright scene.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize(("tag", "stored"), STORED.items())
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_photograph_is_seen_as_its_orientation_tag_says(
    tag: int, stored: Image.Transpose, kind: str
) -> None:
    """A camera held sideways stores sideways: unturned, half of a data set could lie on its side,
    and nothing would say so.
    """
    scene, exif = photograph(30, 20), Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if kind == "WEBP" else {}
    turned = encoded(scene.transpose(stored), kind, exif=exif, **options)
    np.testing.assert_array_equal(seen(turned), seen(encoded(scene)))
    assert not np.array_equal(seen(encoded(scene.transpose(stored))), seen(encoded(scene)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """A black logo on nothing is black on white, as it is seen on a page; the hidden pixels are
    black too.
    """
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:15, 5:15, 3] = 255
    logo = Image.fromarray(pixels)
    options: dict[str, Any] = {}
    if mode == "P":
        logo = logo.quantize(4)
    elif mode in ("L", "RGB"):  # One colour stands for transparent.
        logo, options = (
            Image.fromarray(np.where(pixels[..., 3] > 0, 0, 9).astype(np.uint8)),
            {"transparency": 9},
        )
        if mode == "RGB":
            logo, options = logo.convert("RGB"), {"transparency": (9, 9, 9)}
    else:
        logo = logo.convert(mode)
    expected = np.where(pixels[..., 3] > 0, 0, 255)
    np.testing.assert_array_equal(seen(encoded(logo, **options)), np.stack([expected] * 3))


def test_half_transparent_is_half_white() -> None:
    half = Image.new("RGBA", (20, 20), (100, 0, 200, 128))
    expected = [round(value * 128 / 255 + 255 * 127 / 255) for value in (100, 0, 200)]
    assert (
        np.abs(seen(encoded(half)).reshape(3, -1).astype(int) - np.array(expected)[:, None]).max()
        <= 1
    )


def test_the_walk_follows_links_and_passes_over_what_is_hidden_or_junk(tmp_path: Path) -> None:
    """A part of the data on another disk belongs to it; checkpoints, thumbnails and resource forks
    do not.
    """
    inside = ["a/1.png", "a/b/2.JPG", "3.webp"]
    junk = [
        ".ipynb_checkpoints/1.png",
        "a/.git/x.png",
        "__MACOSX/a/1.png",
        "a/@eaDir/1.png/THUMB.jpg",
        "._3.webp",
    ]
    for name in [*inside, *junk, "Thumbs.db", "a/RENAME2", "notes.txt", "4.gif"]:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/5.png").touch()
    (tmp_path / "data/part").symlink_to(tmp_path / "elsewhere")
    # Without a guard this would have no end.
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/round").symlink_to(tmp_path / "data/round")
    files = [
        path.relative_to(tmp_path / "data").as_posix() for path in image_files(tmp_path / "data")
    ]
    assert files == sorted([*inside, "part/5.png"])
    assert (
        _images.unread_note(tmp_path / "data")
        == "; not counted are 1 of kinds that are not read, such as 4.gif"
    )


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed over, its images would only be missing from a number."""
    for name in ("open", "shut", "shut2"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def refused(path: Path) -> Any:
        if path.name.startswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(_images.os, "scandir", refused)
    with pytest.raises(UserError) as caught:
        files_below(tmp_path)
    lines = [f"{tmp_path / name} cannot be read: Permission denied" for name in ("shut", "shut2")]
    assert str(caught.value).splitlines() == lines


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, linked: bool) -> None:
    """Opening a pipe waits for a writer that never comes, and a device has no end."""
    (tmp_path / "data").mkdir()
    pipe = tmp_path / ("elsewhere" if linked else "data/1.png")
    os.mkfifo(pipe)
    if linked:
        (tmp_path / "data/1.png").symlink_to(pipe)
    os.mkfifo(tmp_path / "data/agent")  # Beside the images, and none of them.
    line = f"{tmp_path / 'data/1.png'} must be a file, but it is a pipe, a socket or a device"
    for read in (image_files, files_below):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "data")
        assert str(caught.value) == line
    with pytest.raises(UserError, match="must be a file"):
        _images.content_hash(pipe)
    (tmp_path / "data/1.png").unlink()
    assert files_below(tmp_path / "data") == []


def test_a_tilde_without_a_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(
        UserError, match="~/cifar: ~ has no meaning here, since the home folder is not known"
    ):
        _images.expanded("~/cifar")


# --- damage ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 400), st.booleans())
def test_whatever_passes_as_whole_decodes_and_nothing_else(
    kind: str, missing: int, junk_behind: bool
) -> None:
    """A download that broke off, or one with bytes behind it, in every format: planning says just
    what decoding would.
    """
    source = encoded(photograph(seed=missing), kind)
    source = source[: len(source) - min(missing, len(source))] + (
        b"\0" * 30 if junk_behind else b""
    )
    image = Encoded("x.png", source)
    try:
        decode(image, 20, shrink=True)
        expected = True
    except UserError:
        expected = False
    assert (damaged_images([image], 20, shrink=True) == []) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "is not an image: it is empty; fetch it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "it is a git-lfs pointer; fetch the file itself with git lfs",
        ),
        (b"\n<!DOCTYPE html><html>", "it is a web page; fetch the file itself"),
        (b"junk", "is not an image; fetch it again or take it out"),
        (
            encoded(photograph().convert("CMYK"), "JPEG"),
            "must be an 8-bit grey or RGB image, got Pillow mode CMYK; fetch it",
        ),
        (
            encoded(Image.fromarray(np.zeros((20, 20), np.uint16))),
            "must be an 8-bit grey or RGB image, got Pillow mode I;16",
        ),
        (encoded(photograph(10, 10)), "must be square and at least 20 x 20 pixels, got 10 x 10"),
        (encoded(photograph(30, 20)), "must be square and at least 20 x 20 pixels, got 30 x 20"),
    ],
    ids=["empty", "lfs", "html", "junk", "cmyk", "16 bit", "small", "wide"],
)
def test_a_damaged_image_is_named_with_what_to_do(source: bytes, message: str) -> None:
    (line,) = damaged_images([Encoded("a/x.png", source)], 20, shrink=True)
    assert line.startswith("a/x.png ") and message in line and "\n" not in line


def test_all_damaged_images_are_listed_at_once_up_to_a_number() -> None:
    good = Encoded("good", encoded(photograph()))
    bad = [Encoded(f"bad{number}", b"junk") for number in range(300)]
    lines = damaged_images([good, *bad, good], 20, shrink=True)
    assert [line.split()[0] for line in lines[:20]] == [f"bad{number}" for number in range(20)]
    assert lines[20:] == ["... and 280 more images that cannot be used"]
    assert damaged_images([good] * 300, 20, shrink=True) == []


# --- the decoded copy -----------------------------------------------------------------------------


def test_two_data_sets_never_share_a_decoded_file(tmp_path: Path) -> None:
    """Asked for in turn by many, each gets its own pixels, and each is made once."""
    made: list[int] = []
    wrong: list[int] = []

    def ask(value: int) -> None:
        def batches() -> Any:
            made.append(value)
            yield np.full((2, 3, 4, 4), value, np.uint8)

        for _ in range(20):
            if (
                memory_mapped(tmp_path / "data.4.npy", f"key {value}", (2, 3, 4, 4), batches)
                != value
            ).any():
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in (1, 2, 3) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and sorted(made) == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_decoded_copy_that_cannot_be_written_is_a_fault_that_names_the_parameter(
    tmp_path: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    shape = (2, 3, 4, 4)
    (line,) = _images.decoding_faults(blocked / "data.4.npy", "key", shape) or []
    assert line.endswith("Not a directory; set decoded to a folder that can be written")
    assert _images.decoding_faults(tmp_path / "new/deep/data.4.npy", "key", shape) == []
    assert not (tmp_path / "new").exists() and list(tmp_path.iterdir()) == [blocked]
    memory_mapped(tmp_path / "data.4.npy", "key", shape, lambda: iter([np.zeros(shape, np.uint8)]))
    assert _images.decoding_faults(tmp_path / "data.4.npy", "key", shape) is None


# --- captions -------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path, save_photograph: Callable[..., None]) -> Callable[..., Path]:
    """A folder of the images ``files`` and a table that names ``rows``."""

    def make(files: list[str], rows: list[str], where: str = "metadata.jsonl") -> Path:
        for name in files:
            save_photograph(tmp_path / "data" / name)
        lines = "".join(f'{{"file_name": "{name}", "text": "a dog"}}\n' for name in rows)
        (tmp_path / "data" / where).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / where).write_text(lines, encoding="utf-8")
        return tmp_path / "data"

    return make


ABSENT = [
    ("b.jpg", "b.jpg", "are missing, the first is b.jpg"),
    (
        "b.gif",
        "b.gif",
        r"are of a kind that is not read \(JPEG, JPG, PNG, WEBP are\), the first is b.gif",
    ),
    ("B.JPG", "b.jpg", r"are missing under that name \(there is B.JPG\), the first is b.jpg"),
    ("sub/b.jpg", "b.jpg", r"\(there is sub/b.jpg\)"),
    ("b.jpg", "images/b.jpg", r"\(there is b.jpg\)"),
    ("sub/b.jpg", r"sub\\b.jpg", r"\(there is sub/b.jpg\)"),
    ("b.jpg", " b.jpg", r"\(there is b.jpg\)"),
    (".cache/b.jpg", ".cache/b.jpg", "lie in hidden folders or are hidden"),
    ("__MACOSX/b.jpg", "__MACOSX/b.jpg", "lie in hidden folders or are hidden"),
    ("b.jpg/c.txt", "b.jpg", "are folders"),
]


@pytest.mark.parametrize(("there", "named", "message"), ABSENT)
def test_why_an_image_of_the_table_is_not_found(
    table, there: str, named: str, message: str
) -> None:
    """ "Missing" was said of files that `ls` shows."""
    folder = table(["a.jpg"], ["a.jpg", named])
    if message != "are missing, the first is b.jpg":
        (folder / there).parent.mkdir(exist_ok=True)
        (folder / there).touch()
    with pytest.raises(UserError, match=message):
        read_captions(folder)


def test_a_name_in_the_other_unicode_spelling_is_the_file_it_can_only_be(table) -> None:
    """macOS writes decomposed names, tables hold composed ones; both look the same."""
    on_disk, in_table = (
        unicodedata.normalize("NFD", "caf\u00e9.jpg"),
        unicodedata.normalize("NFC", "caf\u00e9.jpg"),
    )
    assert on_disk != in_table
    (row,) = read_captions(table([on_disk], [in_table]))
    assert row.path.name == on_disk and row.path.is_file()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "train/metadata.jsonl",
            r"train/metadata.jsonl is not read: a table must be metadata.jsonl or metadata.csv "
            r"directly in",
        ),
        ("captions.csv", "captions.csv is not read"),
        ("Metadata.jsonl", "Metadata.jsonl is not read"),
        ("metadata.parquet", "metadata.parquet is not read"),
    ],
)
def test_a_table_that_is_not_read_is_spoken_of(table, where: str, message: str) -> None:
    with pytest.raises(
        UserError,
        match=f"1 images have no .txt with a caption beside them, the first is .*; {message}",
    ):
        read_captions(table(["train/a.jpg"], ["a.jpg"], where))


def test_all_faults_of_a_table_are_listed_at_once(table) -> None:
    folder = table(["a.jpg", "c.jpg"], ["b.jpg", "x.gif"])
    (folder / "x.gif").touch()
    with pytest.raises(UserError) as caught:
        read_captions(folder)
    assert len(str(caught.value).splitlines()) == 3
