"""A sheet of the records' own picture strips: one row per setting, one column per treatment."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from science.findings import Line

#: The role in a record of a strip of the adversary's class.
STRIP = "target"
LEFT, TOP, GAP = 150, 30, 8
_INK, _PAPER = (32, 34, 40), (255, 255, 255)
#: A strip is eight small images; anything larger is not one of ours.
_LARGEST = 2048


def grid(rows: Sequence[tuple[str, Sequence[Line | None]]], columns: Sequence[str]) -> bytes | None:
    """A PNG, or ``None`` without a picture. Each cell shows the strip of its first seed; a missing
    one stays blank.
    """
    strips = [(name, [_strip(line) for line in lines]) for name, lines in rows]
    pictures = [picture for _, cells in strips for picture in cells if picture]
    if not pictures:
        return None
    width, height = (
        max(picture.width for picture in pictures),
        max(picture.height for picture in pictures),
    )
    sheet = Image.new(
        "RGB", (LEFT + len(columns) * (width + GAP), TOP + len(strips) * (height + GAP)), _PAPER
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, name in enumerate(columns):
        pen.text((LEFT + index * (width + GAP), 8), name, _INK, font)
    for row, (name, cells) in enumerate(strips):
        y = TOP + row * (height + GAP)
        pen.text((8, y + height // 2 - 8), name, _INK, font)
        for index, picture in enumerate(cells):
            if picture:
                sheet.paste(picture, (LEFT + index * (width + GAP), y))
    written = io.BytesIO()
    sheet.save(written, "PNG", optimize=True)
    return written.getvalue()


def _strip(line: Line | None) -> Image.Image | None:
    """The cell's samples of the adversary's class, from the record of its first seed that has a
    picture.
    """
    for entry in line.cell.with_status("ok") if line else []:
        treatment = "" if entry.record.defense.name == "none" else entry.record.defense.name
        path = entry.record.picture(STRIP, treatment)
        file = (entry.folder / path).resolve() if path else None
        # A record is untrusted: it must not point outside its folder, and the file may not be a
        # picture.
        if file is None or not file.is_relative_to(entry.folder.resolve()) or not file.is_file():
            continue
        try:
            with Image.open(file, formats=["PNG"]) as picture:
                if max(picture.size) <= _LARGEST:
                    strip: Image.Image = picture.convert("RGB")
                    return strip
        except (OSError, ValueError, SyntaxError):
            continue
    return None
