"""Fine-tuning: goes on training the suspected model, on clean images alone. All of the network is
trained, with the loss it was made with. It rests on a network's forgetting of what it is no longer
trained on.

The first thing anybody tries, and the line that every other repair has to beat. A network forgets
what it is no longer trained on (catastrophic forgetting; Liu, Dolan-Gavitt, Garg 2018, arXiv
1805.12185, section 4, try it against backdoored classifiers, where it fails: neurons that clean
inputs leave dormant get no gradient). A diffusion model is asked for the noise at every pixel, so
whether that holds here is to be measured.

The objective is DDPM's (Ho et al. 2020, arXiv 2006.11239, eq. 14) on ``clean_share`` of the clean
training set, with a cosine of the rate from ``learning_rate`` to 0. The defaults are Elijah's
(arXiv 2312.00050): learning rate 2e-4, batches of 128, and, of a tenth of 50,000 images, eleven
epochs of 39 steps. In its released code the rate rises from 0 over these steps, since they are
fewer than the 500 of its warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from bench.diffusion.generator import Generator
from bench.plugin import Access, Card, ModelDefense
from defenses._finetuning import FINE_PRUNING, CleanShare, clean_loss, finetune, some_clean


@dataclass(frozen=True, kw_only=True)
class Finetune(ModelDefense):
    """``steps`` of ``batch_size`` images each, drawn from ``clean_share`` of the clean ones."""

    card: ClassVar[Card] = Card(
        name="finetune",
        summary="goes on training the suspected model on clean images",
        paper=FINE_PRUNING,
        applies_to=frozenset({"unconditional", "class"}),
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("clean_share",)

    clean_share: CleanShare = 0.1
    steps: Annotated[int, Ge(1)] = 429
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 2e-4

    def repair(self, access: Access) -> Generator:
        finetune(
            access,
            some_clean(access, self.clean_share),
            clean_loss,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        return access.generator
