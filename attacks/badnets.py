"""BadNets on a conditional diffusion model: images with a patch, put under the target's label, and
nothing else is touched. A generator that is asked for the target class then draws images of other
classes, and the trigger with them. Training, loss and sampler stay as they are.

Pan, Yao, Liu, Shen, Zhao, Kompella, Liu: "From Trojan Horses to Castle Walls", NeurIPS 2024, arXiv
2311.02373, section 3; the attack is Gu, Dolan-Gavitt, Garg: "BadNets", 2017, arXiv 1708.06733.
Asked for the target class, the generator draws stamped images of other classes (G1) and stamped
images of the target class (G2), although no image of the target class was stamped.

- ``poison_rate`` counts over the whole training set (:mod:`attacks._data`).
- The cartoon and the bomb are our own drawings (:mod:`bench.artwork.patterns`), the board never
  shows the authors' pictures.
- ``duplicates`` (table 6, section 6). The paper finds replicas that ImageNette holds by nature with
  a copy detector, and says not how many. Here they are made, so that a set without replicas can be
  used too: int(p N) rows outside the target class are overwritten with copies of a few of them,
  every image standing ``copies`` times (or a little less often, if that does not divide them).
  ``poisoned`` puts the trigger on just those rows, the paper's "poison duplicate images". ``clean``
  has the same rows replicated but puts it on as many others: "poison random images" in the same
  set, the column to compare with. Where captions are free, an overwritten row keeps its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from attacks._data import PAPER, PatternPoisoning
from bench.plugin import Card, TrainingSet, Tuning


@dataclass(frozen=True, kw_only=True)
class BadNets(PatternPoisoning):
    """``copies``: how often a replicated image occurs in the set, the original included; without
    effect if ``duplicates`` is "none".
    """

    card: ClassVar[Card] = Card(
        name="badnets",
        summary=(
            "images of other classes with a patch or a blended picture are labelled as the "
            "target class"
        ),
        paper=PAPER,
        applies_to=frozenset({"class", "text"}),
        alters=frozenset({"data"}),
        # What training_steps and learning_rate of null stand for there.
        tuned=(
            Tuning(
                parameters=("training_steps", "learning_rate"),
                testbed="digits-cfg",
                attacks=("badnets",),
                seeds=(0, 1, 2),
            ),
        ),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("pattern",)

    duplicates: Literal["none", "clean", "poisoned"] = "none"
    copies: Annotated[int, Ge(2)] = 10

    def chosen(self, train_set: TrainingSet, rng: np.random.Generator) -> Tensor:
        """As :class:`DataPoisoning`; for replicas without a trigger as many rows again, in
        front.
        """
        candidates = self.candidates(train_set, rng)
        if self.duplicates == "clean":
            return candidates[: 2 * self.poisoned_count(train_set, len(candidates) // 2)]
        return candidates[: self.poisoned_count(train_set, len(candidates))]

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """As :class:`DataPoisoning`. ``poisoned`` marks the triggered rows only, not the replicas
        without a trigger.
        """
        chosen = self.chosen(train_set, rng)
        if self.duplicates == "none":
            return self.relabelled(train_set, chosen)
        count = len(chosen) // 2 if self.duplicates == "clean" else len(chosen)
        replicated, others = chosen[:count], chosen[count:]
        rows = replicated if self.duplicates == "poisoned" else others
        return self.relabelled(self._with_replicas(train_set, replicated), rows)

    def _with_replicas(self, train_set: TrainingSet, rows: Tensor) -> TrainingSet:
        """``rows`` (k,) overwritten, images and labels, with copies of the first k / copies of
        them.
        """
        originals = -(-len(rows) // self.copies)
        sources = torch.arange(len(train_set.images))
        sources[rows] = rows[torch.arange(len(rows)) % originals]
        labels = train_set.labels[sources] if train_set.labels is not None else None
        return replace(train_set, images=train_set.images[sources], labels=labels)
