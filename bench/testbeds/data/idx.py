"""Reading IDX, the format of MNIST and of the data sets that took its place: packed by gzip or not.

Four bytes (two zeros, the type of the values, the number of dimensions), each dimension as a
big-endian whole number of four bytes, then the values. Here values are bytes, as in all of these
data sets. http://yann.lecun.com/exdb/mnist describes it.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.testbeds.data.images import SPECIAL, is_special

#: The type of unsigned bytes.
BYTES = 8
#: More rows than any of these data sets has: what is read is bounded before it is read.
MOST_ROWS = 1_000_000
PACKED = ".gz"


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a file, uint8 (n, *shape), n in 1..:data:`MOST_ROWS`. Raises ``UserError`` naming
    the file, what was expected and what it holds.
    """
    if is_special(path):
        raise UserError(f"{path} {SPECIAL}")
    try:
        with gzip.open(path) if path.suffix == PACKED else path.open("rb") as file:
            rows = _rows_in(path, file.read(4 + 4 * (1 + len(shape))), shape)
            expected = rows * int(np.prod(shape, dtype=np.int64))
            # One byte more, so that a file that goes on is noticed; never more than that.
            values = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if len(values) != expected:
        got = "more" if len(values) > expected else f"{len(values):,}"
        raise UserError(
            f"{path}: {rows:,} rows must be {expected:,} bytes, got {got}: download it again"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(rows, *shape)


def rows_hash(paths: Sequence[tuple[Path, tuple[int, ...]]]) -> str:
    """A hash of what :func:`read_idx` reads from ``paths``, each with the shape of its rows: the
    same for a packed file and an unpacked one, wherever they are. Raises as it does.
    """
    try:
        states = [path.stat() for path, _ in paths]
    except OSError as error:
        raise _unreadable(Path(str(error.filename)), error) from error
    hashes = [
        _hash(path.resolve(), shape, state.st_size, state.st_mtime_ns)
        for (path, shape), state in zip(paths, states, strict=True)
    ]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=64)
def _hash(path: Path, shape: tuple[int, ...], size: int, modified: int) -> str:
    """Computed once for each size and time of modification."""
    rows = read_idx(path, shape)
    return hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).hexdigest()


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{path} cannot be read: {reason}")


def _rows_in(path: Path, header: bytes, shape: tuple[int, ...]) -> int:
    """How many rows a file's header says it has."""
    magic = bytes((0, 0, BYTES, 1 + len(shape)))
    if header[:4] != magic:
        raise UserError(
            f"{path}: an IDX file of bytes in {1 + len(shape)} dimensions must begin with "
            f"{magic.hex()}, got {header[:4].hex() or 'nothing'}"
        )
    if len(header) < (length := 4 + 4 * (1 + len(shape))):
        raise UserError(
            f"{path}: the header must be {length} bytes, got {len(header)}: download it again"
        )
    rows, *sides = (int(side) for side in np.frombuffer(header, dtype=">u4", offset=4))
    if tuple(sides) != shape:
        expected, got = (" x ".join(map(str, some)) for some in (shape, sides))
        raise UserError(f"{path}: a row must be {expected}, got {got}")
    if not 1 <= rows <= MOST_ROWS:
        raise UserError(f"{path}: the rows must be from 1 to {MOST_ROWS:,}, got {rows:,}")
    return rows
