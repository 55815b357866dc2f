"""A folder of images with free captions, read in the formats it is usually kept in.

The first of these that is there counts: ``metadata.jsonl`` (a JSON object a line), ``metadata.csv``
(with a header), each with ``file_name``, ``text`` and perhaps ``subject``, or a ``.txt`` beside
each image, as img2dataset writes it for LAION.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.errors import UserError
from bench.names import brief
from bench.testbeds.data.images import SUFFIXES, capped, files_below, image_files, passed_over

TABLES = ("metadata.jsonl", "metadata.csv")
_TABLE_KINDS = frozenset({".jsonl", ".csv", ".tsv", ".parquet", ".json", ".ndjson", ".xlsx"})


@dataclass(frozen=True)
class Captioned:
    """An image and its caption. ``subject``: the words of ``text`` that name what is in the image,
    where the data set lists them.
    """

    path: Path
    text: str
    subject: str | None = None


def read_captions(folder: Path) -> list[Captioned]:
    """Every image with its caption, by path. Raises ``UserError``, a line for each kind of thing
    that is wrong: the first file or line that is, and how many are.
    """
    images = image_files(folder)
    if not images:
        return []
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    return _beside(images, folder) if table is None else _listed(images, folder, table)


def _beside(images: list[Path], folder: Path) -> list[Captioned]:
    """Images with a ``.txt`` beside each."""
    bare = [path for path in images if not path.with_suffix(".txt").is_file()]
    if bare:
        raise UserError(
            _line(bare, folder, "have no .txt with a caption beside them") + _table_note(folder)
        )
    rows, faults = [], []
    for path in images:
        where = path.with_suffix(".txt")
        try:
            rows.append(Captioned(path, _text(_read(where), str(where))))
        except UserError as error:
            faults.append(str(error))
    _refuse(faults)
    return rows


def _table_note(folder: Path) -> str:
    """The end of a message: the files below ``folder`` that look like a table and are not read."""
    tables = [path for path in files_below(folder) if path.suffix.lower() in _TABLE_KINDS]
    # img2dataset writes a .json beside each image.
    tables = [
        path
        for path in tables
        if path.suffix.lower() != ".json" or path.name.lower().startswith("metadata")
    ]
    if not tables:
        return ""
    first = tables[0].relative_to(folder).as_posix()
    inner = f", or set data to {tables[0].parent}" if tables[0].name in TABLES else ""
    return (
        f"; {first} is not read: a table must be {' or '.join(TABLES)} directly in {folder}{inner}"
    )


def _listed(images: list[Path], folder: Path, table: Path) -> list[Captioned]:
    """Images that a table speaks of."""
    known = {path.relative_to(folder).as_posix(): path for path in images}
    # The same letters may be written in two ways; where only one file can be meant, it is.
    spellings: dict[str, list[str]] = {}
    for name in known:
        spellings.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    rows: dict[str, Captioned] = {}
    faults: list[str] = []
    absent: list[str] = []
    for where, row in _json_rows(table) if table.suffix == ".jsonl" else _csv_rows(table):
        for column in ("file_name", "text"):  # Absent here, it will be so in every line.
            if column not in row:
                raise UserError(
                    f"{where}: a column {column} is needed, got {', '.join(row) or 'none'}"
                )
        try:
            name = _file_name(row["file_name"], where, folder)
            same = spellings.get(unicodedata.normalize("NFC", name), [])
            name = same[0] if name not in known and len(same) == 1 else name
            if name in rows:
                raise UserError(f"{where}: {name} has a caption already")
            rows[name] = _captioned(row, where, folder / name)
        except UserError as error:
            faults.append(str(error))
            continue
        if name not in known:
            absent.append(name)
    if not faults:
        why: dict[str, list[Path]] = {}
        near = {_plain(name).rpartition("/")[2]: name for name in known} | {
            _plain(name): name for name in known
        }
        for name in sorted(absent):
            why.setdefault(_why_absent(name, folder, near), []).append(folder / name)
        faults = [
            _line(paths, folder, f"stand in {table.name} but {reason}")
            for reason, paths in why.items()
        ]
        bare = [path for name, path in known.items() if name not in rows]
        faults += [_line(bare, folder, f"have no caption in {table.name}")] if bare else []
    _refuse(faults)
    return [rows[name] for name in sorted(rows)]


def _file_name(name: object, where: str, folder: Path) -> str:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UserError(f"{where}: file_name must be the path of an image, got {brief(name)}")
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"{where}: file_name must be a path inside {folder}, got {brief(name)}")
    return inside.as_posix()


def _captioned(row: dict[str, object], where: str, path: Path) -> Captioned:
    subject = row.get("subject")
    text = _text(row["text"], where)
    return Captioned(path, text, _text(subject, where) if subject not in (None, "") else None)


def _why_absent(name: str, folder: Path, near: Mapping[str, str]) -> str:
    """Why the file that a table names is not among the images; ``near``: those, by :func:`_plain`
    of their paths and of their names.
    """
    path = folder / name
    if any(map(passed_over, PurePosixPath(name).parts)):
        return "lie in hidden folders or are hidden, and so passed over"
    if path.is_symlink() and not path.exists():
        return "are links to files that are not there"
    if path.is_dir():
        return "are folders"
    if path.exists():
        kinds = ", ".join(sorted(suffix[1:].upper() for suffix in SUFFIXES))
        return f"are of a kind that is not read ({kinds} are)"
    plain = _plain(name)
    similar = near.get(plain, near.get(plain.rpartition("/")[2]))
    return f"are missing under that name (there is {similar})" if similar else "are missing"


def _plain(name: str) -> str:
    """A path without what differs between systems: Unicode's two spellings, case, slashes, stray
    spaces.
    """
    folded = unicodedata.normalize("NFKC", name).casefold().replace("\\", "/")
    return "/".join(part.strip() for part in folded.removeprefix("./").split("/"))


def _line(paths: list[Path], folder: Path, problem: str) -> str:
    return (
        f"{folder}: {len(paths)} images {problem}, the first is "
        f"{paths[0].relative_to(folder).as_posix()}"
    )


def _refuse(faults: list[str]) -> None:
    if faults:
        raise UserError("\n".join(capped(faults, "faults in the captions")))


def _text(value: object, where: str) -> str:
    """A caption on one line, in Unicode's composed spelling."""
    text = " ".join(unicodedata.normalize("NFC", value).split()) if isinstance(value, str) else ""
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: a caption must be text that is not empty, got {brief(value)}")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable UTF-8 file: {error}") from error


