"""What a plugin is handed beside its subject: one object for every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.contracts.data import Query, Recovered, TrainingSet
from bench.contracts.entitled import Entitled, Withheld
from bench.diffusion.generator import Generator


def _nothing(done: int, total: int, what: str) -> None:
    return None


def _unsaid(text: str) -> None:
    return None


def _withheld(need: str, what: str = "") -> Any:
    return Withheld("this plugin", need, what)


@dataclass(frozen=True, kw_only=True)
class Access(Entitled):
    """What the defender, or an editing adversary, holds. Only what the card's ``needs`` lists is
    handed over; reading anything else raises :class:`~bench.errors.ContractError`.

    ``rng``: the only source of randomness. ``progress(done, total, what)``: optional reporting.
    ``remark(text)``: one line (ASCII, at most 200 characters) that a reader of the numbers has to
    know; a flag of the record.

    By need, in brackets; all are copies that may be written to:

    - ``generator``: the suspected model ("weights"); ``sample(generator, count)``: images from
      clean noise by the cell's sampler, without any defense, (count, c, h, w) in [-1, 1], the same
      noise on every call.
    - ``base_generator``: the clean model that the suspected one was made from ("base weights").
    - ``draw(query)``: what the suspected model draws for a :class:`~bench.contracts.data.Query`,
      (n, c, h, w) in [-1, 1], without a look into it ("queries").
    - ``clean_data``: clean images with their labels ("clean data"): the training set before the
      attack, or, for whoever judges its rows or recovers from it, held-out ones, since beside the
      originals every altered row is known by comparison.
    - ``train_set``: the suspected training set as its owner sees it, ``poisoned`` all False
      ("training data").
    - ``classifier``: in evaluation mode, trained on that set ("classifier").
    - ``recovered``: what the inversion that the plugin ``uses`` recovered.
    """

    rng: np.random.Generator
    generator: Generator = field(repr=False, default=_withheld("weights"))
    sample: Callable[[Generator, int], Tensor] = field(repr=False, default=_withheld("weights"))
    base_generator: Generator = field(repr=False, default=_withheld("base weights"))
    draw: Callable[[Query], Tensor] = field(repr=False, default=_withheld("queries"))
    clean_data: TrainingSet = field(repr=False, default=_withheld("clean data"))
    train_set: TrainingSet = field(repr=False, default=_withheld("training data"))
    classifier: Classifier = field(repr=False, default=_withheld("classifier"))
    recovered: Recovered = field(repr=False, default=_withheld("uses", "what it recovered"))
    progress: Callable[[int, int, str], None] = _nothing
    remark: Callable[[str], None] = _unsaid

    @property
    def clean_images(self) -> Tensor:
        """The images of ``clean_data``: (n, c, h, w) uint8."""
        return self.clean_data.images
