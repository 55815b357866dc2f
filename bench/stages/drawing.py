"""Drawing what a query asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.contracts.data import Query
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.reverse import Reverse


def start_of(
    query: Query, way: Callable[[], Reverse] | None = None
) -> Callable[[Tensor, Sequence[int]], sampling.Start]:
    """What sampling begins with, for the sample indices it asks about; the images that an adversary
    may draw on stay behind. ``way``: makes the sampler of each batch, if it is not the user's.
    """

    def start(noise: Tensor, indices: Sequence[int]) -> sampling.Start:
        rows = torch.as_tensor(list(indices))
        prompts = query.prompts and tuple(query.prompts[row] for row in indices)
        picked: dict[str, Tensor | None] = {
            name: None if value is None else value[rows]
            for name in ("labels", "known", "mask")
            for value in [getattr(query, name)]
        }
        reverse = None if way is None else way()
        return sampling.Start(noise=query.noise[rows], prompts=prompts, reverse=reverse, **picked)

    return start


def draw(
    generator: Generator, query: Query, seed: int, settings: sampling.SamplerSettings, purpose: str
) -> Tensor:
    """The images (n, c, h, w) in [-1, 1]; what a stochastic sampler draws comes from the streams of
    that ``purpose``.
    """
    start, count = start_of(query), len(query.noise)
    return sampling.sample(generator, count, seed, settings, start=start, purpose=purpose)
