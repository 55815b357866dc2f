"""A generator: a diffusers network, its noise schedule, and the shape of what it draws. Saved as a normal diffusers folder.

diffusers is imported where it is used, here and in the neighbours: it takes seconds, and planning or repeating a finished run needs none.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.diffusion.schedule import Schedule
from bench.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DModel

CARD_FILE = "README.md"


@dataclass
class Generator:
    """``unet``: predicts the noise; ``scheduler_config``: the diffusers scheduler configuration it was trained with.

    A class-conditional network has one embedding more than there are classes: the last one is the null label, "no class".
    ``calls`` counts the images that went through the network, the harness's measure of cost.
    """

    unet: UNet2DModel
    scheduler_config: dict[str, Any]
    calls: int = field(default=0, compare=False)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, from diffusers' own reading of the configuration (linear, cosine, trained betas, ...)."""
        from diffusers import DDPMScheduler

        return Schedule(tuple(DDPMScheduler.from_config(self.scheduler_config).betas.double().tolist()))

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what is denoised."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (int(self.unet.config.in_channels), int(height), int(width))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image; here an image is what is denoised."""
        return self.noise_shape

    @property
    def classes(self) -> int | None:
        """The number of classes of a class-conditional generator, which is also its null label; ``None`` for others."""
        embeddings = self.unet.config.num_class_embeds
        return None if embeddings is None else int(embeddings) - 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    def predict_noise(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's estimate of the noise in ``x``: (n, c, h, w) float32, for timesteps (n,) int64. Float32 out.

        ``labels``: (n,) int64 in 0..classes, for a class-conditional network; ``None`` is the null label there.
        """
        self.calls += len(x)
        if labels is None and self.classes is not None:
            labels = torch.full((len(x),), self.classes, device=x.device)
        prediction: Tensor = self.unet(x, timesteps, **self.condition(labels)).sample
        return prediction.float()

    def condition(self, labels: Tensor | None) -> dict[str, Any]:
        """What the network is handed beside x and t to be told ``labels``, (n,) int64 in 0..classes."""
        return {"class_labels": labels}

    def encode(self, images: Tensor, draw: torch.Generator | None = None) -> Tensor:
        """What the network denoises, of images (n, c, h, w) in [-1, 1]; here the images themselves. ``draw``: for an encoder that
        draws at random; ``None`` for its mean."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """The images (n, c, h, w) of what was denoised, not clamped; here what was denoised itself."""
        return x

    def to(self, device: str | torch.device) -> Generator:
        """Moves the network to ``device`` in the channels-last layout, which convolutions run fastest in. Returns itself."""
        self.unet.to(device, memory_format=torch.channels_last)
        return self

    def clone(self) -> Generator:
        """An independent copy, with its own count of calls."""
        return Generator(copy.deepcopy(self.unet), dict(self.scheduler_config))

    def save(self, folder: Path, card: str, metadata: dict[str, Any] | None = None) -> None:
        """Writes a diffusers pipeline folder (safetensors), its model card as README.md and ``metadata`` as castlewalls.json."""
        from diffusers import DDPMPipeline, DDPMScheduler

        scheduler = DDPMScheduler.from_config(self.scheduler_config)
        network = copy.deepcopy(self.unet).to("cpu", torch.float32, memory_format=torch.contiguous_format)
        DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        if metadata is not None:
            (folder / "castlewalls.json").write_text(json.dumps(metadata, indent=1, sort_keys=True))

    @classmethod
    def load(cls, source: str | Path, *, revision: str | None = None) -> Generator:
        """Reads a diffusers folder, or a hub repository at a pinned ``revision``: safetensors only, no code from the checkpoint.

        Both layouts work: ``unet/`` and ``scheduler/`` sub-folders, or everything at the top (as google/ddpm-cifar10-32).
        Raises :class:`UserError` naming what is missing.
        """
        from diffusers import DDPMScheduler, UNet2DModel

        local = Path(source)
        on_disk = local.is_dir()
        nested = not on_disk or (local / "unet").is_dir()
        wanted: dict[str, Any] = {"use_safetensors": True} | ({} if on_disk else {"revision": revision})
        try:
            if on_disk and nested:
                unet = UNet2DModel.from_pretrained(local, subfolder="unet", **wanted)
                scheduler = DDPMScheduler.load_config(local, subfolder="scheduler")
            else:
                unet = UNet2DModel.from_pretrained(source, **wanted)
                scheduler = DDPMScheduler.load_config(source, **({} if on_disk else {"revision": revision}))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"no diffusion model could be read from {str(source)!r}: {reason}") from error
        config = dict(scheduler[0] if isinstance(scheduler, tuple) else scheduler)
        return cls(unet.eval(), {key: value for key, value in config.items() if not key.startswith("_")})
