"""UFID: noise with a trigger in it leads to the target even when it is disturbed. Images are drawn
from it and from disturbed copies. The score is their mean similarity.

Guan, Hu, Li, Vullikanti: "UFID: A Unified Framework for Black-Box Input-Level Backdoor Detection on
Diffusion Models", AAAI 2025, arXiv 2404.01101. The input is disturbed several times, each time an
image is drawn, and the score is the mean similarity of all pairs of these images (the paper's graph
density), in [-1, 1]: **higher is more suspicious**. The paper disturbs noise by small Gaussian
noise, of which we know no scale; the code that is published is for prompts.

Here the noise keeps its variance: of ``samples`` starts the first is x_T itself, the others are

    (x_T + eta e_k) / sqrt(1 + eta^2),    eta = ``perturbation``.

Without the root the disturbed noise is louder than any user's, and what differs is not the trigger
alone. With it, a trigger g arrives as g / sqrt(1 + eta^2): an eta that is too large takes it away.

Deviations, and why:

- Similarity is the cosine of pixels in [-1, 1] around the mean image of ``references`` that the
  model draws from plain noise, where the paper has CLIP's. The testbed's features are what judges
  images, and no plugin is handed these. Without the mean all cosines would be near 1.
- The method is one for a black box, and the card asks for weights all the same: what a query's
  sampler draws comes from streams by the query's rows, so that under a sampler that adds noise a
  score would depend on the row's number. Here all rows are drawn with the same streams, and are
  disturbed by the same e_k. No gradient or activation is looked at; ``sampler`` and ``steps`` are
  the detector's own.

A model that draws the same from any noise is suspicious on clean noise too. And a trigger is odd
noise to an honest model as well, from which it may draw odd images that are alike: the honest
model's row says how much of an AUROC is the backdoor's. A row costs ``samples`` times ``steps``
images through the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import normalize

from bench.diffusion.generator import Generator
from bench.diffusion.noise import sample_streams
from bench.diffusion.sampling import SamplerSettings, denoise
from bench.plugin import Access, Card, NoiseDetector, Paper

#: Values denoised at a time: 640 images of 3 x 16 x 16.
ELEMENTS_AT_ONCE = 640 * 768
#: Images in one forward pass, always as many, since a network's rounding depends on their number.
NETWORK_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class UFID(NoiseDetector):
    """See above; ``samples`` is 4 or 5 in the published code."""

    card: ClassVar[Card] = Card(
        name="ufid",
        summary="starting noise that leads to similar images even when it is disturbed",
        paper=Paper(
            title=(
                "UFID: A Unified Framework for Black-Box Input-Level Backdoor Detection on "
                "Diffusion Models"
            ),
            authors="Zihan Guan, Mengxuan Hu, Sheng Li, Anil Vullikanti",
            year=2025,
            arxiv="2404.01101",
            bibtex=(
                "@inproceedings{guan2025ufid, title={{UFID}: A Unified Framework for Black-Box "
                "Input-Level Backdoor Detection on Diffusion Models}, author={Guan, Zihan and Hu, "
                "Mengxuan and Li, Sheng and Vullikanti, Anil}, booktitle={AAAI}, year={2025}}"
            ),
        ),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("perturbation",)

    perturbation: Annotated[float, Gt(0)] = 0.5
    samples: Annotated[int, Ge(2)] = 4
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    steps: Annotated[int, Ge(2)] = 50
    references: Annotated[int, Ge(1)] = 64

    @torch.no_grad()
    def score(self, noise: Tensor, access: Access) -> Tensor:
        generator, rng = access.generator, access.rng
        shape = tuple(noise.shape[1:])
        number = int(rng.integers(2**31))
        added = torch.from_numpy(rng.standard_normal((self.samples - 1, *shape), dtype="float32"))
        plain = torch.from_numpy(rng.standard_normal((self.references, *shape), dtype="float32"))
        streams = [self.samples + row for row in range(self.references)]
        middle = self._drawn(generator, plain, streams, number).mean(0)
        # Whole batches: what is left of one is filled up.
        at_once = max(1, ELEMENTS_AT_ONCE // plain[0].numel() // NETWORK_BATCH) * NETWORK_BATCH
        rows = -(-at_once // self.samples)
        scores = []
        for some in noise.detach().cpu().float().split(rows) if len(noise) else ():
            starts = disturbed(some, added, self.perturbation).flatten(0, 1)
            images = self._drawn(generator, starts, [*range(self.samples)] * len(some), number)
            scores.append(similarity((images - middle).reshape(len(some), self.samples, -1)))
            done = sum(len(score) for score in scores)
            access.progress(done, len(noise), "noises")
        return torch.cat([noise.new_zeros(0).cpu().float(), *scores])

    def _drawn(self, of: Generator, starts: Tensor, streams: list[int], number: int) -> Tensor:
        """Images (n, c, h, w) in [-1, 1], on the CPU, of ``starts``; row i's sampler draws from
        the stream ``streams[i]``.
        """
        settings = SamplerSettings(
            name=self.sampler, num_inference_steps=self.steps, network_batch=NETWORK_BATCH
        )
        own = sample_streams(number, streams, self.card.name, of.device)
        return of.decode(denoise(of, starts, own, settings)).clamp(-1, 1).cpu()


def disturbed(noise: Tensor, added: Tensor, strength: float) -> Tensor:
    """(n, k + 1, c, h, w): each row of ``noise`` (n, c, h, w) itself, then mixed with each of
    ``added`` (k, c, h, w).
    """
    mixed = (noise[:, None] + strength * added) / (1 + strength**2) ** 0.5
    return torch.cat([noise[:, None], mixed], 1)


def similarity(vectors: Tensor) -> Tensor:
    """The mean cosine of all pairs of a row's ``vectors`` (n, k, d), k at least 2: (n,)."""
    unit = normalize(vectors, dim=2)
    count = vectors.shape[1]
    upper = torch.triu_indices(count, count, offset=1)
    mean: Tensor = (unit @ unit.mT)[:, upper[0], upper[1]].mean(1)
    return mean
