"""Training a classifier on what the suspected generator draws, instead of on the suspected training
set. The suspected generator is asked for every class, and the classes asked for are the labels. Few
of its images show the trigger under a wrong label as long as few training images did.

Pan et al. 2024 (arXiv 2311.02373, section 5, table 4): a generator trained on a poisoned set is
asked for every class, and a classifier is trained on its images, labelled with the class that was
asked for. Few of them show the trigger under a wrong class as long as few training rows did, so the
attack on the classifier weakens; past a poison rate of some percent it comes back. What the images
lack in quality costs clean accuracy. The owner of the training set is who can do this, hence the
card; the rows themselves are not looked at.

The classifier's architecture, training and measuring are the harness's, the same as for one trained
on the suspected set. In the authors' script best accuracies are picked on test data, epoch by
epoch; here the last weights count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.plugin import Access, Card, DataDefense, Paper, TrainingSet


@dataclass(frozen=True, kw_only=True)
class TrainOnGenerated(DataDefense):
    """As many images as the testbed declares for a generated set: by default as many as the
    training set has rows, as in the paper.
    """

    card: ClassVar[Card] = Card(
        name="train_on_generated",
        summary=(
            "trains the classifier on images the suspected model draws, labelled with the "
            "class it was asked for"
        ),
        paper=Paper(
            title=(
                "From Trojan Horses to Castle Walls: Unveiling Bilateral Data Poisoning "
                "Effects in Diffusion Models"
            ),
            authors=(
                "Zhuoshi Pan, Yuguang Yao, Gaowen Liu, Bingquan Shen, H. Vicky Zhao, Ramana "
                "Rao Kompella, Sijia Liu"
            ),
            year=2024,
            arxiv="2311.02373",
            bibtex=(
                "@inproceedings{pan2024trojan, title={From Trojan Horses to Castle Walls: "
                "Unveiling Bilateral Data Poisoning "
                "Effects in Diffusion Models}, author={Pan, Zhuoshi and Yao, Yuguang and Liu, "
                "Gaowen and Shen, Bingquan and "
                "Zhao, H. Vicky and Kompella, Ramana Rao and Liu, Sijia}, booktitle={NeurIPS}, "
                "year={2024}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        needs=frozenset({"queries"}),
        tuned=(),
    )

    def clean(self, generated: TrainingSet, access: Access) -> TrainingSet:
        """``generated`` as it is. Raises ``ValueError`` if it has no labels."""
        if generated.labels is None:
            raise ValueError(
                f"{self.card.name}: the generated images must be labelled with what was asked for"
            )
        return generated
