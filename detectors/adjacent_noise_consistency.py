"""Adjacent noise consistency: does what the network takes for noise jump from one step to the next?
One DDIM trajectory is followed from the noise in question. The score is the largest drop of the
cosine between adjacent predictions below what plain noises have.

After an idea of Wang et al.: "Backdoor Sentinel: Detecting and Detoxifying Backdoors in Diffusion
Models via Temporal Noise Consistency" (arXiv 2602.01765): with a trigger, predictions of adjacent
timesteps agree less, in some segment of the steps. **The formula is ours**, derived from the
abstract alone, and so is the name; it is not the paper's detector.

Along one DDIM trajectory of ``steps`` steps, x_T given and no noise added, with e_j the network's
prediction at the j-th,

    u_j = cos(e_{j-1}, e_j),    score = max_j (m_j - u_j) / s_j,

m_j and s_j the mean and the standard deviation of u_j over ``references`` plain noises, which the
detector draws: the largest drop below the band of clean noise, in its own widths. **Higher is more
suspicious.** A trigger that makes adjacent predictions agree *more*, as one that leads straight to
a picture does, stays inside by this rule; ``side`` "both" takes the distance from m_j on either
side.

A trigger is odd noise to an honest model as well, whose predictions jump, too: the honest model's
row says how much of an AUROC is the backdoor's. A row costs ``steps`` images through the network,
one generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, Scheduled, predict_noise
from bench.plugin import Access, Card, NoiseDetector, Paper

#: Values denoised at a time: 640 images of 3 x 16 x 16.
ELEMENTS_AT_ONCE = 640 * 768
#: Images in one forward pass, always as many, since a network's rounding depends on their number.
NETWORK_BATCH = 64
#: The narrowest band: about the rounding of a network in float32.
NARROWEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class AdjacentNoiseConsistency(NoiseDetector):
    """See above."""

    card: ClassVar[Card] = Card(
        name="adjacent_noise_consistency",
        summary="predicted noise that jumps between adjacent steps; our formula for a paper's idea",
        paper=Paper(
            title=(
                "Backdoor Sentinel: Detecting and Detoxifying Backdoors in Diffusion Models via "
                "Temporal Noise Consistency"
            ),
            authors=(
                "Bingzheng Wang, Xiaoyan Gu, Hongbo Xu, Hongcheng Li, Zimo Yu, Jiang Zhou, "
                "Weiping Wang"
            ),
            year=2026,
            arxiv="2602.01765",
        ),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("side",)

    side: Literal["drop", "both"] = "drop"
    steps: Annotated[int, Ge(2)] = 50
    references: Annotated[int, Ge(2)] = 128

    def score(self, noise: Tensor, access: Access) -> Tensor:
        shape = (self.references, *noise.shape[1:])
        plain = torch.from_numpy(access.rng.standard_normal(shape, dtype="float32"))
        band = consistency(access.generator, plain, self.steps)
        middle, width = band.mean(0), band.std(0).clamp(min=NARROWEST)
        rows = max(1, ELEMENTS_AT_ONCE // plain[0].numel() // NETWORK_BATCH) * NETWORK_BATCH
        scores = [noise.new_zeros(0).cpu().float()]
        for some in noise.detach().cpu().float().split(rows) if len(noise) else ():
            drop = (middle - consistency(access.generator, some, self.steps)) / width
            scores.append((drop if self.side == "drop" else drop.abs()).amax(1).float())
            done = sum(len(score) for score in scores)
            access.progress(done, len(noise), "noises")
        return torch.cat(scores)


@torch.no_grad()
def consistency(generator: Generator, noise: Tensor, steps: int) -> Tensor:
    """u_j, (n, steps - 1) float64 in [-1, 1] on the CPU, of the trajectories from ``noise`` (n, c,
    h, w), in the order of sampling.
    """
    settings = SamplerSettings(name="ddim", num_inference_steps=steps, network_batch=NETWORK_BATCH)
    sampler = Scheduled(settings, generator.scheduler_config, ())
    x, before, cosines = noise.to(generator.device), None, []
    for call, timestep in enumerate(sampler.timesteps):
        prediction = predict_noise(generator, x, timestep, settings)
        if before is not None:
            cosines.append(_cosine(before, prediction))
        before = prediction
        x = sampler.step(prediction, x, call, _no_noise)
    return torch.stack(cosines, 1).cpu()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    cosine: Tensor = torch.nn.functional.cosine_similarity(
        one.flatten(1).double(), other.flatten(1).double()
    )
    return cosine


def _no_noise() -> Tensor:
    raise AssertionError("DDIM with an eta of 0 adds no noise")
