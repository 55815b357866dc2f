"""Checks what a plugin returns, and copies it out of the plugin's memory.

A wrong shape would be broadcast, infinity would be clamped to white, and a reused buffer would
change what was returned earlier; each would silently give a wrong number. Every error names the
plugin, the method, what was expected and what it returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.errors import ContractError

#: Names of dtypes in messages.
_NAMES = {torch.bool: "bool", torch.uint8: "uint8", torch.int64: "int64", torch.float32: "float32"}


def owner(plugin: object, method: str) -> str:
    """``clip_x0: stepped()``: the beginning of every error."""
    card = getattr(plugin, "card", None)
    return f"{getattr(card, 'name', type(plugin).__name__)}: {method}()"


def described(value: object) -> str:
    """A value in words: ``None``, ``a list``, ``(4, 3, 16, 16) float64 on cpu``."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        layout = (
            "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
        )
        return f"{tuple(value.shape)} {_dtype_name(value.dtype)}{layout} on {value.device}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def plain(value: object, who: str, wanted: str, copy: bool = True) -> Tensor:
    """``value`` as a dense tensor, without a gradient, of no subclass and, with ``copy``, with its
    own memory.

    Raises :class:`ContractError`.
    """
    if not isinstance(value, Tensor):
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    if (
        value.layout != torch.strided
        or value.is_quantized
        or value.is_nested
        or value.device.type == "meta"
    ):
        raise ContractError(
            f"{who} must return {wanted}, dense and with its values, got {described(value)}"
        )
    dense = value.detach().as_subclass(Tensor)
    return dense.clone() if copy else dense


def tensor(
    value: object,
    who: str,
    shape: Sequence[int | None],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    what: str = "a tensor",
    copy: bool = True,
) -> Tensor:
    """:func:`plain`, of exactly this shape (``None``: any number of rows) and dtype, on ``device``
    if one is given, and finite.

    Raises :class:`ContractError`. Nothing is converted: a float64 or a uint8 image in place of
    float32 often has the wrong range of values, too.
    """
    sides = ", ".join("n" if side is None else str(side) for side in shape) + (
        "," if len(shape) == 1 else ""
    )
    wanted = f"{what} ({sides}) {_dtype_name(dtype)}{f' on {device}' if device is not None else ''}"
    checked = plain(value, who, wanted, copy)
    fits = checked.ndim == len(shape) and all(
        side in (None, got) for side, got in zip(shape, checked.shape, strict=True)
    )
    if not fits or checked.dtype != dtype or (device is not None and checked.device != device):
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    require_finite(checked, who)
    return checked


def require_finite(values: Tensor, who: str) -> None:
    """Raises :class:`ContractError` if ``values`` hold NaN or infinity; the error says in how many
    rows.
    """
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        rows = (
            (~torch.isfinite(values)).reshape(len(values), -1).any(1)
            if values.ndim
            else ~torch.isfinite(values)[None]
        )
        raise ContractError(
            f"{who} must return finite numbers, got NaN or infinity in {int(rows.sum())} of "
            f"{len(rows)} rows"
        )


def _dtype_name(dtype: torch.dtype) -> str:
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))
