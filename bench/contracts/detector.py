"""Detectors: how suspicious something is. **Higher is more suspicious**, whatever the paper's sign.

What is judged is the detector's subject:

- ``rows``: images of the suspected training set, and ``images``: those the suspected model draws;
  both (n, c, h, w) uint8;
- ``noise``: a generator's starting noise, (n, c, h, w);
- ``prompts``: what it is asked for, n texts;
- ``model``: the suspected generator itself, n = 1. Whether a score tells backdoored models from
  honest ones is a question to a population of both, which the harness draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from bench.contracts.access import Access
from bench.contracts.card import NEEDS, Need
from bench.contracts.defense import Inversion
from bench.contracts.plugin import Plugin

Subject = Literal["rows", "images", "noise", "prompts", "model"]


@dataclass(frozen=True, kw_only=True)
class Detector(Plugin):
    """A plugin subclasses one of those below, or this one and declares its ``subjects``."""

    offered: ClassVar[frozenset[Need]] = NEEDS
    #: What it can judge.
    subjects: ClassVar[tuple[Subject, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        unknown = [subject for subject in cls.subjects if subject not in get_args(Subject)]
        if unknown:
            raise TypeError(
                f"{cls.__name__}: subjects must be among {', '.join(get_args(Subject))}, "
                f"got {unknown[0]!r}"
            )

    def uses(self) -> Inversion | None:
        """As of a :class:`~bench.contracts.defense.Defense`."""
        return None

    def score(self, subject: Any, access: Access) -> Tensor:
        """Scores (n,) float32 of what :attr:`subjects` names, n rows. A row's score does not depend
        on the other rows' order or number.
        """
        raise NotImplementedError(f"{self.card.name} must define score()")


@dataclass(frozen=True, kw_only=True)
class SampleDetector(Detector):
    """Judges images: a training set's, or generated ones; (n, c, h, w) uint8."""

    subjects: ClassVar[tuple[Subject, ...]] = ("rows", "images")


@dataclass(frozen=True, kw_only=True)
class NoiseDetector(Detector):
    """Judges the noise x_T (n, c, h, w) that a generator starts from."""

    subjects: ClassVar[tuple[Subject, ...]] = ("noise",)


@dataclass(frozen=True, kw_only=True)
class PromptDetector(Detector):
    """Judges the prompts of a text-to-image generator: a tuple of n texts."""

    subjects: ClassVar[tuple[Subject, ...]] = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class ModelDetector(Detector):
    """Judges a generator: its subject is ``access.generator``, and the score is (1,)."""

    subjects: ClassVar[tuple[Subject, ...]] = ("model",)
