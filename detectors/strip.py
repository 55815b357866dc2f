"""STRIP: a triggered image keeps its prediction whatever is laid over it. Clean images are laid
over the one in question, and the score is the entropy of the classifier's predictions, negated. A
trigger decides the answer under any of them.

Gao, Xu, Wang, Chen, Ranasinghe, Nepal: "STRIP: A Defence Against Trojan Attacks on Deep Neural
Networks", ACSAC 2019, arXiv 1902.06531: ``H(x) = 1/N sum_n -sum_k p_k ln p_k`` with ``p = softmax
f(blend(x, o_n))``, N overlays o_n. H is low for triggered images; the score is **-H**, so higher is
more suspicious, in [-ln classes, 0].

Where implementations differ, and what we do:

- ``blend``: ``saturating_sum`` is ``min(x + o, 1)`` on [0, 1], what the authors' notebook and
  Cognitive Distillation's copy of STRIP do, hence the default; ``normalised_sum`` adds what the
  network sees (here [-1, 1]) and clamps nothing, as BackdoorBench.
- overlays: the notebook draws 100 for every image, others for every batch. Here one set is drawn
  for all images, from the suspected training set: an image's score then depends on no other image,
  and all images are compared under the same overlays. Some overlays may carry the trigger
  themselves; a defender cannot know which.
- logarithm: natural (the notebook's is binary; the order is the same), and from ``log_softmax``:
  ``p ln p`` of a softmax that has underflown to 0 is NaN, which one of those implementations
  returns for its most confident images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from bench.plugin import Access, Card, Paper, SampleDetector

# Image-overlay pairs in one forward pass: about 340 of 16 x 16, which a CPU's caches hold, 5,000 on
# a GPU, and never fewer than 32.
ELEMENTS_AT_ONCE = {"cpu": 2**18, "cuda": 2**22}


@dataclass(frozen=True, kw_only=True)
class STRIP(SampleDetector):
    """``overlays``: how many training images are laid over each image; all of them if there are
    fewer.
    """

    card: ClassVar[Card] = Card(
        name="strip",
        summary="low entropy of the prediction under overlaid training images betrays a trigger",
        paper=Paper(
            title="STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
            authors=(
                "Yansong Gao, Change Xu, Derui Wang, Shiping Chen, Damith C. Ranasinghe, "
                "Surya Nepal"
            ),
            year=2019,
            arxiv="1902.06531",
            bibtex=(
                "@inproceedings{gao2019strip, title={{STRIP}: A Defence Against Trojan Attacks "
                "on Deep Neural Networks}, "
                "author={Gao, Yansong and Xu, Change and Wang, Derui and Chen, Shiping and "
                "Ranasinghe, Damith C. and "
                "Nepal, Surya}, booktitle={ACSAC}, year={2019}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        needs=frozenset({"classifier", "training data"}),
        tuned=(),
    )

    overlays: Annotated[int, Ge(1)] = 100
    blend: Literal["saturating_sum", "normalised_sum"] = "saturating_sum"

    @torch.no_grad()
    def score(self, images: Tensor, access: Access) -> Tensor:
        # the card asks for both
        classifier = access.classifier.eval()
        device = classifier.head.weight.device
        pool = access.train_set.images
        chosen = access.rng.choice(len(pool), size=min(self.overlays, len(pool)), replace=False)
        overlays = pool[torch.from_numpy(chosen)].to(device).float() / 255
        pairs = len(images) * len(overlays)
        entropies = torch.empty(pairs)
        size = max(32, ELEMENTS_AT_ONCE[device.type] // images.shape[1:].numel())
        for start in range(0, pairs, size):
            pair = torch.arange(start, min(start + size, pairs))
            below = images[pair // len(overlays)].to(device).float() / 255
            blended = self._blend(below, overlays[(pair % len(overlays)).to(device)])
            log_p = classifier(blended).log_softmax(1)
            entropies[pair] = -(log_p.exp() * log_p).sum(1).float().cpu()
            access.progress(int(pair[-1]) + 1, pairs, "overlaid images")
        return -entropies.reshape(len(images), len(overlays)).mean(1)

    def _blend(self, images: Tensor, overlays: Tensor) -> Tensor:
        """What the classifier sees, in its own range, from two sets of images in [0, 1]."""
        if self.blend == "saturating_sum":
            return (images + overlays).clamp(max=1) * 2 - 1
        return (images * 2 - 1) + (overlays * 2 - 1)
