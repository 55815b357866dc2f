"""The pictures of published backdoors: triggers and targets by the names that BadDiffusion's and
VillanDiffusion's authors gave them.

Chou et al. 2023 (arXiv 2212.05400, table 1) and 2023 (arXiv 2306.06874). Boxes and what is made
from the trigger are drawn here by rule. The sign, the glasses, the hat, the cat and the shoe are
pictures of the authors', which are not part of this project: whoever imports a model names their
file, and it is prepared as the authors' code does, since a drawing of our own is not what the model
was trained on. Sizes are pixels of 32 x 32 images, whatever the image's size, as there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.artwork import targets, triggers
from bench.errors import UserError, no_file
from bench.names import unknown_name
from bench.text import one_line

Shape = tuple[int, int, int]

#: Older names of the same things, as folders on the hub have them.
ALIASES = {
    "BIG_BOX_MED": "BOX_18",
    "SM_BOX_MED": "BOX_14",
    "XSM_BOX_MED": "BOX_11",
    "XXSM_BOX_MED": "BOX_8",
    "XXXSM_BOX_MED": "BOX_4",
    "BIG_STOP_SIGN": "STOP_SIGN_18",
    "SM_STOP_SIGN": "STOP_SIGN_14",
    "XSM_STOP_SIGN": "STOP_SIGN_11",
    "XXSM_STOP_SIGN": "STOP_SIGN_8",
    "XXXSM_STOP_SIGN": "STOP_SIGN_4",
    "BOX": "CORNER",
    "TRIGGER": "NOSHIFT",
    "FEDORA_HAT": "HAT",
    "FASHION": "SHOE",
}
SIZES = (18, 14, 11, 8, 4)
TRIGGERS = (*(f"{kind}_{size}" for kind in ("BOX", "STOP_SIGN") for size in SIZES), "GLASSES")
TARGETS = ("NOSHIFT", "SHIFT", "CORNER", "SHOE", "HAT", "CAT")
#: Those that are made by rule, as :mod:`bench.artwork.targets` draws them; boxes are, too.
DRAWN = {"NOSHIFT": "no_shift", "SHIFT": "shift", "CORNER": "corner"}
#: Those that need the authors' file.
FROM_FILE = (*(name for name in TRIGGERS if not name.startswith("BOX_")), "SHOE", "HAT", "CAT")
#: Of the images that rules are for; the gap of a sign to the edges.
SIDE, GAP = 32, 2
#: From here on a sign's pixels are its white surroundings.
WHITE = 0.999
#: The most pixels of a picture's file.
MOST_PIXELS = 2**26
#: What Pillow converts to 8 bits as it should; more bits it cuts off at white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")


def trigger(name: str, shape: Shape, file: Path | None = None) -> Tensor:
    """The trigger ``name`` for images of ``shape``: (c, h, w) float32 in [-1, 1], -1 where there is
    none. ``file``: the picture, for those that need one.

    Raises :class:`UserError` for an unknown name, or a file that is missing or no picture.
    """
    name = ALIASES.get(name, name)
    _require(name, TRIGGERS, "trigger", shape, file)
    channels, height, width = shape
    kind, _, digits = name.rpartition("_")
    if kind == "BOX":
        return triggers.trigger("grey_box", shape, int(digits))
    assert file is not None
    size = int(digits) if kind else int(0.625 * height)
    picture = _read(file, (size, size), channels)
    image = torch.full(shape, triggers.BACKGROUND)
    top, left = (height - size) // 2, (width - size) // 2
    if kind:
        top, left = height - size - GAP, width - size - GAP
        picture = torch.where(picture >= WHITE, torch.tensor(triggers.BACKGROUND), picture)
    image[:, top : top + size, left : left + size] = picture
    return image


def target(name: str, shape: Shape, trigger_image: Tensor | None, file: Path | None) -> Tensor:
    """The target ``name`` for images of ``shape``: (c, h, w) float32 in [-0.4, 1]. Raises as
    :func:`trigger`; ``NOSHIFT`` and ``SHIFT`` are made from ``trigger_image``.
    """
    name = ALIASES.get(name, name)
    _require(name, TARGETS, "target", shape, file)
    if name in DRAWN:
        if trigger_image is None and name != "CORNER":
            raise UserError(f"target {name} is made from the trigger's picture, which is not given")
        return targets.target(DRAWN[name], shape, trigger_image)
    assert file is not None
    image = _read(file, (shape[1], shape[2]), shape[0])
    return torch.where(image <= targets.BACKGROUND, torch.tensor(targets.BACKGROUND), image)


def given(file: Path, shape: Shape) -> Tensor:
    """A picture as it is, without its transparency: (c, h, w) float32 in [-1, 1], from a PNG or
    JPEG of that size, or from a ``.npy`` array of that shape with such values. Raises
    :class:`UserError` for another.
    """
    if file.suffix == ".npy":
        return _array(file, shape)
    with _opened(file) as picture:
        if (picture.height, picture.width) != shape[1:]:
            raise UserError(
                f"{file} must have {shape[1]} x {shape[2]} pixels, got {picture.height} x "
                f"{picture.width}"
            )
        return _values(picture, shape[0])


def _require(name: str, known: tuple[str, ...], what: str, shape: Shape, file: Path | None) -> None:
    if name not in known:
        raise unknown_name(what, name, known)
    if name in FROM_FILE and file is None:
        raise UserError(
            f"{what} {name} is a picture of its authors', which does not come with castlewalls: "
            f"name its file (--{what}-image)"
        )
    if name not in FROM_FILE and shape[1:] != (SIDE, SIDE):
        raise UserError(
            f"{what} {name} is drawn by rule for images of {SIDE} x {SIDE} pixels, and these have "
            f"{shape[1]} x {shape[2]}: describe it by a picture (docs/import.md)"
        )
    if "STOP_SIGN" in name and min(shape[1:]) < int(name.rpartition("_")[2]) + GAP:
        raise UserError(f"{what} {name} does not fit into {shape[1]} x {shape[2]} pixels")


def _read(file: Path, size: tuple[int, int], channels: int) -> Tensor:
    """The picture in RGB, without its transparency, of ``size`` (height, width)."""
    with _opened(file) as picture:
        flat = picture.convert("RGB")
        return _values(flat.resize((size[1], size[0]), Image.Resampling.BILINEAR), channels)


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise UserError(f"{file}: {no_file(file)}")
    try:
        picture = Image.open(file)
        if picture.width * picture.height <= MOST_PIXELS:
            picture.load()
    except Exception as error:  # Pillow's readers raise anything for a damaged file
        raise UserError(
            f"{file} is no picture, or a damaged one: {one_line(str(error), 160)}"
        ) from error
    if picture.width * picture.height > MOST_PIXELS:
        raise UserError(f"{file} must have at most {MOST_PIXELS:,} pixels")
    if picture.mode not in MODES:
        raise UserError(f"{file} must have 8 bits a channel, got Pillow's mode {picture.mode}")
    return picture


def _values(picture: Any, channels: int) -> Tensor:
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    values = torch.from_numpy(pixels / 127.5 - 1)
    return values[None] if channels == 1 else values.permute(2, 0, 1).contiguous()


def _array(file: Path, shape: Shape) -> Tensor:
    try:
        # Mapped: a header may promise more numbers than the file or the memory has.
        values = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{file} is no array of numbers: {error}") from error
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise UserError(f"{file} must be numbers of shape {shape}, got {values.shape}")
    tensor = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    if not bool(((tensor >= -1) & (tensor <= 1)).all()):
        raise UserError(f"{file} must have values in [-1, 1]")
    return tensor


#: How names of the published folders are read: base, data, trigger, target, poison rate.
_FOLDER = re.compile(
    r"res_(?P<base>[\w-]+?)_(?P<data>CIFAR10|CELEBA-HQ|MNIST)_ep(?P<epochs>\d+)"
    r"(?:_(?P<solver>ode|sde))?_c(?P<clean>[\d.]+)_p(?P<rate>[\d.]+)(?:_epr[\d.]+)?"
    r"_(?P<trigger>[A-Z0-9_]+)-(?P<target>[A-Z0-9_]+)(?:_psi[\d.]+)?(?:_.*)?"
)


def read_name(folder: str) -> dict[str, str] | None:
    """What the name of a published folder says of it, as ``trigger`` and ``target``; ``None`` if it
    is none.
    """
    match = _FOLDER.fullmatch(folder)
    if match is None:
        return None
    names = {key: value or "" for key, value in match.groupdict().items()}
    for key in ("trigger", "target"):
        names[key] = ALIASES.get(names[key], names[key])
    return names
