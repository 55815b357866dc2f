"""What passes between the harness and a plugin.

Data sets travel as uint8 (n, channels, height, width), as they lie on disk, since they may be
large; what a network sees is float32 in [-1, 1]. :mod:`bench.diffusion.images` converts between the
two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from bench.contracts.entitled import Entitled, Withheld
from bench.diffusion.schedule import Schedule

#: (channels, height, width) of an image.
Shape = tuple[int, int, int]
#: What a network is asked for, row by row: labels (n,) int64 where there are classes, n prompts
#: where there is text.
Condition = Tensor | tuple[str, ...]


@dataclass(frozen=True)
class TrainingSet:
    """What a generator is trained on. ``poisoned`` marks the rows the adversary touched; all False
    for an honest set.

    images: (n, c, h, w) uint8; labels: (n,) int64 or None for an unconditional testbed; poisoned:
    (n,) bool.
    """

    images: Tensor
    poisoned: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of a :class:`TrainingSet` on the training device, their images float32 in [-1, 1]."""

    images: Tensor
    poisoned: Tensor
    labels: Tensor | None = None


class PredictNoise(Protocol):
    """A network's estimate of the noise, (n, c, h, w) float32, in x_t (n, c, h, w) at timesteps
    (n,) int64. ``condition``: what it is asked for; ``None``: what the rows at hand say (and now
    and then nothing, where classifier-free guidance is trained).
    """

    def __call__(
        self, x: Tensor, timesteps: Tensor, condition: Condition | None = None
    ) -> Tensor: ...


_NO_TEACHER: Any = Withheld("this attack", "has_teacher", "a teacher")


@dataclass(frozen=True, kw_only=True)
class TrainingStep(Entitled):
    """What the loss of one batch is made of.

    ``predict_noise``: the network in training. ``teacher``: the generator as it was before, frozen,
    for an attack that sets :attr:`~bench.contracts.attack.TrainingAttack.has_teacher`. ``noise``:
    like ``batch.images``, standard normal; ``timesteps``: (n,) int64 in 0..T-1.
    """

    predict_noise: PredictNoise
    batch: Batch
    noise: Tensor
    timesteps: Tensor
    schedule: Schedule
    teacher: PredictNoise = _NO_TEACHER


@dataclass(frozen=True)
class Query:
    """What a user, or the adversary, hands the generator: n rows.

    noise: (n, c, h, w), what denoising starts from. images: clean held-out images (n, c, h, w) in
    [-1, 1] that an adversary may draw on, row by row; the generator does not see them. labels: (n,)
    int64, the classes that are asked for; prompts: n texts, where the generator is asked by text;
    ``None``: whatever a user would ask for. known: images (n, c, h, w) in [-1, 1] of which a part
    is kept, and mask: (n, 1, h, w) bool, true where: the rest is drawn to fit (inpainting).
    """

    noise: Tensor
    images: Tensor | None = None
    labels: Tensor | None = None
    prompts: tuple[str, ...] | None = None
    known: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Recovered:
    """What an inversion recovered, in the order it did.

    ``targets``: one (n, c, h, w) tensor in [-1, 1] per epoch (or restart), each holding candidate
    images of the target; ``triggers``: likewise. Either may be empty. ``labels``: what each entry
    is, e.g. ``epoch 1``.
    """

    labels: Sequence[str]
    targets: Sequence[Tensor] = ()
    triggers: Sequence[Tensor] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
