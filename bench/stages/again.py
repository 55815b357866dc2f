"""A few rows a second time, in another order and one alone: whether a plugin's result is a function
of the row, as its contract says; and of the model, where that is what it is about.

A difference becomes a flag on the record, not an error: the numbers stand, but another
batch size, another order of stages or another run would give others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.contracts.defense import SamplerDefense
from bench.diffusion.generator import Generator
from bench.record import Flag
from bench.text import message_of, one_line

#: How many rows are asked about again.
ROWS = 8
#: At how many of a sampler's calls.
CALLS = 16
#: Differences up to this share of the results' spread are a network's rounding, which may depend on
#: its batch.
TOLERANCE = 0.02
NOT_REPEATABLE = Flag(
    "not-repeatable", "", "not repeatable: the same rows give another result when asked again"
)
DEPENDS_ON_BATCH = Flag(
    "depends-on-batch", "", "depends on the batch: a row gives another result among other rows"
)
IGNORES_THE_MODEL = Flag(
    "ignores-the-model",
    "",
    "does not need the model: the same rows are of the same classes after its weights are shuffled",
)
#: The largest probability with which a classifier may be called so that guesses.
CHANCE = 1e-3


def compare(
    call: Callable[[Tensor], Tensor], count: int, first: Tensor, rows: int = ROWS
) -> list[Flag]:
    """Compares ``first``, what came of all ``count`` rows, with ``call(indices)`` of ``rows`` of
    them, the last one first.

    ``call`` must hand the plugin fresh copies, a fresh random stream too. A call that raises on few
    rows is a doubt as well.
    """
    few = _few(count, rows)
    spread = float(first.double().std()) if first.numel() > 1 else 0.0
    try:
        other = call(few)
        if _differ(other, first[few], spread):
            return [NOT_REPEATABLE if _differ(call(few), other, spread) else DEPENDS_ON_BATCH]
        if len(few) > 1 and _differ(call(few[:1]), first[few[:1]], spread):
            return [DEPENDS_ON_BATCH]
    except Exception as error:  # whatever a plugin raises; of all rows together it raised nothing
        why = one_line(message_of(error) or type(error).__name__, 150)
        text = f"{DEPENDS_ON_BATCH.short}: it fails on few rows, {why}"
        return [Flag(DEPENDS_ON_BATCH.code, "", text)]
    return []


def without_the_model(
    call: Callable[[Tensor], Tensor], count: int, first: Tensor, rows: int = 2 * ROWS
) -> list[Flag]:
    """Compares the classes of ``first``, class scores (count, classes), with those of
    ``call(indices)``, made with a network that knows nothing (:func:`shuffled`).

    Whoever classifies by the model then guesses. A plugin whose classes agree more often than the
    best guess would, the most frequent class every time, classifies by something else: labels that
    it looked up, or a classifier that it brought along. One that fails now needs the model.
    """
    few = _few(count, rows)
    classes = first[few].argmax(1)
    try:
        agree = int((call(few).argmax(1) == classes).sum())
    except Exception:  # whatever a plugin raises of a network that makes no sense
        return []
    n = len(few)
    guess = max(1 / first.shape[1], float(classes.bincount().max()) / n)
    by_chance = sum(
        math.comb(n, k) * guess**k * (1 - guess) ** (n - k) for k in range(agree, n + 1)
    )
    return [IGNORES_THE_MODEL] if by_chance < CHANCE else []


def shuffled(generator: Generator) -> Generator:
    """A copy whose network has the same weights in every tensor, in an arbitrary order."""
    other = generator.clone()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in other.unet.parameters():
            order = torch.randperm(weights.numel(), generator=stream).to(weights.device)
            weights.copy_(weights.flatten()[order].reshape(weights.shape))
    return other


def _few(count: int, rows: int) -> Tensor:
    """Rows evenly over all, the last one first."""
    chosen: Tensor = torch.linspace(0, count - 1, min(rows, count) + 1)[1:].long().unique()
    return chosen.flip(0)


def _differ(one: Tensor, other: Tensor, spread: float) -> bool:
    if one.shape != other.shape or not bool(torch.isfinite(one).all()):
        return True
    # Rounding in the last digits is none where everything is equal.
    smallest = 1e-5 * float(other.abs().max()) if other.numel() else 0.0
    return float((one.double() - other.double()).abs().max()) > max(TOLERANCE * spread, smallest)


@dataclass
class Watched:
    """A sampler defense as it is, some of whose calls are remembered and made again after the
    sampling.
    """

    defense: SamplerDefense
    steps: int
    _calls: list[tuple[str, int, Tensor, Tensor]] = field(default_factory=list)
    _seen: int = 0

    def __post_init__(self) -> None:
        self.card, self.keeps_noise = self.defense.card, self.defense.keeps_noise

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        return self._result("predicted_x0", predicted_x0, timestep)

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        return self._result("stepped", x, timestep)

    def _result(self, method: str, x: Tensor, timestep: int) -> Tensor:
        number, self._seen = self._seen, self._seen + 1
        # Two calls a step, of the first batch only, evenly spread and the last among them.
        every = max(1, 2 * self.steps // CALLS)
        remembered = number < 2 * self.steps and ((2 * self.steps - 1 - number) // 2) % every == 0
        few = x[:ROWS].clone() if remembered else None
        result: Tensor = getattr(self.defense, method)(x, timestep)
        if (
            few is not None
            and isinstance(result, Tensor)
            and result.shape == x.shape
            and result.dtype == x.dtype
        ):
            self._calls.append((method, timestep, few, result[:ROWS].detach().clone()))
        return result

    @torch.no_grad()
    def doubts(self) -> list[Flag]:
        """Once the sampling is over, so that nothing is drawn differently for having been
        watched.
        """
        flags: list[Flag] = []
        for method, timestep, few, first in self._calls:

            def call(
                rows: Tensor, method: str = method, timestep: int = timestep, few: Tensor = few
            ) -> Tensor:
                again: Tensor = getattr(self.defense, method)(few[rows], timestep)
                return again.detach()

            flags += compare(call, len(few), first)
        return list(dict.fromkeys(flags))
