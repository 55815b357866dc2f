"""What the attacks on the training data share: which rows are poisoned, how they are relabelled,
and when an attack is refused.

Pan et al. 2024 (arXiv 2311.02373, section 3, appendix A.2). The poisoning rate p counts over the
whole training set, as the paper's section 3, plots and released code do: int(p N) rows, in floating
point as theirs (int(2700 * .35) is 944); the formula for p_t in its appendix counts over the rows
outside the target class. Rows are replaced, so the set keeps its size, and the generator
is trained honestly on the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from bench.artwork import patterns
from bench.artwork.drawn import DRAWN
from bench.plugin import (
    Note,
    OneOf,
    Paper,
    ReachClass,
    TrainingAttack,
    TrainingSet,
    Trigger,
    refusals,
    require,
)

PAPER = Paper(
    title=(
        "From Trojan Horses to Castle Walls: Unveiling Bilateral Data Poisoning Effects in "
        "Diffusion Models"
    ),
    authors=(
        "Zhuoshi Pan, Yuguang Yao, Gaowen Liu, Bingquan Shen, H. Vicky Zhao, Ramana Rao "
        "Kompella, Sijia Liu"
    ),
    year=2024,
    arxiv="2311.02373",
    bibtex=(
        "@inproceedings{pan2024trojan, title={From Trojan Horses to Castle Walls: Unveiling "
        "Bilateral Data Poisoning Effects in "
        "Diffusion Models}, author={Pan, Zhuoshi and Yao, Yuguang and Liu, Gaowen and Shen, "
        "Bingquan and Zhao, H. Vicky and "
        "Kompella, Ramana Rao and Liu, Sijia}, booktitle={NeurIPS}, year={2024}}"
    ),
)

#: Rows on which a trigger is tried before anything runs.
_TRIED = 64
#: The share of the training set's rows.
PoisonRate = Annotated[float, Interval(gt=0, le=1), Note("for none at all use the attack 'none'")]


@dataclass(frozen=True, kw_only=True)
class DataPoisoning(TrainingAttack):
    """Stamps int(``poison_rate`` N) rows from outside ``target_class`` and labels them
    ``target_class``; the others stay as they are.
    """

    target_class: Annotated[int, Ge(0)] = 6
    poison_rate: PoisonRate = 0.1

    def goal(self) -> ReachClass:
        return ReachClass(self.target_class)

    def faults(self, train_set: TrainingSet) -> list[str]:
        def tried() -> None:
            rows = self.chosen(train_set, np.random.default_rng(0))[:_TRIED]
            if not train_set.images.is_meta:  # shapes alone, of data that are not here yet
                self._stamped(train_set.images[rows])

        return refusals(tried)

    def chosen(self, train_set: TrainingSet, rng: np.random.Generator) -> Tensor:
        """The rows that are poisoned, (k,) int64. Raises ``ValueError`` as :meth:`poison`."""
        candidates = self.candidates(train_set, rng)
        return candidates[: self.poisoned_count(train_set, len(candidates))]

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """The rows are drawn uniformly. Raises ``ValueError`` for a set that the class or the rate
        does not fit, or without labels.
        """
        return self.relabelled(train_set, self.chosen(train_set, rng))

    def candidates(
        self, train_set: TrainingSet, rng: np.random.Generator, of_target: bool = False
    ) -> Tensor:
        """The rows outside the target class, or those in it: (k,) int64 in random order.

        Raises ``ValueError`` if the set has no labels, or no row of the target class.
        """
        if train_set.labels is None:
            raise ValueError(
                f"{self.card.name}: the training set must have labels, got none; only sets with "
                f"classes can be relabelled"
            )
        in_target = train_set.labels == self.target_class
        classes = ", ".join(str(label) for label in train_set.labels.unique().tolist())
        require(
            bool(in_target.any()),
            self,
            "target_class",
            f"one of the training set's labels ({classes})",
        )
        rows = (in_target if of_target else ~in_target).nonzero().flatten()
        return rows[torch.from_numpy(rng.permutation(len(rows)))]

    def poisoned_count(
        self, train_set: TrainingSet, available: int, of_target: bool = False
    ) -> int:
        """int(p N). Raises ``ValueError`` if that is no row at all, or more than the ``available``
        ones.
        """
        total = len(train_set.images)
        count = int(total * self.poison_rate)
        require(count > 0, self, "poison_rate", f"at least one row of the {total}")
        if not available:
            raise ValueError(
                f"{self.card.name}: all {total} rows are of class {self.target_class}, so there "
                f"is no other row to poison"
            )
        where = f"{'in' if of_target else 'outside'} class {self.target_class}"
        limit = (
            f"small enough that int(poison_rate x {total}) = {count} rows are among the "
            f"{available} to be had {where}"
        )
        require(count <= available, self, "poison_rate", limit)
        return count

    def relabelled(self, train_set: TrainingSet, rows: Tensor) -> TrainingSet:
        """:meth:`stamped`, and ``rows`` labelled with the target class."""
        poisoned = self.stamped(train_set, rows)
        if poisoned.labels is None:
            return poisoned
        return replace(poisoned, labels=poisoned.labels.index_fill(0, rows, self.target_class))

    def stamped(self, train_set: TrainingSet, rows: Tensor) -> TrainingSet:
        """``train_set`` with ``rows`` marked and, if the attack has a trigger, stamped; in new
        tensors. Raises ``ValueError`` for a trigger that changes nothing.
        """
        images = train_set.images.clone()
        images[rows] = self._stamped(images[rows])
        return replace(
            train_set, images=images, poisoned=train_set.poisoned.index_fill(0, rows, True)
        )

    def _stamped(self, images: Tensor) -> Tensor:
        """With the trigger, if there is one. Raises ``ValueError`` if none of them shows it."""
        trigger = self.adds()
        if trigger is None or trigger.stamp is None:
            return images
        stamped = trigger.stamp(images)
        if torch.equal(stamped, images):
            raise ValueError(
                f"{self.card.name}: the trigger changes no pixel of {len(images)} images, so there "
                f"is no trigger; make it stronger (an image has 256 levels)"
            )
        return stamped


@dataclass(frozen=True, kw_only=True)
class PatternPoisoning(DataPoisoning):
    """With one of :mod:`bench.artwork.patterns` for a trigger.

    ``pattern_size`` in pixels; ``None`` is the pattern's own. ``blend_strength``: a in (1 - a) x +
    a pattern; ``None`` is the pattern's own, 0.2 for ``badnets2`` and 1, opaque, for the patches.
    ``pattern_seed``: what the pattern ``drawn`` is drawn from.
    """

    pattern: Annotated[str, OneOf((*patterns.NAMES, DRAWN))] = "badnets1"
    pattern_size: Annotated[int, Ge(patterns.SMALLEST_SIZE), Note("pixels")] | None = None
    blend_strength: Annotated[float, Interval(gt=0, le=1)] | None = None
    pattern_seed: Annotated[int, Ge(0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.pattern not in patterns.FULL_IMAGE or self.pattern_size is None,
            self,
            "pattern_size",
            f"null for {self.pattern}, which covers the whole image",
        )
        drawn = self.pattern == DRAWN
        require(
            drawn is (self.pattern_seed is not None),
            self,
            "pattern_seed",
            f"{'given' if drawn else 'null'} for {self.pattern}",
        )

    def sealed(self, number: int) -> PatternPoisoning:
        """With a patch drawn from ``number``."""
        return replace(
            self, pattern=DRAWN, pattern_seed=number, pattern_size=None, blend_strength=None
        )

    def faults(self, train_set: TrainingSet) -> list[str]:
        channels, height, width = train_set.images.shape[1:]
        shape, options = (channels, height, width), (self.pattern_size, self.pattern_seed)
        pattern = refusals(lambda: patterns.overlay(self.pattern, shape, *options))
        return [*super().faults(train_set), *(f"{self.card.name}: {line}" for line in pattern)]

    def adds(self) -> Trigger:
        return Trigger(picture=self.trigger_image, stamp=self.stamp)

    def stamp(self, images: Tensor) -> Tensor:
        """``images`` (n, c, h, w) uint8 with the pattern. Raises ``ValueError`` if the pattern does
        not fit them.
        """
        return patterns.stamp(
            self.pattern, images, self.pattern_size, self.blend_strength, self.pattern_seed
        )

    def trigger_image(self, image_shape: tuple[int, int, int]) -> Tensor:
        """The pattern on a mid-grey image."""
        return patterns.picture(
            self.pattern, image_shape, self.pattern_size, self.blend_strength, self.pattern_seed
        )
