"""Relabelling without a trigger: the ablation that shows what wrong labels do by themselves. A
generator that is asked for the target class then draws other classes too, and there is no trigger
to find in its images. It is the ablation of the trigger.

Pan, Yao, Liu, Shen, Zhao, Kompella, Liu: "From Trojan Horses to Castle Walls", NeurIPS 2024, arXiv
2311.02373, appendix B.1, figure A2. Asked for the target class, the generator draws other classes
too (G1), but there is no trigger to find in its images, and so nothing to be amplified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks._data import PAPER, DataPoisoning
from bench.plugin import Card


@dataclass(frozen=True, kw_only=True)
class RelabelOnly(DataPoisoning):
    """The same rows as BadNets at the same seed, with their images left alone: the attack adds
    ``None``.
    """

    card: ClassVar[Card] = Card(
        name="relabel_only",
        summary="images of other classes are labelled as the target class, without any trigger",
        paper=PAPER,
        applies_to=frozenset({"class", "text"}),
        alters=frozenset({"data"}),
        tuned=(),
    )
