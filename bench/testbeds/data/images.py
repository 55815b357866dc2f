"""Reading data sets of images from disk, as they are published: CIFAR binary records, parquet,
folders of image files.

Nothing here unpickles. Images are uint8 (n, 3, height, width), in an order that depends on file
names and rows alone. Photographs are turned as their EXIF orientation says, and what is transparent
stands on white. Every defect of a file is a :class:`UserError` naming that file; where many may be
wrong, a line for each.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import itertools
import json
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.errors import UserError

_log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
#: Images as well, but not read here.
UNREAD = frozenset(
    (
        ".gif .bmp .tif .tiff .avif .heic .heif .jfif .jpe .jp2 .jxl .ppm .pgm .tga .svg .ico .dng "
        ".cr2 .nef"
    ).split()
)
#: Folders that archives and file servers leave in a data set.
JUNK = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
CIFAR_SIZE = 32
#: One CIFAR-10 record: a label byte, then the red, the green and the blue plane, each row by row.
CIFAR_RECORD = 1 + 3 * CIFAR_SIZE * CIFAR_SIZE
#: Modes that become 8-bit RGB without losing anything; transparency is laid on white.
_MODES = frozenset({"RGB", "L", "P", "RGBA", "1", "LA"})
_DECODED_AT_ONCE = 256
_READERS = max(8, os.cpu_count() or 1)
#: How many lines are printed for one kind of fault; the others are counted.
_MOST_LINES = 20
_LFS = b"version https://git-lfs"
_HASHED_BYTES = 512 * 2**20
_HASHED_FILES = 64


@dataclass(frozen=True)
class Encoded:
    """An image not decoded yet. ``name``: what an error calls it; ``source``: its file or bytes;
    ``label``: its class.
    """

    name: str
    source: Path | bytes
    label: int | None = None


def expanded(path: str) -> Path:
    """A path as a person writes it. Raises ``UserError`` where ``~`` has no meaning."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: ~ has no meaning here, since the home folder is not known; write the path "
            f"in full"
        ) from error


def capped(lines: Sequence[str], what: str) -> list[str]:
    """The first of ``lines``, and how many more there are of ``what``."""
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"... and {more} more {what}"] if more > 0 else [])]


def faults_of(checks: Iterable[Callable[[], object]]) -> list[str]:
    """What those checks have to say that fail, a line each."""
    lines: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines += str(error).splitlines()
        except OSError as error:
            lines.append(_unreadable(error.filename, error))
    return lines


def _unreadable(path: object, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}"


def refuse_shut(folders: Iterable[Path]) -> None:
    """Raises ``UserError`` for the first of ``folders`` that is there and cannot be listed: a
    search would find nothing in it.
    """
    for folder in folders:
        try:
            os.scandir(folder).close()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(_unreadable(folder, error)) from error


