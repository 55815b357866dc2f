"""Draws docs/contact-sheet.png: every trigger and target at 16, 32 and 256 pixels. Run it as
``python -m science.contact_sheet``.

Black is -1 and white is 1. Small drawings are magnified without smoothing; those of 256 pixels are
shown at half their size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from torch import Tensor

from bench.artwork import targets, triggers

OUTPUT = Path(__file__).parents[1] / "docs" / "contact-sheet.png"
SIDES = (16, 32, 256)
#: Appendix H's trigger sizes, on 32 pixels.
SIZES = (4, 8, 11, 14, 18)
#: The triggers that the first two targets are shown for.
SHIFTED = ("grey_box", "stop_sign")

_CELL, _MARGIN, _LINE = 128, 12, 34
_INK, _PAPER = (32, 34, 40), (250, 250, 250)

Row = tuple[str, list[tuple[str, Tensor]]]


def photograph(side: int) -> Tensor:
    """The middle of scikit-learn's china.jpg, averaged down: (3, side, side) float32 in [-1, 1]."""
    photo = Image.fromarray(load_sample_image("china.jpg")).crop((130, 0, 510, 380))
    pixels = np.array(photo.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def rows() -> list[Row]:
    """What is on the sheet, row by row: a heading and labelled images (3, h, w)."""
    sheet: list[Row] = []
    for name in triggers.NAMES:
        drawn = [(f"{side} x {side}", triggers.trigger(name, (3, side, side))) for side in SIDES]
        drawn += [
            (f"32 x 32, size {size}", triggers.trigger(name, (3, 32, 32), size)) for size in SIZES
        ]
        sheet.append((f"trigger {name}", drawn))
    for side in SIDES:
        shape = (3, side, side)
        drawn = [
            (f"{name} of {of}", targets.target(name, shape, triggers.trigger(of, shape)))
            for of in SHIFTED
            for name in targets.FROM_TRIGGER
        ]
        drawn += [
            (name, targets.target(name, shape))
            for name in targets.NAMES
            if name not in targets.FROM_TRIGGER
        ]
        sheet.append((f"targets, {side} x {side}", drawn))
    stamped: list[tuple[str, Tensor]] = []
    for side in (32, 256):
        photo = photograph(side)
        stamped.append((f"photograph, {side} x {side}", photo))
        for name in triggers.NAMES:
            stamped.append(
                (
                    f"with {name}",
                    triggers.stamp(photo[None], triggers.trigger(name, (3, side, side)))[0],
                )
            )
    sheet.append(
        (
            "stamped, channel by channel: where only a trigger's red is above -1, green and blue "
            "stay",
            stamped,
        )
    )
    return sheet


def draw() -> Image.Image:
    """The whole sheet."""
    content = rows()
    width = _MARGIN + max(len(images) for _, images in content) * (_CELL + _MARGIN)
    height = _MARGIN + len(content) * (_CELL + 2 * _LINE)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    heading, label = ImageFont.load_default(15), ImageFont.load_default(12)
    y = _MARGIN
    for title, images in content:
        pen.text((_MARGIN, y), title, _INK, heading)
        for column, (name, image) in enumerate(images):
            x = _MARGIN + column * (_CELL + _MARGIN)
            sheet.paste(_picture(image), (x, y + 24))
            pen.text((x, y + 24 + _CELL + 3), name, _INK, label)
        y += _CELL + 2 * _LINE
    return sheet


def _picture(image: Tensor) -> Image.Image:
    pixels = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    smaller = picture.width > _CELL
    return picture.resize(
        (_CELL, _CELL), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    )


if __name__ == "__main__":
    draw().save(OUTPUT, optimize=True)
    print(f"wrote {OUTPUT} ({OUTPUT.stat().st_size // 1024} KiB)")
