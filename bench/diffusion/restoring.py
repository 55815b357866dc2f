"""Inpainting by denoising: a corrupted image is the state from which a sampler goes on.

Chou et al. 2023 (BadDiffusion), arXiv 2212.05400, appendix C, restore images so under three
corruptions; their code has none of it, VillanDiffusion's (2306.06874) does. Nothing tells the
network which pixels are missing, unlike :mod:`bench.diffusion.inpainting`, where a known part is
put back after every step.

- ``blur`` is the paper's word: Gaussian noise is added, x + .3 n. ``line`` and ``box`` blacken a
  column and a square in the middle of the image.
- ``as_released``: x_t := c, the corrupted image itself, whose signal has weight 1 and which no
  forward process contains. ``variance_matched``: x_t := A c + s e, what the network was trained on
  at that timestep.

Deviations from the released code: missing pixels are -1, not the least value of the whole batch; a
line is at least one pixel wide, since the formula gives none below 20 pixels; images are measured
in one range on both sides (the code compares [0, 1] with [-1, 1] where nothing is poisoned).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from bench.constraints import OneOf, refusals_of
from bench.diffusion.generator import Generator
from bench.diffusion.noise import Streams, initial_noise, sample_streams
from bench.diffusion.sampling import (
    SAMPLERS,
    Guard,
    SamplerSettings,
    Scheduled,
    denoise,
    images_at_once,
)

#: name -> a line for people.
CORRUPTIONS = {
    "blur": "Gaussian noise of standard deviation 0.3 is added",
    "line": "a column of pixels in the middle is black",
    "box": "a square in the middle, a tenth of the image, is black",
}
BLUR = 0.3
MISSING = -1.0
#: Samplers whose first step is unlike the others, so that they cannot begin between two.
FROM_THE_END = ("pndm", "heun")


@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """One way to ask a generator for a corrupted image's original.

    ``start``: denoising begins with the sampler's first step at or below this timestep; 399 of 1000
    are the paper's 400 steps. Raises ``ValueError`` naming the field, the constraint and the value.
    """

    corruption: Annotated[str, OneOf(tuple(CORRUPTIONS))]
    reading: Literal["as_released", "variance_matched"] = "as_released"
    start: Annotated[int, Ge(0)] = 399

    def __post_init__(self) -> None:
        for name, constraint in refusals_of(self, strict=True):
            raise ValueError(
                f"inpainting: {name} must be {constraint}, got {getattr(self, name)!r}"
            )

    @property
    def name(self) -> str:
        """An ASCII word, as it stands in the brackets of a metric's name."""
        return f"{self.corruption}_{self.reading}_{self.start}"

    def corrupted(self, images: Tensor, noise: Tensor) -> Tensor:
        """``images`` (n, c, h, w) in [-1, 1] as they are handed in, a new tensor; ``noise``: like
        them, standard normal. What ``blur`` adds may lead out of [-1, 1].
        """
        if self.corruption == "blur":
            return images + BLUR * noise
        hole = missing(self.corruption, images.shape[-2], images.shape[-1])
        return images.masked_fill(hole.to(images.device), MISSING)

    def begins(self, corrupted: Tensor, noise: Tensor, alpha_cumprod: float) -> Tensor:
        """x_t of ``corrupted`` images at ``alpha_cumprod`` = A^2; ``noise``: e, like them."""
        if self.reading == "as_released":
            return corrupted
        x: Tensor = alpha_cumprod**0.5 * corrupted + (1 - alpha_cumprod) ** 0.5 * noise
        return x


def missing(corruption: str, height: int, width: int) -> Tensor:
    """(height, width) bool, true where ``line`` or ``box`` blackens an image.

    ``line``: columns [w/2 - floor(w/20), w/2 + floor(w/40)), at least one, over the whole height.
    ``box``: rows and columns within floor(h/6) and floor(w/6) of the middle: 10 x 10 of 32, 84 x 84
    of 256 pixels.
    """
    hole = torch.zeros(height, width, dtype=torch.bool)
    down, right = height // 2, width // 2
    if corruption == "line":
        hole[:, right - max(1, right // 10) : right + right // 20] = True
    else:
        tall, wide = down // 3, right // 3
        hole[down - tall : down + tall, right - wide : right + wide] = True
    return hole


class Later(Scheduled):
    """The sampler of ``settings`` from its first step at or below timestep ``start`` on; its other
    steps are those of the whole sampler. Raises ``ValueError`` for a sampler of
    :data:`FROM_THE_END`, or where no step is that low.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        scheduler_config: dict[str, Any],
        streams: Streams,
        start: int,
    ) -> None:
        super().__init__(settings, scheduler_config, streams)
        if settings.name in FROM_THE_END:
            able = ", ".join(name for name in SAMPLERS if name not in FROM_THE_END)
            raise ValueError(
                f"a sampler that begins between its steps must be one of {able}, got "
                f"{settings.name}"
            )
        self.skipped = sum(timestep > start for timestep in self.timesteps)
        self.timesteps = self.timesteps[self.skipped :]
        self.alphas_cumprod = self.alphas_cumprod[self.skipped :]
        if not self.timesteps:
            raise ValueError(f"start must be at or above the sampler's last step, got {start}")

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        return super().clean(prediction, x, call + self.skipped)

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        return super().prediction(clean, x, call + self.skipped)

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        return super().step(prediction, x, call + self.skipped, noise)


def restore(
    generator: Generator,
    corrupted: Tensor,
    seed: int,
    settings: SamplerSettings,
    task: Inpainting,
    guards: Sequence[Guard] = (),
    *,
    first: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tensor:
    """What ``generator``, one of pixels, makes of ``corrupted`` images (n, c, h, w): float32 in
    [-1, 1], clamped at the end as when a picture is saved.

    Image i has the stream of sample ``first`` + i, whatever the batches: of it are e and the noise
    of the steps, so all models restore from the same. Raises ``ValueError`` as :class:`Later` does.
    """
    size, stop = images_at_once(settings), first + len(corrupted)
    batches = [range(low, min(low + size, stop)) for low in range(first, stop, size)]
    restored, done = [], 0
    for indices in batches:
        streams = sample_streams(seed, indices, device=generator.device)
        later = Later(settings, generator.scheduler_config, streams, task.start)
        rows = corrupted[indices.start - first : indices.stop - first].to(generator.device)
        noise = initial_noise(streams, tuple(rows.shape[1:])).to(rows)
        x = task.begins(rows, noise, later.alphas_cumprod[0])
        total = len(batches) * len(later.timesteps)

        def advance(total: int = total) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, total, "sampling steps")

        x = denoise(generator, x, streams, settings, guards, reverse=later, after_step=advance)
        # Before the clamp, which would turn infinity into white or black.
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("the sampler produced values that are not finite")
        restored.append(x.clamp(-1, 1).cpu())
    return torch.cat(restored)
