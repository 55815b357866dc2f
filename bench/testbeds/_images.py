"""Reading data sets of images from disk, as they are published: CIFAR binary records, parquet, folders of image files.

Nothing here unpickles. Images are uint8 (n, 3, height, width), in an order that depends on file names and rows alone.
Every defect of a file is a :class:`UserError` naming that file.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.errors import UserError

_log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
CIFAR_SIZE = 32
#: One CIFAR-10 record: a label byte, then the red, the green and the blue plane, each row by row.
CIFAR_RECORD = 1 + 3 * CIFAR_SIZE * CIFAR_SIZE
#: Modes that become 8-bit RGB without losing anything but transparency.
_MODES = frozenset({"RGB", "L", "P", "RGBA", "1", "LA"})
_DECODED_AT_ONCE = 256
_HASHED_BYTES = 512 * 2**20
_HASHED_FILES = 64


@dataclass(frozen=True)
class Encoded:
    """An image not decoded yet. ``name``: what an error calls it; ``source``: its file or bytes; ``label``: its class."""

    name: str
    source: Path | bytes
    label: int | None = None


def image_files(folder: Path) -> list[Path]:
    """Every PNG, JPEG or WebP below ``folder``, ordered by path relative to it. Hidden files are passed over."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def parquet_files(folder: Path) -> list[Path]:
    """Every parquet file in ``folder`` or in one of its folders, ordered by path."""
    return sorted(
        [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")], key=lambda path: path.relative_to(folder).as_posix()
    )


def read_cifar_binary(files: Sequence[Path], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's binary version: ``(images, labels)``, uint8 (n, 3, 32, 32) and int64 (n,) in 0..classes-1, in file order."""
    images, labels = [], []
    for path in files:
        size = path.stat().st_size
        if size == 0 or size % CIFAR_RECORD:
            raise UserError(
                f"{path} must hold whole records of {CIFAR_RECORD} bytes, got {size} bytes: unpack the archive again"
            )
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
        if int(records[:, 0].max()) >= classes:
            raise UserError(f"{path}: labels must be in 0..{classes - 1}, got {int(records[:, 0].max())}: this is not CIFAR-10")
        images.append(records[:, 1:].reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE))
        labels.append(records[:, 0].astype(np.int64))
    return np.concatenate(images), np.concatenate(labels)


def read_parquet(files: Sequence[Path]) -> Iterator[Encoded]:
    """The rows of a parquet export: a column ``img`` or ``image`` of encoded files, and perhaps a column ``label``."""
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"reading {files[0]} needs pyarrow: pip install pyarrow") from error
    for path in files:
        try:
            table = parquet.ParquetFile(path)
            column = next((name for name in ("img", "image") if name in table.schema_arrow.names), None)
            if column is None:
                raise UserError(f"{path}: a column named img or image is needed, got {', '.join(table.schema_arrow.names)}")
            columns = [column] + [name for name in ("label",) if name in table.schema_arrow.names]
            # Row by row through batches: a file may be larger than the memory.
            rows = (row for batch in table.iter_batches(_DECODED_AT_ONCE, columns=columns) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                value = row[column]
                content = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(content, bytes):
                    raise UserError(
                        f"{path}, row {number}: the image must be stored in the file as bytes, got {type(content).__name__}"
                    )
                yield Encoded(f"{path}, row {number}", content, row.get("label"))
        except (OSError, importlib.import_module("pyarrow").ArrowInvalid) as error:
            raise UserError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def read_folder(folder: Path) -> tuple[list[Encoded], list[str]]:
    """A folder of images, flat or with one folder a class: ``(images, class names)``, no names if it is flat.

    Classes are numbered in the order of their names, as torchvision's ``ImageFolder`` does.
    """
    files = image_files(folder)
    owners = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in files]
    names = sorted({name for name in owners if name is not None})
    if names and None in owners:
        loose = files[owners.index(None)].name
        raise UserError(f"{folder} must hold images or folders of them, one a class; got both: {loose} and {names[0]}/")
    number = {name: index for index, name in enumerate(names)}
    labels = [None if name is None else number[name] for name in owners]
    return [Encoded(str(path), path, label) for path, label in zip(files, labels, strict=True)], names


