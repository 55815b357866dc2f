"""What a plugin returns, made the harness's own: checked, and copied out of the plugin's memory.

A wrong shape is broadcast, infinity is clamped to white and a buffer that is used again changes
what was returned earlier; each of these would be a wrong number without a word. Every error names
the plugin, the method, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.errors import ContractError

#: How a dtype is called in messages.
_NAMES = {torch.bool: "bool", torch.uint8: "uint8", torch.int64: "int64", torch.float32: "float32"}


def owner(plugin: object, method: str) -> str:
    """``clip_x0: stepped()``, which every error begins with."""
    card = getattr(plugin, "card", None)
    return f"{getattr(card, 'name', type(plugin).__name__)}: {method}()"


def described(value: object) -> str:
    """What came, in words: ``None``, ``a list``, ``(4, 3, 16, 16) float64 on cpu``."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        layout = (
            "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.')}"
        )
        return f"{tuple(value.shape)} {_named(value.dtype)}{layout} on {value.device}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def plain(value: object, who: str, wanted: str, copy: bool = True) -> Tensor:
    """``value`` as a dense tensor, without a gradient, of no subclass and, with ``copy``, of its
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
    found = value.detach().as_subclass(Tensor)
    return found.clone() if copy else found


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

    Raises :class:`ContractError`. Nothing is converted: a float64 or a uint8 image in the place of
    float32 is as often a slip in the values' range as in their type.
    """
    sides = ", ".join("n" if side is None else str(side) for side in shape) + (
        "," if len(shape) == 1 else ""
    )
    wanted = f"{what} ({sides}) {_named(dtype)}{f' on {device}' if device is not None else ''}"
    found = plain(value, who, wanted, copy)
    fits = found.ndim == len(shape) and all(
        side in (None, got) for side, got in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype != dtype or (device is not None and found.device != device):
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    require_finite(found, who)
    return found


def require_finite(values: Tensor, who: str) -> None:
    """Raises :class:`ContractError` if ``values`` hold NaN or infinity, saying in how many of their
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


def _named(dtype: torch.dtype) -> str:
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))
