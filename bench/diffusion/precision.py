"""Running a network in less than float32. Schedules, losses, optimisers and samples stay float32
everywhere.
"""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to ``precision`` (a key of :data:`DTYPES`) on ``device``; no effect for float32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "float32")


def exact_float32() -> None:
    """Makes float32 exact and cuDNN deterministic on a GPU: no TF32, whose products have float16's
    ten bits and which torch uses in convolutions by default, and no algorithm that is chosen by
    timing or whose sums depend on the order in which threads end.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def gpu_numerics() -> dict[str, Any]:
    """The current switches that affect a GPU's numbers, as JSON values."""
    return {
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.version(),
        "cuda": torch.version.cuda,
    }
