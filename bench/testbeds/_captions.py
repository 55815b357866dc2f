"""A folder of images with free captions, read in the formats it is usually kept in.

The first of these that is there counts: ``metadata.jsonl`` (a JSON object a line), ``metadata.csv`` (with a header), each with
``file_name``, ``text`` and perhaps ``subject``, or a ``.txt`` beside each image, as img2dataset writes it for LAION.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.errors import UserError
from bench.testbeds._images import image_files

TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Captioned:
    """An image and what it is said to show. ``subject``: the words of ``text`` that name it, where somebody says so."""

    path: Path
    text: str
    subject: str | None = None


def caption_files(folder: Path) -> list[Path]:
    """The files that hold the captions."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    return tables[:1] or [path.with_suffix(".txt") for path in image_files(folder)]


def read_captions(folder: Path) -> list[Captioned]:
    """Every image with its caption, by path. Raises ``UserError`` naming the first file or line that is wrong, and how many are."""
    images = image_files(folder)
    if not images:
        return []
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        _refuse(
            [path for path in images if not path.with_suffix(".txt").is_file()],
            folder,
            "have no .txt with a caption beside them",
        )
        return [Captioned(path, _text(_read(path.with_suffix(".txt")), str(path.with_suffix(".txt")))) for path in images]
    rows: dict[str, Captioned] = {}
    for where, row in _json_rows(table) if table.suffix == ".jsonl" else _csv_rows(table):
        name = row.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}: file_name must be the path of an image, got {name!r}")
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{where}: file_name must be a path inside {folder}, got {name!r}")
        if inside.as_posix() in rows:
            raise UserError(f"{where}: {name} has a caption already")
        subject = row.get("subject")
        rows[inside.as_posix()] = Captioned(
            folder / inside, _text(row.get("text"), where), _text(subject, where) if subject not in (None, "") else None
        )
    known = {path.relative_to(folder).as_posix() for path in images}
    _refuse([rows[name].path for name in sorted(rows) if name not in known], folder, f"stand in {table.name} but are missing")
    _refuse(
        [path for path in images if path.relative_to(folder).as_posix() not in rows], folder, f"have no caption in {table.name}"
    )
    return [rows[name] for name in sorted(rows)]


def _refuse(paths: list[Path], folder: Path, problem: str) -> None:
    if paths:
        raise UserError(f"{folder}: {len(paths)} images {problem}, the first is {paths[0].relative_to(folder).as_posix()}")


def _text(value: object, where: str) -> str:
    """A caption on one line."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text:
        raise UserError(f"{where}: a caption must be text that is not empty, got {value!r}")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable UTF-8 file: {error}") from error


def _json_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    # Not splitlines(): captions may hold the other characters that end a line there.
    for number, line in enumerate(_read(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON object: {str(error).splitlines()[0]}") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON object with file_name and text is needed, got {type(row).__name__}")
        yield where, row


def _csv_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    reader = csv.DictReader(_read(table).splitlines(keepends=True))
    try:
        absent = [name for name in ("file_name", "text") if name not in (reader.fieldnames or [])]
        if absent:
            raise UserError(f"{table}: a column {absent[0]} is needed, got {', '.join(reader.fieldnames or ['no header'])}")
        for row in reader:
            yield f"{table}, line {reader.line_num}", dict(row)
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from error