def is_special(path: Path) -> bool:
    """Whether something is there, or where its link leads, that is neither a file nor a folder: a
    pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


SPECIAL = "must be a file, but it is a pipe, a socket or a device"


def passed_over(name: str) -> bool:
    """Whether a file or folder of that name is no part of a data set: hidden, or left by an archive
    or a file server.
    """
    return name.startswith(".") or name in JUNK


def files_below(folder: Path) -> list[Path]:
    """Every file below ``folder``, in linked folders too, ordered by path relative to it. What is
    hidden, junk or no file is passed over, with all it holds. Raises ``UserError`` naming each
    folder that cannot be read and each image that is a pipe or a device.
    """
    files: list[Path] = []
    refused: list[str] = []
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        current, above = waiting.pop()
        try:
            status = current.stat()
            entries = list(os.scandir(current))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused.append(_unreadable(current, error))
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:  # A link to a folder it lies in.
            continue
        for entry in entries:
            if passed_over(entry.name):
                continue
            with contextlib.suppress(OSError):  # A link in a circle is no folder.
                if entry.is_dir():
                    waiting.append((Path(entry.path), above | {here}))
                    continue
            path = Path(entry.path)
            if is_special(path):  # Reading it would wait for ever.
                refused += [f"{path} {SPECIAL}"] * (path.suffix.lower() in SUFFIXES)
                continue
            files.append(path)
    if refused:
        raise UserError("\n".join(capped(sorted(refused), f"in {folder}")))
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def image_files(folder: Path) -> list[Path]:
    """Every PNG, JPEG or WebP of :func:`files_below`."""
    return [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]


def unread_note(folder: Path) -> str:
    """The end of a message about a wrong number of images: files below ``folder`` of kinds that are
    not read; empty without any.
    """
    unread = [path for path in files_below(folder) if path.suffix.lower() in UNREAD]
    return (
        f"; not counted are {len(unread)} of kinds that are not read, such as {unread[0].name}"
        if unread
        else ""
    )


def parquet_files(folder: Path) -> list[Path]:
    """Every parquet file in ``folder`` or in one of its folders, ordered by path; hidden ones are
    passed over.
    """
    files = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    return sorted(
        (path for path in files if not any(map(passed_over, path.relative_to(folder).parts))),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def read_cifar_binary(files: Sequence[Path], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's binary version: ``(images, labels)``, uint8 (n, 3, 32, 32) and int64 (n,) in
    0..classes-1, in file order.
    """
    records = [_cifar_records(path, classes) for path in files]
    images = [array[:, 1:].reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE) for array in records]
    return np.concatenate(images), np.concatenate(
        [array[:, 0].astype(np.int64) for array in records]
    )


def _cifar_records(path: Path, classes: int) -> np.ndarray:
    """The records of a file, mapped: uint8 (n, 3073)."""
    try:
        size = path.stat().st_size
        if size == 0 or size % CIFAR_RECORD:
            raise UserError(
                f"{path} must hold whole records of {CIFAR_RECORD} bytes, got {size} bytes: "
                f"unpack the archive again"
            )
        records: np.ndarray = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, CIFAR_RECORD)
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error
    if int(records[:, 0].max()) >= classes:
        raise UserError(
            f"{path}: labels must be in 0..{classes - 1}, got {int(records[:, 0].max())}: this "
            f"is not CIFAR-10"
        )
    return records


def cifar_labels(files: Sequence[Path], classes: int) -> np.ndarray:
    """The labels of :func:`read_cifar_binary` alone."""
    return np.concatenate([_cifar_records(path, classes)[:, 0].astype(np.int64) for path in files])


def _parquet(path: Path) -> tuple[Any, str, str | None]:
    """An open file, and the names of its columns of images and of labels, if it has any. Raises
    ``UserError`` for columns of another type.
    """
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    types: Any = importlib.import_module("pyarrow.types")
    try:
        table = parquet.ParquetFile(path)
    except (OSError, importlib.import_module("pyarrow").ArrowInvalid) as error:
        raise UserError(
            f"{path} is not a readable parquet file: {_hint(path) or str(error).splitlines()[0]}"
        ) from error
    schema, names = table.schema_arrow, table.schema_arrow.names
    column = next((name for name in ("img", "image") if name in names), None)
    if column is None:
        raise UserError(f"{path}: a column named img or image is needed, got {', '.join(names)}")
    kind = schema.field(column).type
    inner = (
        kind.field("bytes").type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        else kind
    )
    if not any(holds(inner) for holds in (types.is_binary, types.is_large_binary, types.is_null)):
        raise UserError(
            f"{path}: the column {column} must hold encoded images as bytes, got {kind}"
        )
    label = "label" if "label" in names else None
    if label and not types.is_integer(schema.field(label).type):
        got = schema.field(label).type
        raise UserError(
            f"{path}: the column label must hold whole numbers, got {got}; write the classes' "
            f"numbers there"
        )
    return table, column, label


def read_parquet(files: Sequence[Path]) -> Iterator[Encoded]:
    """The rows of a parquet export: a column ``img`` or ``image`` of encoded files, and perhaps a
    column ``label``.
    """
    for path in files:
        table, column, label = _parquet(path)
        with _readable(path):
            # Row by row through batches: a file may be larger than the memory.
            batches = table.iter_batches(
                _DECODED_AT_ONCE, columns=[column, *([label] if label else [])]
            )
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                value = row[column]
                content = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(content, bytes):
                    raise UserError(
                        f"{path}, row {number}: the image must be stored in the file as bytes, "
                        f"got {type(content).__name__}"
                    )
                yield Encoded(f"{path}, row {number}", content, row[label] if label else None)