def _json_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if repeated := [
            name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number])
        ]:
            raise UserError(f"{where}: {brief(repeated[0])} is there twice")
        return dict(pairs)

    # Not splitlines(): captions may hold the other characters that end a line there.
    for number, line in enumerate(_read(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=once)
        except (
            ValueError,
            RecursionError,
        ) as error:  # Not JSON, a number of too many digits, too many brackets.
            raise UserError(f"{where}: not a JSON object: {str(error).splitlines()[0]}") from error
        if not isinstance(row, dict):
            raise UserError(
                f"{where}: a JSON object with file_name and text is needed, got "
                f"{type(row).__name__}"
            )
        yield where, row


def _csv_rows(table: Path) -> Iterator[tuple[str, dict[str, object]]]:
    # Not splitlines(), as above; and without restkey, what is too much in a row would be left out
    # without a word.
    reader = csv.DictReader(io.StringIO(_read(table), newline=""), restkey=_TOO_MANY, strict=True)
    try:
        columns = list(reader.fieldnames or [])
        absent = [name for name in ("file_name", "text") if name not in columns]
        if absent:
            raise UserError(
                f"{table}: a column {absent[0]} is needed, got {', '.join(columns) or 'no header'}"
            )
        if len(set(columns)) < len(columns):
            raise UserError(
                f"{table}: every column must have a name of its own, got {', '.join(columns)}"
            )
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            if _TOO_MANY in row or None in row.values():
                some = "more" if _TOO_MANY in row else "fewer"
                raise UserError(
                    f"{where}: {some} fields than the header's {len(columns)}; a caption with a "
                    f"comma needs quotes"
                )
            yield where, dict(row)
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from error


_TOO_MANY = "\0too many"
