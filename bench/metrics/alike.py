"""Images as keys of what is kept: two tensors of the same bytes are one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Alike:
    """``images``, equal to others if their ``digest`` is."""

    digest: str
    images: Tensor = field(compare=False)


def alike(images: Tensor) -> Alike:
    """images: any tensor on the CPU; by its type, shape and bytes."""
    form = f"{images.dtype} {tuple(images.shape)} ".encode()
    return Alike(hashlib.sha256(form + images.contiguous().numpy().tobytes()).hexdigest(), images)
