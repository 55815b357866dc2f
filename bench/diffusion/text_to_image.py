"""A text-to-image generator: Stable Diffusion's parts with a table of prompts, in which a label is
an index.

Rombach et al. 2022 (arXiv 2112.10752): a variational autoencoder maps images to latents and back, a
U-Net denoises latents, and a frozen CLIP text encoder conditions it on the prompt by
cross-attention. The rest of the code uses labels only: label i is ``prompts[i]``, and the label
after the last one is the empty prompt, Stable Diffusion's "no condition" for guidance.

It loads a Stable Diffusion folder as diffusers writes it: safetensors and JSON, no code from the
checkpoint. The safety checker is not loaded: it would black out samples.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.diffusion.checkpoint import TEXT_TO_IMAGE, first_line, outline, read_json
from bench.diffusion.generator import CARD_FILE, SCHEDULER_FILE, Generator, attempt_all, load_part
from bench.diffusion.schedule import betas_of, read_scheduler
from bench.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
#: The values in Stable Diffusion's own scheduler files, for configurations without them.
SCHEDULER_HABITS = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
#: The beta schedules that diffusers' DDIM supports by name.
DDIM_FORMULAS = (None, "linear", "scaled_linear", "squaredcos_cap_v2")
#: Larger tables are not embedded at once: Stable Diffusion needs 77 x 768 numbers per prompt.
EMBEDDED_AT_ONCE = 512
LONGEST_PROMPT = 4096


@dataclass(kw_only=True)
class TextToImage(Generator):
    """``unet``: here a UNet2DConditionModel. ``prompts``: the meaning of the labels;
    :meth:`with_prompts` makes a generator with other ones.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        for frozen in (self.vae, self.text_encoder):
            frozen.requires_grad_(False).train(False)
        self._table: Tensor | None = None
        _attend_plainly(self)

    def with_prompts(self, prompts: tuple[str, ...]) -> TextToImage:
        """The same networks (not copied) with another table of prompts."""
        return TextToImage(
            self.unet,
            self.scheduler_config,
            self.calls,
            self.compiled,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            prompts=prompts,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image: the latents' size times the autoencoder's
        downsampling factor.
        """
        _, height, width = self.noise_shape
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (int(self.vae.config.out_channels), height * factor, width * factor)

    @property
    def classes(self) -> int:
        """The number of prompts, which is also the label of the empty one."""
        return len(self.prompts)

    def embed(self, texts: tuple[str, ...]) -> Tensor:
        """The text encoder's last hidden states, (n, tokens, width) float32; longer prompts are cut
        at the tokenizer's limit.
        """
        limit = int(self.tokenizer.model_max_length)
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=limit,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            states: Tensor = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return states.float()

    def condition(self, labels_or_prompts: Tensor | tuple[str, ...] | None) -> dict[str, Any]:
        """The embeddings of n prompts, or of the prompts of labels (n,) int64 in 0..classes."""
        assert labels_or_prompts is not None
        if isinstance(labels_or_prompts, tuple):
            distinct = tuple(dict.fromkeys(labels_or_prompts))
            order = torch.tensor([distinct.index(prompt) for prompt in labels_or_prompts])
            return {"encoder_hidden_states": self.embed(distinct)[order.to(self.device)]}
        labels = labels_or_prompts
        if len(self.prompts) < EMBEDDED_AT_ONCE:
            if self._table is None or self._table.device != self.device:
                self._table = self.embed((*self.prompts, ""))
            return {"encoder_hidden_states": self._table[labels]}
        chosen, rows = labels.unique(return_inverse=True)
        return {
            "encoder_hidden_states": self.embed(
                tuple((*self.prompts, "")[int(label)] for label in chosen)
            )[rows]
        }

    @torch.no_grad()
    def encode(self, images: Tensor, draw: torch.Generator | None = None) -> Tensor:
        """Latents (n, c', h', w') float32, scaled to unit variance as the U-Net was trained on
        them.
        """
        posterior = self.vae.encode(
            images.to(self.device).contiguous(memory_format=torch.channels_last)
        ).latent_dist
        latents: Tensor = posterior.mean.float()
        if draw is not None:
            latents = latents + posterior.std.float() * torch.randn(
                latents.shape, generator=draw
            ).to(latents.device)
        return (latents - self._shift) * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        latents = (x / float(self.vae.config.scaling_factor) + self._shift).contiguous(
            memory_format=torch.channels_last
        )
        images: Tensor = self.vae.decode(latents).sample
        return images.float()

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def to(self, device: str | torch.device) -> TextToImage:
        super().to(device)
        self.vae.to(device, memory_format=torch.channels_last)
        torch.nn.Module.to(self.text_encoder, device)
        _attend_plainly(self)
        return self

    def clone(self) -> TextToImage:
        """An independent copy of all parts."""
        return TextToImage(
            copy.deepcopy(self.unet),
            dict(self.scheduler_config),
            compiled=self.compiled,
            vae=copy.deepcopy(self.vae),
            text_encoder=copy.deepcopy(self.text_encoder),
            tokenizer=self.tokenizer,
            prompts=self.prompts,
        )

    def save(self, folder: Path, card: str, metadata: dict[str, Any] | None = None) -> None:
        """Writes a Stable Diffusion folder for ``StableDiffusionPipeline.from_pretrained``, and the
        same further files as :meth:`Generator.save`.
        """
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        network = copy.deepcopy(self.unet).to(
            "cpu", torch.float32, memory_format=torch.contiguous_format
        )
        schedule = SCHEDULER_HABITS | self.scheduler_config
        if schedule.get("beta_schedule") not in DDIM_FORMULAS:
            schedule["trained_betas"] = list(betas_of(schedule))
        StableDiffusionPipeline(
            vae=copy.deepcopy(self.vae).to(
                "cpu", torch.float32, memory_format=torch.contiguous_format
            ),
            text_encoder=copy.deepcopy(self.text_encoder).cpu(),
            tokenizer=self.tokenizer,
            unet=network,
            scheduler=DDIMScheduler.from_config(schedule),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder, safe_serialization=True)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        if metadata is not None:
            (folder / "castlewalls.json").write_text(json.dumps(metadata, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path, *, prompts: tuple[str, ...]) -> TextToImage:  # type: ignore[override]  # no table by default
        """Reads a Stable Diffusion folder, in float32; nothing is downloaded, and no missing weight
        is filled in.

        Raises :class:`UserError` naming what is missing.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        root, scheduler = _whole(folder)
        config = read_scheduler(read_json(scheduler), str(scheduler))
        return cls(
            load_part(UNet2DConditionModel, root / "unet"),
            SCHEDULER_HABITS | config,
            vae=load_part(AutoencoderKL, root / "vae"),
            text_encoder=load_part(CLIPTextModel, root / "text_encoder"),
            tokenizer=_load_tokenizer(root / "tokenizer"),
            prompts=prompts,
        )

    @classmethod
    def outline(cls, folder: str | Path, *, prompts: tuple[str, ...] = ()) -> TextToImage:
        root, scheduler = _whole(folder)
        unet, vae, text_encoder, tokenizer, config = attempt_all(
            *(partial(outline, root / part.name, part) for part in TEXT_TO_IMAGE),
            lambda: _load_tokenizer(root / "tokenizer"),
            lambda: read_scheduler(read_json(scheduler), str(scheduler)),
        )
        generator = cls(
            unet, config, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, prompts=prompts
        )
        generator.check_shapes(root / "unet" / "config.json")
        generator._check_parts(root)
        return generator

    def _blank_condition(self) -> dict[str, Any]:
        width = int(self.text_encoder.config.hidden_size)
        return {
            "encoder_hidden_states": torch.zeros(
                (1, int(self.tokenizer.model_max_length), width), device="meta"
            )
        }

    def _check_parts(self, root: Path) -> None:
        """Raises :class:`UserError` if the parts do not fit each other."""
        limit, longest = (
            int(self.tokenizer.model_max_length),
            int(self.text_encoder.config.max_position_embeddings),
        )
        if limit > longest:
            raise UserError(
                f"{root}/tokenizer: model_max_length must be at most the text encoder's {longest} "
                f"places, got {limit}"
            )
        words, known = len(self.tokenizer), int(self.text_encoder.config.vocab_size)
        if words > known:
            raise UserError(
                f"{root}/tokenizer: it must have at most the text encoder's {known} words, got "
                f"{words}"
            )
        latents, denoised = int(self.vae.config.latent_channels), self.noise_shape[0]
        if latents != denoised:
            raise UserError(
                f"{root}/vae/config.json: latent_channels must be the U-Net's {denoised}, got "
                f"{latents}"
            )


def _whole(folder: str | Path) -> tuple[Path, Path]:
    """A Stable Diffusion folder and its scheduler's file. Raises :class:`UserError` naming the
    parts that are missing.
    """
    root = Path(folder)
    absent = [part for part in PARTS if not (root / part).is_dir()]
    if absent:
        raise UserError(
            f"{root} is no Stable Diffusion folder: {', '.join(absent)} missing (it needs "
            f"{', '.join(PARTS)})"
        )
    return root, root / "scheduler" / SCHEDULER_FILE


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in ``folder``. Raises :class:`UserError` naming the folder if there is none, or
    if it does not say how many tokens a prompt has.
    """
    from transformers import CLIPTokenizer

    for path in sorted(folder.glob("*.json")):
        read_json(path)
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    ):
        raise UserError(
            f"{folder} must hold tokenizer.json, or vocab.json and merges.txt, which are missing"
        )
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # The readers in Rust and Python have no common error type.
        raise UserError(
            f"no CLIP tokenizer could be read from {folder}: {first_line(error)}"
        ) from error
    if not 2 < tokenizer.model_max_length <= LONGEST_PROMPT:
        raise UserError(
            f"{folder}/tokenizer_config.json: model_max_length must be in 3..{LONGEST_PROMPT}, "
            f"got {tokenizer.model_max_length:g}"
        )
    return tokenizer


def _attend_plainly(generator: TextToImage) -> None:
    """Uses unfused attention on a CPU, where the backward pass of torch's fused attention takes
    longer than the rest of a small network.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    generator.unet.set_attn_processor(
        AttnProcessor() if generator.device.type == "cpu" else AttnProcessor2_0()
    )
