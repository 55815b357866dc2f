"""Inpainting: a part of the picture is known, and stays.

After every step of the sampler the known part is put back, at that step's noise level (Song et al.
2021, arXiv 2011.13456, appendix I.2; Lugmayr et al. 2022, arXiv 2201.09865, eq. 8, without their
resampling). The noise is that of the sample's start, so that a picture remains a function of its
start. In the result the known part is exact to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.diffusion.generator import Generator


@dataclass(frozen=True)
class Known:
    """``latents``: the encoded known picture, ``noise``: the start, both (n, c, h, w); ``mask``:
    (n, 1, h, w) bool, true where the picture is known.
    """

    latents: Tensor
    noise: Tensor
    mask: Tensor

    @classmethod
    def of(cls, generator: Generator, images: Tensor, mask: Tensor, noise: Tensor) -> Known:
        """Encodes ``images`` (n, c, h, w) in [-1, 1] with their ``mask``; a latent is known where
        all its pixels are.
        """
        latents = generator.encode(images.to(generator.device))
        factor = mask.shape[-1] // latents.shape[-1]
        unknown = torch.nn.functional.max_pool2d((~mask).float(), factor) if factor > 1 else None
        small = mask if unknown is None else unknown == 0
        return cls(latents, noise.to(latents), small.to(latents.device))

    def put_back(self, x: Tensor, alpha_cumprod: float) -> Tensor:
        """``x`` (n, c, h, w) with the known part at ``alpha_cumprod`` = A^2; 1 means no noise."""
        known = alpha_cumprod**0.5 * self.latents + (1 - alpha_cumprod) ** 0.5 * self.noise
        return torch.where(self.mask, known, x)
