"""The context in which a network runs in less than float32. Schedules, losses, optimisers and samples stay float32 everywhere."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to ``precision`` (a key of :data:`DTYPES`) on ``device``; float32 leaves everything as it is."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "float32")
