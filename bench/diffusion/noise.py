"""Random numbers by identity: every stream is identified by a seed and a purpose, and every sample
has its own stream.

So batch size, order of cells and number of workers change nothing, and the clean and the triggered
run of every cell start from the same noise (paired comparisons).

On a CPU a sample's stream is a torch generator. On a GPU, one generator per sample would cost a
launch each, and drawing thousands of large images on the CPU would take seconds per step; there it
is :class:`CounterStreams`, which draws for the whole batch at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_WORD = 2**32 - 1
#: Bounds memory: each counter gives four numbers.
COUNTERS_AT_ONCE = 2**22


def stream_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from ``seed`` and the stream's purpose; distinct purposes give independent
    streams.
    """
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for ``purpose``."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def torch_stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU torch generator for ``purpose``."""
    return torch.Generator().manual_seed(stream_seed(seed, *purpose))


class CounterStreams:
    """A stateless stream for each sample on any device: Philox4x32-10 (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3"). The key is the sample's own seed, the counter is
    (position in the image, draw).

    The integers are the same on every device. Normal numbers are computed from them by Box and
    Muller in float64 and then rounded, so devices differ by at most the last bit of a float32, and
    rarely.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], purpose: str, device: torch.device
    ) -> None:
        seeds = [stream_seed(seed, purpose, int(index)) for index in indices]
        self.seeds = torch.tensor(seeds, dtype=torch.int64).to(device)
        self.draws = 0

    def __len__(self) -> int:
        return len(self.seeds)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """The next draw of every stream: standard normal float32 (n, *shape)."""
        numbers = math.prod(shape)
        position = torch.arange(-(-numbers // 4), device=self.seeds.device)
        draw = torch.full_like(position, self.draws)
        self.draws += 1
        pieces = []
        for seeds in self.seeds.split(max(1, COUNTERS_AT_ONCE // len(position))):
            key = (seeds[:, None] & _WORD, (seeds[:, None] >> 32) & _WORD)
            words = philox(
                (
                    position[None],
                    draw[None],
                    torch.zeros_like(position)[None],
                    torch.zeros_like(position)[None],
                ),
                key,
            )
            pairs = [box_muller(words[0], words[1]), box_muller(words[2], words[3])]
            pieces.append(
                torch.stack([number for pair in pairs for number in pair], dim=-1)
                .flatten(1)[:, :numbers]
                .float()
            )
        return torch.cat(pieces).reshape(len(self), *shape)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of 32-bit words stored in broadcastable int64 tensors: four words for each
    counter under each key.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps at 64 bits and may be negative; both of its halves are still correct.
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((second >> 32) & _WORD) ^ c1 ^ k0,
            second & _WORD,
            ((first >> 32) & _WORD) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal float64 from two 32-bit words."""
    radius = ((a.double() + 0.5) / 2**32).log().mul(-2).sqrt()
    angle = (b.double() + 0.5) * (2 * math.pi / 2**32)
    return radius * angle.cos(), radius * angle.sin()


Streams = Sequence[torch.Generator] | CounterStreams


def sample_streams(
    seed: int, indices: Sequence[int], purpose: str = "sample", device: torch.device | None = None
) -> Streams:
    """A stream for each sample index: CPU generators, or counters on another device. The first draw
    is the initial noise, the following ones are the noise of the steps.
    """
    if device is not None and device.type != "cpu":
        return CounterStreams(seed, indices, purpose, device)
    return [torch_stream(seed, purpose, int(index)) for index in indices]


def initial_noise(streams: Streams, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 (n, *shape), row i from stream i, on the streams' device."""
    if isinstance(streams, CounterStreams):
        return streams.normal(shape)
    return torch.stack([torch.randn(shape, generator=stream) for stream in streams])
