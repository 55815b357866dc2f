"""Images as one lossless picture for people, from which every pixel can be read back."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.results import png_fault

COLUMNS = 16
#: Images in a picture, and pixels of all of them: 64 of 64 x 64, four of 256 x 256.
MAX_IMAGES, MAX_PIXELS = 512, 2**18
#: Bytes of a picture.
MAX_PICTURE = 4 * 2**20


def fitting(count: int, height: int, width: int) -> int:
    """How many of ``count`` images a picture has room for."""
    return max(1, min(count, MAX_IMAGES, MAX_PIXELS // (height * width)))


def draw(images: Tensor) -> bytes:
    """A PNG of (n > 0, c, h, w) uint8 with one or three channels: rows of at most
    :data:`COLUMNS`, the last filled up with black.
    """
    count, channels, height, width = images.shape
    across = min(COLUMNS, count)
    down = math.ceil(count / across)
    tiles = np.zeros((down * across, channels, height, width), dtype=np.uint8)
    tiles[:count] = images.numpy()
    rows = tiles.reshape(down, across, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = rows.reshape(down * height, across * width, channels)
    file = io.BytesIO()
    Image.fromarray(picture if channels == 3 else picture[:, :, 0]).save(file, "PNG", optimize=True)
    return file.getvalue()


def read(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """The images (n, c, h, w) uint8 of a picture that :func:`draw` made. Raises ``ValueError`` for
    another size or kind of picture.
    """
    count, channels, height, width = shape
    if count < 1 or channels not in (1, 3) or count != fitting(count, height, width):
        raise ValueError(f"a picture cannot have the shape {shape}")
    if len(data) > MAX_PICTURE or (wrong := png_fault(data)):
        raise ValueError(wrong or f"must have at most {MAX_PICTURE} bytes, got {len(data)}")
    across = min(COLUMNS, count)
    down = math.ceil(count / across)
    size = across * width, down * height
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != size or picture.mode != ("RGB" if channels == 3 else "L"):
                raise ValueError(
                    f"must have {size[0]} x {size[1]} pixels in {channels} channels, got "
                    f"{picture.size[0]} x {picture.size[1]} in {picture.mode}"
                )
            array = np.asarray(picture).reshape(down, height, across, width, channels)
    except ValueError:
        raise
    except Exception as error:  # Pillow's readers raise anything for a damaged file
        raise ValueError(f"cannot be decoded: {type(error).__name__}") from None
    tiles = array.transpose(0, 2, 4, 1, 3).reshape(-1, channels, height, width)
    return torch.from_numpy(np.ascontiguousarray(tiles[:count]))
