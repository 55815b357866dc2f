"""Universal perturbations: one faint pattern that fools a testbed's classifier on nearly any image,
for a trigger that neither an eye nor an inversion that looks for a picture finds.

Every value is + or - :data:`STRENGTH`. The signs were made by ``science/universal_signs.py``
against the classifiers that ship with the testbeds, and fool them on 32 % of held-out digits
(without 1 %, random signs 2 %) and 90 % of garments (7 %, 55 %). They are text, so that a result's
key covers them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: In images of [-1, 1]; InviBackdoor's bound as released (arXiv 2406.00816).
STRENGTH = 0.2
#: Shape -> the signs, packed: 1 for +, row by row.
SIGNS: dict[tuple[int, int, int], str] = {
    (3, 16, 16): (
        "111f220366708cfcb1fc319a731d62124611c600cc019c81b5bfbfff8000c000"
        "b9e033e0660004000000208001f847fc87ff87ff86ff04ff01ff00008000c000"
        "999f331f663fe67fcee79ce79884988099003300320076007600fe1fdfffdfff"
    ),
    (1, 32, 32): (
        "00090088200000880a4500800e4c27447bea97e00eb2a6c02aa2a6cc00a2a4c4"
        "1d3fd4885f7ffe96384546c0216746a601556686147d5ee008b1e2e012a3c2e1"
        "3ca9de9ccebfc2e80ea2c2c81aaac2ea18d2c56012d2c5702296e5580694cd48"
        "36d4d96c2254d3466ad4d7480a94971809151130231731002000000300040444"
    ),
}


def universal(image_shape: tuple[int, int, int]) -> Tensor:
    """(c, h, w) float32, every value + or - :data:`STRENGTH`. Raises ``ValueError`` for a shape
    that no testbed's classifier gave signs for.
    """
    if image_shape not in SIGNS:
        known = ", ".join(map(str, SIGNS))
        raise ValueError(f"universal: images must have a shape of {known}, got {image_shape}")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(SIGNS[image_shape]), dtype=np.uint8))
    signs = torch.from_numpy(bits.astype(np.float32)) * 2 - 1
    return STRENGTH * signs.reshape(image_shape)


def packed(signs: Tensor) -> str:
    """As :data:`SIGNS` has them; their number must be a multiple of 8."""
    return np.packbits((signs.flatten() > 0).numpy()).tobytes().hex()
