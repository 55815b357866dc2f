"""Named arrays in one safetensors file, read as from a stranger."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Array = npt.NDArray[np.generic]
#: Bytes and arrays of a file, and letters of a name.
MAX_BYTES, MAX_ARRAYS, MAX_NAME = 16 * 2**20, 200, 200
_KINDS = ("bool", "uint8", "int64", "float32", "float64")


def write(arrays: Mapping[str, Array]) -> bytes:
    """The same arrays give the same bytes."""
    return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def read(data: bytes) -> dict[str, Array]:
    """What :func:`write` wrote. Raises ``ValueError`` for another file, other kinds of arrays, or
    a number that is not finite.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        arrays: dict[str, Array] = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"is no safetensors file ({type(error).__name__})") from None
    if len(arrays) > MAX_ARRAYS or any(len(name) > MAX_NAME for name in arrays):
        raise ValueError(f"must have at most {MAX_ARRAYS} arrays, got {len(arrays)}")
    for name, array in arrays.items():
        if array.dtype.name not in _KINDS:
            raise ValueError(f"{name!r} must be of {', '.join(_KINDS)}, got {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name!r} must have finite numbers, got NaN or infinity")
    return arrays