def parquet_columns(path: Path) -> list[str]:
    """The names of a file's columns."""
    return [str(name) for name in _parquet(path)[0].schema_arrow.names]


def parquet_labels(files: Sequence[Path]) -> tuple[int, list[Any]]:
    """``(rows, labels)``, no labels if a file has none: read without the images."""
    rows, labels = 0, []
    for path in files:
        table, _, label = _parquet(path)
        rows += table.metadata.num_rows
        if label:
            with _readable(path):
                labels += [
                    row[label]
                    for batch in table.iter_batches(columns=[label])
                    for row in batch.to_pylist()
                ]
    return rows, labels


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What pyarrow raises for a damaged file, as one line that names it."""
    try:
        yield
    except (OSError, importlib.import_module("pyarrow").ArrowInvalid) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable parquet file: {reason}") from error


def read_folder(
    folder: Path, number: Callable[[list[str]], Mapping[str, int]]
) -> tuple[list[Encoded], list[str]]:
    """A folder of images, flat or with one folder a class: ``(images, class names)``, no names if
    it is flat.

    ``number`` gives each of the folders' names, in order, its class.
    """
    files = image_files(folder)
    owners = [
        path.relative_to(folder).parts[0] if path.parent != folder else None for path in files
    ]
    names = sorted({name for name in owners if name is not None})
    if names and None in owners:
        loose = files[owners.index(None)].name
        raise UserError(
            f"{folder} must hold images or folders of them, one a class; got both: {loose} and "
            f"{names[0]}/"
        )
    numbers = number(names) if names else {}
    labels = [None if name is None else numbers[name] for name in owners]
    return [
        Encoded(str(path), path, label) for path, label in zip(files, labels, strict=True)
    ], names


def decode(image: Encoded, size: int, *, shrink: bool, crop: bool = False) -> np.ndarray:
    """One image as uint8 (3, size, size), upright, on white.

    With ``shrink``, a larger square is reduced: by the area average if ``size`` divides its side,
    else by Pillow's antialiased bicubic. Nothing is enlarged, cropped or squeezed: that would be
    another data set. ``crop`` allows two of these, for photographs of any size: the central square
    is taken, and reduced like that or enlarged by bicubic.
    """
    with _opened(image, size, shrink, crop) as opened:
        pixels = _on_white(_upright(opened, image.name))
    if crop:
        side, (width, height) = min(pixels.size), pixels.size
        left, top = (width - side) // 2, (height - side) // 2
        pixels = pixels.crop((left, top, left + side, top + side))
    width = pixels.size[0]
    if width != size:
        pixels = (
            pixels.resize((size, size), Image.Resampling.BICUBIC)
            if width % size
            else pixels.reduce(width // size)
        )
    return np.ascontiguousarray(np.asarray(pixels, dtype=np.uint8).transpose(2, 0, 1))


@contextlib.contextmanager
def _opened(image: Encoded, size: int, shrink: bool, crop: bool) -> Iterator[Image.Image]:
    """The image with its header read; errors in it, and in what is read of it inside, are of its
    name.
    """
    try:
        with Image.open(
            io.BytesIO(image.source) if isinstance(image.source, bytes) else image.source
        ) as opened:
            if opened.mode not in _MODES:
                raise UserError(
                    f"{image.name} must be an 8-bit grey or RGB image, got Pillow mode "
                    f"{opened.mode}"
                )
            width, height = opened.size
            if (width, height) != (size, size) and not crop:
                if not shrink:
                    raise UserError(
                        f"{image.name} must be {size} x {size} pixels, got {width} x {height}"
                    )
                if width != height or width < size:
                    raise UserError(
                        f"{image.name} must be square and at least {size} x {size} pixels, got "
                        f"{width} x {height}"
                    )
            yield opened
    except UnidentifiedImageError as error:
        hint = _hint(image.source)
        raise UserError(f"{image.name} is not an image{f': {hint}' if hint else ''}") from error
    except PermissionError as error:
        raise UserError(_unreadable(image.name, error)) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{image.name} is not a readable image: {error}") from error


def _upright(opened: Image.Image, name: str) -> Image.Image:
    """As a camera's orientation tag says it is to be seen."""
    opened.load()
    try:
        return ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow raises whatever reading broken tags happens to raise.
        raise UserError(
            f"{name} has EXIF data that cannot be read, so which way is up is not known: {error}"
        ) from error


