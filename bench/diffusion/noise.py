"""Random numbers by identity: every stream is named by a seed and a purpose, and every sample has a stream of its own.

So batch size, order of cells and number of workers change nothing, and the clean and the triggered run of every cell start from the
same noise (paired comparisons).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from ``seed`` and what the stream is for; distinct purposes give independent streams."""
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for ``purpose``."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def torch_stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU torch generator for ``purpose``."""
    return torch.Generator().manual_seed(stream_seed(seed, *purpose))


def sample_streams(seed: int, indices: Sequence[int], purpose: str = "sample") -> list[torch.Generator]:
    """One CPU generator for each sample index. Its first draw is the initial noise, the next ones the noise of the steps."""
    return [torch_stream(seed, purpose, int(index)) for index in indices]


def initial_noise(streams: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 (n, *shape), row i from stream i."""
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])
