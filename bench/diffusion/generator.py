"""A generator: a diffusers network, its noise schedule, and the shape of its images. Saved as a
normal diffusers folder.

diffusers is imported inside the functions that use it, here and in the neighbouring modules: the
import takes seconds, and planning or repeating a finished run does not need it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from bench.diffusion.checkpoint import (
    UNCONDITIONAL,
    first_line,
    outline,
    read_json,
    refuse_incomplete,
)
from bench.diffusion.schedule import Schedule, betas_of, read_scheduler
from bench.errors import UserError

if TYPE_CHECKING:
    from diffusers import UNet2DModel

#: Labels (n,) int64 in 0..classes, or n prompts, or neither.
Condition = TypeVar("Condition", Tensor | None, Tensor | tuple[str, ...] | None)
CARD_FILE = "README.md"
SCHEDULER_FILE = "scheduler_config.json"
#: The entry of a network's configuration that says how pixels are folded. With an underscore, since
#: diffusers keeps such entries without a warning.
FOLD = "_fold"
#: Largest plausible side of what is denoised; a larger one is more likely a typing error.
LARGEST_IMAGE = 8192
LARGEST_FOLD = 16


@dataclass
class Generator:
    """``unet``: predicts the noise; ``scheduler_config``: the diffusers scheduler configuration it
    was trained with.

    A class-conditional network has one embedding more than there are classes: the last one is the
    null label, "no class". ``calls`` counts the images that went through the network, the harness's
    measure of cost. ``compiled``: whether sampling and training compile the network first
    (:mod:`bench.diffusion.compiling`).

    A network may be **folded**: it sees each square of ``fold`` x ``fold`` pixels as one, with a
    channel for each (pixel unshuffle, Shi et al. 2016, arXiv 1609.05158), and its answer is
    unfolded again. Noise that is independent in each pixel stays so: to everyone else it is a
    network of the pixels. On a CPU, convolutions of few channels at full resolution are the cost.
    """

    unet: UNet2DModel
    scheduler_config: dict[str, Any]
    calls: int = field(default=0, compare=False)
    compiled: bool = False

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, as diffusers reads the configuration (linear, cosine, trained betas,
        ...).
        """
        return Schedule(betas_of(self.scheduler_config))

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what is denoised."""
        size, fold = self.unet.config.sample_size, self.fold
        height, width = (size, size) if isinstance(size, int) else size
        channels = int(self.unet.config.in_channels) // fold**2
        return (channels, int(height) * fold, int(width) * fold)

    @property
    def fold(self) -> int:
        """The side of the square of pixels that the network sees as one; 1 for most networks."""
        return int(self.unet.config.get(FOLD, 1))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image; here images themselves are denoised."""
        return self.noise_shape

    @property
    def classes(self) -> int | None:
        """The number of classes of a class-conditional generator, which is also its null label;
        ``None`` for others.
        """
        embeddings = self.unet.config.num_class_embeds
        return None if embeddings is None else int(embeddings) - 1

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    def predict_noise(
        self, x: Tensor, timesteps: Tensor, condition: Tensor | tuple[str, ...] | None = None
    ) -> Tensor:
        """The network's estimate of the noise in ``x``, both (n, c, h, w) float32, at timesteps
        (n,) int64.

        ``condition``: labels (n,) int64 in 0..classes, for a class-conditional network, or n
        prompts; ``None`` means the null label there.
        """
        self.calls += len(x)
        return self.answer(self.unet, x, timesteps, self.labelled(x, condition))

    def labelled(self, x: Tensor, condition: Condition) -> Condition:
        """``condition``, or the null label for each row of ``x`` where the network needs one."""
        if condition is None and self.classes is not None:
            return torch.full((len(x),), self.classes, device=x.device)
        return condition

    def answer(
        self,
        network: Callable[..., Any],
        x: Tensor,
        timesteps: Tensor,
        condition: Tensor | tuple[str, ...] | None,
    ) -> Tensor:
        """Like :meth:`predict_noise`, uncounted, by ``network``: the generator's own, or the one
        that training has wrapped.
        """
        if self.fold > 1:
            x = pixel_unshuffle(x, self.fold)
        prediction: Tensor = network(x, timesteps, **self.condition(condition)).sample
        if self.fold > 1:
            prediction = pixel_shuffle(prediction, self.fold)
        return prediction.float()

    def condition(self, labels_or_prompts: Tensor | tuple[str, ...] | None) -> dict[str, Any]:
        """The network's arguments beyond x and t for labels, (n,) int64 in 0..classes. Raises
        ``TypeError`` for prompts, which this generator does not read.
        """
        if isinstance(labels_or_prompts, tuple):
            raise TypeError("this generator is asked for labels, not by prompts")
        return {"class_labels": labels_or_prompts}

    def with_prompts(self, prompts: tuple[str, ...]) -> Generator:
        """The same networks with a table of prompts; a label is an index into it. Raises
        ``TypeError``: this generator reads no prompts.
        """
        raise TypeError("this generator is asked for labels, not by prompts")

    def encode(self, images: Tensor, draw: torch.Generator | None = None) -> Tensor:
        """Images (n, c, h, w) in [-1, 1] -> what the network denoises; here the images themselves.
        ``draw``: the stream of an encoder that samples; ``None`` for its mean.
        """
        return images

    def decode(self, x: Tensor) -> Tensor:
        """What the network has denoised -> images (n, c, h, w), not clamped; here unchanged."""
        return x

    def to(self, device: str | torch.device) -> Generator:
        """Moves the network to ``device`` in the channels-last layout, the fastest one for
        convolutions. Returns itself.
        """
        self.unet.to(device, memory_format=torch.channels_last)
        return self

    def clone(self) -> Generator:
        """An independent copy, with its own count of calls."""
        return Generator(
            copy.deepcopy(self.unet), dict(self.scheduler_config), compiled=self.compiled
        )

    def save(self, folder: Path, card: str, metadata: dict[str, Any] | None = None) -> None:
        """Writes a diffusers pipeline folder (safetensors), its model card as README.md and
        ``metadata`` as castlewalls.json.
        """
        from diffusers import DDPMPipeline, DDPMScheduler

        scheduler = DDPMScheduler.from_config(self.scheduler_config)
        network = copy.deepcopy(self.unet).to(
            "cpu", torch.float32, memory_format=torch.contiguous_format
        )
        DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(
            folder, safe_serialization=True
        )
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        if metadata is not None:
            (folder / "castlewalls.json").write_text(json.dumps(metadata, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> Generator:
        """Reads a diffusers folder: safetensors only, no code from the checkpoint, nothing
        downloaded, and no missing weight filled in.

        Both layouts work: ``unet/`` and ``scheduler/`` sub-folders, or everything at the top (as
        google/ddpm-cifar10-32). Raises :class:`UserError` naming what is missing.
        """
        from diffusers import UNet2DModel

        network_folder, scheduler = _layout(Path(folder))
        unet = load_part(UNet2DModel, network_folder)
        return cls(unet, read_scheduler(read_json(scheduler), str(scheduler)))

    @classmethod
    def outline(cls, folder: str | Path) -> Generator:
        """Like :meth:`load`, without the weights: the network is on the ``meta`` device and has
        shapes only, in a fraction of the time.

        Raises :class:`UserError`, a line for each fault of the folder.
        """
        network_folder, scheduler = _layout(Path(folder))
        unet, config = attempt_all(
            lambda: outline(network_folder, UNCONDITIONAL),
            lambda: read_scheduler(read_json(scheduler), str(scheduler)),
        )
        generator = cls(unet, config)
        generator.check_shapes(network_folder / "config.json")
        return generator

    def check_shapes(self, where: Path) -> None:
        """Calls the network once, on the ``meta`` device, and checks that its output has the shape
        of its input. Raises :class:`UserError` naming ``where``, its configuration.
        """
        config = self.unet.config
        size = config.sample_size
        sizes = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
        if not all(
            isinstance(side, int) and not isinstance(side, bool) and 0 < side <= LARGEST_IMAGE
            for side in sizes
        ):
            raise UserError(
                f"{where}: sample_size must be a whole number in 1..{LARGEST_IMAGE}, or two, got "
                f"{str(size)[:40]}"
            )
        fold = config.get(FOLD, 1)
        if (
            not isinstance(fold, int)
            or isinstance(fold, bool)
            or not 1 <= fold <= LARGEST_FOLD
            or config.in_channels % fold**2
        ):
            raise UserError(
                f"{where}: {FOLD} must be a whole number in 1..{LARGEST_FOLD} whose square divides "
                f"in_channels {config.in_channels}, got {str(fold)[:40]}"
            )
        if config.out_channels != config.in_channels:
            what = (
                "learned variance is not supported"
                if config.out_channels == 2 * config.in_channels
                else "it predicts the noise"
            )
            raise UserError(
                f"{where}: out_channels must equal in_channels ({what}), got "
                f"{config.out_channels} and {config.in_channels}"
            )
        height, width = (sizes * 2)[:2]
        x = torch.zeros((1, config.in_channels, height, width), device="meta")
        try:
            with torch.no_grad():
                answer: Tensor = self.unet(
                    x, torch.zeros(1, dtype=torch.long, device="meta"), **self._blank_condition()
                ).sample
        except (
            Exception
        ) as error:  # An inconsistent configuration can make the library raise anything.
            raise UserError(
                f"{where}: the network cannot be asked for the noise alone: {first_line(error)}"
            ) from error
        if answer.shape != x.shape:
            raise UserError(
                f"{where}: the network must answer {list(x.shape)} with the same shape, got "
                f"{list(answer.shape)}"
            )

    def _blank_condition(self) -> dict[str, Any]:
        """The network's arguments beyond x and t in :meth:`check_shapes`."""
        return {
            "class_labels": None
            if self.classes is None
            else torch.zeros(1, dtype=torch.long, device="meta")
        }


def _layout(folder: Path) -> tuple[Path, Path]:
    """The network's folder and the scheduler's file, in either layout. Raises :class:`UserError` if
    there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"no diffusion model could be read from {str(folder)!r}: there is no such folder"
        )
    if (folder / "unet").is_dir():
        return folder / "unet", folder / "scheduler" / SCHEDULER_FILE
    return folder, folder / SCHEDULER_FILE


def load_part(network_class: Any, folder: Path) -> Any:
    """A network of the diffusers or transformers class ``network_class`` from ``folder``, in
    float32 and evaluation mode, every weight from its file. Raises :class:`UserError` naming the
    folder and what is wrong with it.
    """
    try:
        network, info = network_class.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (
        Exception
    ) as error:  # The libraries pass on whatever their parsers and constructors raise.
        raise UserError(
            f"no {network_class.__name__} could be read from {folder}: {first_line(error)}"
        ) from error
    refuse_incomplete(network, info, folder)
    return network.float().eval()


def attempt_all(*readers: Callable[[], Any]) -> list[Any]:
    """The results of all ``readers``. Raises one :class:`UserError` with the lines of all that
    fail.
    """
    results, lines = [], []
    for reader in readers:
        try:
            results.append(reader())
        except UserError as error:
            lines.append(str(error))
    if lines:
        raise UserError("\n".join(lines))
    return results
