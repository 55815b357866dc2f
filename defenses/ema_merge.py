"""Merging with the public base: every weight goes part of the way back to the model that the
suspected one was made from. No data and no training are needed. Whatever fine-tuning has taught is
weakened, a backdoor too.

Arora et al. 2024 (arXiv 2402.19334) average the weights of backdoored language models with those of
others and see most backdoors go. Here the other is the public base, which a defender of a
fine-tuned model often has:

    w' = (1 - base_share) w + base_share w_base

It is one step of an exponential moving average towards the base. Only where fine-tuning taught the
suspected model something worth keeping does it cost anything: where the base does the same work, as
it does on testbeds whose base was trained on the same images, a defender who has it needs nothing
else, and what this shows is how far back the backdoor reaches.

A record flags repaired weights at most half as far from the base as before ("base-weights"), so
every ``base_share`` of a half or more is flagged: who merges has the base, and says so in its
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval

from bench.diffusion.generator import Generator
from bench.plugin import Access, Card, ModelDefense, Paper


@dataclass(frozen=True, kw_only=True)
class EMAMerge(ModelDefense):
    """``base_share``: of the base in every weight; the denoising network's only."""

    card: ClassVar[Card] = Card(
        name="ema_merge",
        summary="averages the suspected model's weights with the public base's",
        paper=Paper(
            title="Here's a Free Lunch: Sanitizing Backdoored Models with Model Merge",
            authors=(
                "Ansh Arora, Xuanli He, Maximilian Mozes, Srinibas Swain, Mark Dras, Qiongkai Xu"
            ),
            year=2024,
            arxiv="2402.19334",
            bibtex=(
                "@inproceedings{arora2024merge, title={Here's a Free Lunch: Sanitizing Backdoored "
                "Models with Model Merge}, author={Arora, Ansh and He, Xuanli and Mozes, "
                "Maximilian and Swain, Srinibas and Dras, Mark and Xu, Qiongkai}, "
                "booktitle={Findings of ACL}, year={2024}}"
            ),
        ),
        applies_to=frozenset({"unconditional", "class", "text"}),
        needs=frozenset({"weights", "base weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("base_share",)

    base_share: Annotated[float, Interval(gt=0, lt=1)] = 0.5

    def repair(self, access: Access) -> Generator:
        base = access.base_generator.unet.state_dict()
        with torch.no_grad():
            for name, weight in access.generator.unet.state_dict().items():
                if weight.is_floating_point():
                    weight.lerp_(base[name].to(weight), self.base_share)
        return access.generator