def decode(image: Encoded, size: int, *, shrink: bool, crop: bool = False) -> np.ndarray:
    """One image as uint8 (3, size, size).

    With ``shrink``, a larger square is reduced: by the area average if ``size`` divides its side, else by Pillow's antialiased
    bicubic. Nothing is enlarged, cropped or squeezed: that would be another data set. ``crop`` allows two of these, for photographs
    of any size: the central square is taken, and reduced like that or enlarged by bicubic.
    """
    try:
        with Image.open(io.BytesIO(image.source) if isinstance(image.source, bytes) else image.source) as opened:
            if opened.mode not in _MODES:
                raise UserError(f"{image.name} must be an 8-bit grey or RGB image, got Pillow mode {opened.mode}")
            pixels = opened.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"{image.name} is not an image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{image.name} is not a readable image: {error}") from error
    if crop:
        side, (width, height) = min(pixels.size), pixels.size
        left, top = (width - side) // 2, (height - side) // 2
        pixels = pixels.crop((left, top, left + side, top + side))
    width, height = pixels.size
    if (width, height) != (size, size):
        if not shrink and not crop:
            raise UserError(f"{image.name} must be {size} x {size} pixels, got {width} x {height}")
        if not crop and (width != height or width < size):
            raise UserError(f"{image.name} must be square and at least {size} x {size} pixels, got {width} x {height}")
        pixels = pixels.resize((size, size), Image.Resampling.BICUBIC) if width % size else pixels.reduce(width // size)
    return np.ascontiguousarray(np.asarray(pixels, dtype=np.uint8).transpose(2, 0, 1))


def decode_all(images: Iterable[Encoded], size: int, *, shrink: bool, what: str, crop: bool = False) -> Iterator[np.ndarray]:
    """:func:`decode` over many, on all cores, in order: batches of uint8 (n, 3, size, size). ``what`` names them in the log."""
    rest, done = iter(images), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(rest, _DECODED_AT_ONCE)):
            yield np.stack(list(pool.map(lambda image: decode(image, size, shrink=shrink, crop=crop), chunk)))
            done += len(chunk)
            _log.info("%s: %d images decoded", what, done)


def memory_mapped(
    target: Path, key: str, shape: tuple[int, int, int, int], batches: Callable[[], Iterator[np.ndarray]]
) -> np.ndarray:
    """A uint8 array of ``shape`` that lives on disk at ``target``, so that every process shares one copy of it.

    Made from ``batches`` on the first call, and again if ``key`` (a hash of what it is made from) or ``shape`` has changed;
    ``target`` with ``.json`` says both. Writing to the returned array changes neither the file nor what others see.
    Raises ``UserError`` if it cannot be written or if ``batches`` hold another number of images.
    """
    manifest = target.with_suffix(".json")
    expected = {"key": key, "shape": list(shape)}
    try:
        if json.loads(manifest.read_text()) == expected:
            held: np.ndarray = np.load(target, mmap_mode="c")
            if held.shape == shape and held.dtype == np.uint8:
                return held
    except (OSError, ValueError):
        pass  # Absent, cut short, or of another data set: made again below.
    needed = int(np.prod(shape))
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(target.parent).free) < needed:
            raise UserError(f"{target.parent} needs {needed / 1e9:.1f} GB for the decoded images, {free / 1e9:.1f} GB are free")
        with temporary.open("wb") as file:
            # Written in sequence, not through the map: a full disk must be an error, not a killed process.
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            written = 0
            for batch in batches():
                written += len(batch)
                file.write(np.ascontiguousarray(batch).data)
        if written != shape[0]:
            raise UserError(f"{target}: {shape[0]} images were declared, got {written}")
        os.replace(temporary, target)
        manifest_temporary = temporary.with_suffix(".json")
        manifest_temporary.write_text(json.dumps(expected))
        os.replace(manifest_temporary, manifest)
    except OSError as error:
        raise UserError(f"the decoded images cannot be written to {target}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # It, or the folder it would be in, may never have come to be.
            temporary.unlink()
    mapped: np.ndarray = np.load(target, mmap_mode="c")
    return mapped


@lru_cache(maxsize=256)
def _content_hash(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """sha256 of a file, hexadecimal; computed once for each size and time of modification."""
    state = path.stat()
    return _content_hash(path.resolve(), state.st_size, state.st_mtime_ns)


def files_fingerprint(root: Path, files: Sequence[Path]) -> str:
    """A hash of ``files`` by their paths below ``root``, wherever that is.

    A few small files count by their contents; many, or large ones, by their sizes alone, so that it stays cheap.
    """
    sizes = [path.stat().st_size for path in files]
    by_content = len(files) <= _HASHED_FILES and sum(sizes) <= _HASHED_BYTES
    listed = [
        (path.relative_to(root).as_posix(), size, content_hash(path) if by_content else "")
        for path, size in zip(files, sizes, strict=True)
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
