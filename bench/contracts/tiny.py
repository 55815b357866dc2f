"""What a contract check hands a plugin: models and data so small that no number of theirs means
anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.contracts.attack import Attack
from bench.contracts.card import Need
from bench.contracts.data import Query, Recovered, TrainingSet
from bench.contracts.entitled import entitled
from bench.contracts.tiny_text import text_to_image
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample

SHAPE = (3, 16, 16)
CLASSES = 10
#: DDPM's (Ho et al. 2020, section 4).
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
#: Parameters of these names are lowered, so that a method does its least.
LEAST = {
    "batch_size": 4,
    "draws": 1,
    "epochs": 1,
    "inner_steps": 2,
    "noises": 2,
    "overlays": 3,
    "pgd_steps": 1,
    "samples": 4,
    "steps": 2,
    "steps_per_epoch": 1,
    "surrogate_steps": 2,
    "timesteps": 2,
    "training_steps": 1,
}


def least(plugin: Any) -> Any:
    """The same method with the least work: one epoch, one step, few samples."""
    return dataclasses.replace(
        plugin, **{name: value for name, value in LEAST.items() if hasattr(plugin, name)}
    )


def pixels(count: int) -> Tensor:
    """(count, 3, 16, 16) uint8, the same on every call."""
    return torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def floats(count: int, seed: int) -> Tensor:
    """(count, 3, 16, 16), standard normal, the same on every call."""
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def training_set(count: int) -> TrainingSet:
    """An honest set of ten classes."""
    return TrainingSet(
        pixels(count), torch.zeros(count, dtype=torch.bool), torch.arange(count) % CLASSES
    )


def network(channels: tuple[int, int], groups: int, classes: int | None) -> Any:
    """A U-Net of two levels with random weights, the same on every call; ``classes``: rows of its
    table of classes, ``None`` for no table.
    """
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=SHAPE[1],
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            block_out_channels=channels,
            layers_per_block=1,
            norm_num_groups=groups,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
            num_class_embeds=classes,
        )


@cache
def _network(classes: int | None) -> Any:
    return network((8, 8), 2, classes).eval()


def generator(classes: int | None = None) -> Generator:
    """A tiny diffusion model with random weights, a copy on every call; ``classes``: those it can
    be asked for, and none.
    """
    rows = None if classes is None else classes + 1
    return Generator(_network(rows), dict(SCHEDULE)).clone()


def classifier() -> Classifier:
    """A tiny classifier of :data:`CLASSES` that knows nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        return Classifier(body, torch.nn.Linear(8, CLASSES)).eval()


def generator_for(plugin: Any) -> Generator:
    """A generator of a kind that the plugin's card applies to: unconditional if it may be, else
    asked for :data:`CLASSES`, else by text.
    """
    kinds = plugin.card.applies_to
    if kinds == {"text"}:
        return text_to_image()
    return generator(None if "unconditional" in kinds else CLASSES)


def access(plugin: Any, seed: int = 3, conditional: bool = False) -> Access:
    """As a stage hands it over: what the card does not ask for cannot be read. ``conditional``: the
    generator is asked for one of three classes, whatever the card applies to.
    """
    settings = SamplerSettings(num_inference_steps=2)

    def made() -> Generator:
        return generator(3) if conditional else generator_for(plugin)

    def draw(query: Query) -> Tensor:
        count = len(query.noise)
        return sample(made(), count, 0, settings, start=lambda *_: query.noise)

    def drawn(model: Generator, count: int) -> Tensor:
        labels = None if model.classes is None else torch.arange(count) % model.classes
        return sample(model, count, 0, settings, labels=labels)

    sources: dict[str, tuple[Need, Callable[[], Any]]] = {
        "generator": ("weights", made),
        "sample": ("weights", lambda: drawn),
        "base_generator": ("base weights", made),
        "draw": ("queries", lambda: draw),
        "clean_data": ("clean data", lambda: training_set(8)),
        "train_set": ("training data", lambda: training_set(60)),
        "classifier": ("classifier", classifier),
    }
    fields = entitled(plugin.card, sources)
    if not isinstance(plugin, Attack) and plugin.uses() is not None:
        pictures = [floats(2, 0).clamp(-1, 1)]
        fields["recovered"] = Recovered(labels=["one"], targets=pictures, triggers=pictures)
    return Access(rng=np.random.default_rng(seed), **fields)
