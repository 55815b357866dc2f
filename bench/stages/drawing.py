"""Drawing what a query asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.contracts.data import Query
from bench.diffusion import sampling
from bench.diffusion.generator import Generator


def start_of(query: Query) -> sampling.Start:
    """What sampling begins with; the images that an adversary may draw on stay behind."""
    return sampling.Start(
        noise=query.noise,
        labels=query.labels,
        prompts=query.prompts,
        known=query.known,
        mask=query.mask,
    )


def draw(
    generator: Generator, query: Query, seed: int, settings: sampling.SamplerSettings, purpose: str
) -> Tensor:
    """The images (n, c, h, w) in [-1, 1]; what a stochastic sampler draws comes from the streams of
    that ``purpose``.
    """

    def start(noise: Tensor, indices: Sequence[int]) -> sampling.Start:
        rows = torch.as_tensor(list(indices))
        prompts = query.prompts and tuple(query.prompts[row] for row in indices)
        picked = {
            name: None if value is None else value[rows]
            for name in ("labels", "known", "mask")
            for value in [getattr(query, name)]
        }
        return sampling.Start(noise=query.noise[rows], prompts=prompts, **picked)

    return sampling.sample(
        generator, len(query.noise), seed, settings, start=start, purpose=purpose
    )
