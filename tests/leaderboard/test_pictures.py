"""What a page holds of a picture is what the record holds: no pixel more, none less."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from leaderboard.pictures import Picture, embedded

PIXELS = arrays(
    np.uint8,
    st.sampled_from([(4, 8), (4, 8, 3), (1, 1, 3), (5, 7), (6, 12, 4)]),
    elements=st.sampled_from([0, 1, 128, 255]),
)
QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def written(pixels: np.ndarray, path: Path, scale: int) -> bytes:
    """A PNG of ``pixels``, each ``scale`` wide and high, as a store has it."""
    large = pixels.repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(large).save(path, optimize=True)
    return path.read_bytes()


def inside(picture: Picture) -> bytes:
    return base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))


@QUIET
@given(pixels=PIXELS, scale=st.integers(1, 5))
def test_a_picture_is_embedded_smaller_and_shown_as_it_was(
    pixels: np.ndarray, scale: int, tmp_path: Path
) -> None:
    stored = written(pixels, tmp_path / "a.png", scale)
    picture = embedded(tmp_path, "a", "a.png")
    height, width = scale * pixels.shape[0], scale * pixels.shape[1]
    assert (picture.width, picture.height) == (width, height)
    with Image.open(io.BytesIO(inside(picture))) as small:
        drawn = np.asarray(small.resize((width, height), Image.Resampling.NEAREST))
    assert np.array_equal(drawn, pixels.repeat(scale, 0).repeat(scale, 1))
    assert len(inside(picture)) <= len(stored)


def test_what_the_store_enlarged_weighs_a_fifth_less(tmp_path: Path) -> None:
    """The board of ``make leaderboard`` was over its 4 MB with the store's own files in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 128, 3), dtype=np.uint8)
    stored = written(pixels, tmp_path / "a.png", 3)
    assert len(inside(embedded(tmp_path, "a", "a.png"))) < 0.8 * len(stored)


@QUIET
@given(st.data())
def test_a_broken_picture_breaks_no_board(tmp_path: Path, data: st.DataObject) -> None:
    """It is embedded all the same, and no error of the decoder gets out."""
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    stored = bytearray(written(pixels, tmp_path / "a.png", 3))
    for where, byte in data.draw(
        st.lists(
            st.tuples(st.integers(8, len(stored) - 1), st.integers(0, 255)), min_size=1, max_size=4
        )
    ):
        stored[where] = byte
    (tmp_path / "a.png").write_bytes(stored[: data.draw(st.integers(24, len(stored)))])
    assert embedded(tmp_path, "a", "a.png").uri