def _on_white(image: Image.Image) -> Image.Image:
    """8-bit RGB. What is transparent is white, as web pages show it; else it would be whatever
    colour lies hidden there.
    """
    if image.mode not in ("RGBA", "LA") and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB")


def _hint(source: Path | bytes) -> str:
    """What a file is that should be an image or a table, and what to do; empty where that is not
    known.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                source = file.read(256)
    except OSError:
        return ""
    if not source.strip(b"\0"):
        return "it is empty; fetch it again"
    if source.startswith(_LFS):
        return "it is a git-lfs pointer; fetch the file itself with git lfs pull"
    if source.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is a web page; fetch the file itself"
    return ""


def damaged_images(
    images: Iterable[Encoded], size: int, *, shrink: bool, crop: bool = False
) -> list[str]:
    """A line for each of the first images that :func:`decode` would refuse, and how many more.
    Opens every header and looks at how each file ends, decoding only those that seem cut short:
    damage in the middle of a file is found when it is decoded.
    """
    rest, lines = iter(images), []
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(itertools.islice(rest, _DECODED_AT_ONCE)):
            damage = pool.map(lambda image: _damage(image, size, shrink, crop), chunk)
            lines += [
                line
                if "fetch" in line or " cannot be read: " in line
                else f"{line}; fetch it again or take it out"
                for line in damage
                if line
            ]
    return capped(lines, "images that cannot be used")


def _damage(image: Encoded, size: int, shrink: bool, crop: bool) -> str:
    try:
        with _opened(image, size, shrink, crop) as opened:
            opened.getexif()
            kind = opened.format
        if not _ends_well(image.source, kind):
            decode(image, size, shrink=shrink, crop=crop)
    except UserError as error:
        return str(error)
    except OSError as error:
        return _unreadable(image.name, error)
    except Exception as error:  # As in _upright.
        return f"{image.name} has EXIF data that cannot be read: {error}"
    return ""


def _ends_well(source: Path | bytes, kind: str | None) -> bool:
    """Whether a file ends as one of its kind does; ``False`` for kinds not known here."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        head, length = file.read(12), file.seek(0, os.SEEK_END)
        file.seek(-min(length, 12), os.SEEK_END)
        tail = file.read()
    if kind == "WEBP":
        # Padded to an even length.
        return 0 <= length - 8 - int.from_bytes(head[4:8], "little") <= 1
    return (kind == "JPEG" and tail.endswith(b"\xff\xd9")) or (
        kind == "PNG" and tail[4:8] == b"IEND"
    )


def decode_all(
    images: Iterable[Encoded], size: int, *, shrink: bool, what: str, crop: bool = False
) -> Iterator[np.ndarray]:
    """:func:`decode` over many, on all cores, in order: batches of uint8 (n, 3, size, size).
    ``what`` names them in the log.
    """
    rest, done = iter(images), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(rest, _DECODED_AT_ONCE)):
            yield np.stack(
                list(pool.map(lambda image: decode(image, size, shrink=shrink, crop=crop), chunk))
            )
            done += len(chunk)
            _log.info("%s: %d images decoded", what, done)


def decoded_file(target: Path, key: str, shape: tuple[int, int, int, int]) -> Path:
    """Where the array of ``shape`` made from what ``key`` says is kept: ``target`` with their hash
    in its name, so that two data sets never share a file.
    """
    digest = hashlib.sha256(json.dumps([key, shape]).encode()).hexdigest()
    return target.with_name(f"{target.stem}.{digest[:16]}{target.suffix}")


