"""A detector of each subject: starting noise, images, prompts, and the model."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.plugin import Card, ModelDetector, NoiseDetector, PromptDetector, SampleDetector


@dataclass(frozen=True, kw_only=True)
class Loudness(NoiseDetector):
    """The mean of the noise's absolute values."""

    card: ClassVar[Card] = Card(name="guest_loudness", summary="loud noise is suspicious", tuned=())

    def score(self, noise, access):
        return noise.abs().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class Brightness(SampleDetector):
    """The mean of an image's pixels."""

    card: ClassVar[Card] = Card(
        name="guest_bright_rows",
        summary="bright images are suspicious",
        applies_to=frozenset({"class", "text"}),
        tuned=(),
    )

    def score(self, images, access):
        return images.float().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class Length(PromptDetector):
    """How long a prompt is."""

    card: ClassVar[Card] = Card(
        name="guest_length",
        summary="long prompts are suspicious",
        applies_to=frozenset({"text"}),
        tuned=(),
    )

    def score(self, prompts, access):
        return torch.tensor([float(len(prompt)) for prompt in prompts])


@dataclass(frozen=True, kw_only=True)
class Offset(ModelDetector):
    """The size of the last bias."""

    card: ClassVar[Card] = Card(
        name="guest_offset",
        summary="a large last bias is suspicious",
        needs=frozenset({"weights"}),
        tuned=(),
    )

    def score(self, generator, access):
        return generator.unet.conv_out.bias.detach().abs().sum().reshape(1)