def _existing(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray | None:
    """The array at ``path``; ``None`` if there is none, or it is cut short."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="c")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def decoding_faults(target: Path, key: str, shape: tuple[int, int, int, int]) -> list[str] | None:
    """Why :func:`memory_mapped` could not write its file, a line each; ``None`` if it is there
    already, so that nothing is decoded.
    """
    if _existing(decoded_file(target, key, shape), shape) is not None:
        return None
    folder = next(parent for parent in target.parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        _refuse_full(folder, int(np.prod(shape)))
    except OSError as error:
        return [_unwritable(target, error)]
    except UserError as error:
        return [str(error)]
    return []


def _refuse_full(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB for the decoded images, {free / 1e9:.1f} GB "
            f"are free; set decoded to a folder with "
            "more room"
        )


def _unwritable(target: Path, error: OSError) -> str:
    return (
        f"the decoded images cannot be written to {target.parent}: {error.strerror}; set "
        f"decoded to a folder that can be written"
    )


def memory_mapped(
    target: Path,
    key: str,
    shape: tuple[int, int, int, int],
    batches: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray:
    """A uint8 array of ``shape`` that lives on disk at :func:`decoded_file`, so that every process
    shares one copy of it.

    Made from ``batches`` on the first call, by one process while others wait; ``key`` says what it
    is made from. Writing to the returned array changes neither the file nor what others see. Raises
    ``UserError`` if it cannot be written or if ``batches`` hold another number of images.
    """
    path = decoded_file(target, key, shape)
    if (array := _existing(path, shape)) is not None:
        return array
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path):
            array = _existing(path, shape)  # Another may have made it meanwhile.
            return _written(path, shape, batches) if array is None else array
    except OSError as error:
        raise UserError(_unwritable(path, error)) from error


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Lets one process at a time make the file at ``path``. Where there are no locks, as on some
    network folders, several may: each writes its own, and the last one's name stays, with the same
    content.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    lock = FileLock(lock_path, mode=0o666)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
        # Who waited on it finds the file made, or makes it in turn.
        with contextlib.suppress(OSError):
            lock_path.unlink()


def _written(
    path: Path, shape: tuple[int, int, int, int], batches: Callable[[], Iterator[np.ndarray]]
) -> np.ndarray:
    """The array, opened before others can see it: what has the name afterwards may be another's."""
    _refuse_full(path.parent, int(np.prod(shape)))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            # Written in sequence, not through the map: a full disk must be an error, not a killed
            # process.
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            written = 0
            for batch in batches():
                written += len(batch)
                file.write(np.ascontiguousarray(batch).data)
            file.flush()
            os.fsync(file.fileno())
        if written != shape[0]:
            raise UserError(f"{path}: {shape[0]} images were declared, got {written}")
        made: np.ndarray = np.load(temporary, mmap_mode="c")
        os.replace(temporary, path)
        return made
    finally:
        # It, or the folder it would be in, may never have come to be.
        with contextlib.suppress(OSError):
            temporary.unlink()


@lru_cache(maxsize=256)
def _content_hash(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """sha256 of a file, hexadecimal; computed once for each size and time of modification."""
    if is_special(path):
        raise UserError(f"{path} {SPECIAL}")
    try:
        state = path.stat()
        return _content_hash(path.resolve(), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UserError(_unreadable(path, error)) from error


def files_fingerprint(root: Path, files: Sequence[Path]) -> str:
    """A hash of ``files`` by their paths below ``root``, wherever that is.

    A few small files count by their contents; many, or large ones, by their sizes alone, so that it
    stays cheap.
    """
    try:
        sizes = [path.stat().st_size for path in files]
    except OSError as error:
        raise UserError(_unreadable(error.filename, error)) from error
    by_content = len(files) <= _HASHED_FILES and sum(sizes) <= _HASHED_BYTES
    listed = [
        (path.relative_to(root).as_posix(), size, content_hash(path) if by_content else "")
        for path, size in zip(files, sizes, strict=True)
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
