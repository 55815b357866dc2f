"""Cognitive Distillation (CD): how little of an image a classifier needs to answer as it does. For
each image a mask is learnt that keeps the classifier's answer and is as small as it can be. A
trigger decides the answer by itself, so its mask is small.

Huang, Ma, Erfani, Bailey: "Distilling Cognitive Backdoor Patterns within an Image", ICLR 2023,
arXiv 2301.10908: a mask m in [0, 1], one channel for all colours, is learned for every image x in
[0, 1]:

    x_cp = x m + (1 - m) c,    m = (tanh(theta) + 1) / 2,    theta = 1 at first,
    loss = mean_k |f(x_cp)_k - f(x)_k| + gamma sum |m| + beta TV(m),
    TV(m) = (sum of squared differences of neighbours, across and down) / (h w),

with a fresh random colour c ~ U(0, 1) a channel at every step, by Adam (betas 0.1, 0.1). A trigger
is all that a poisoned image's answer needs, so its mask is small; the score is **-sum |m|**, so
higher is more suspicious, in [-h w, 0].

- ``features``: f are the raw logits (``logits``) or the last feature maps before pooling
  (``maps``).
- ``gamma``, ``beta``, ``learning_rate``: ``None`` takes the authors' values for ``features``: 0.01,
  1, 0.1 for logits; 0.001, 10, 0.05 for maps. For logits their extraction script says beta 1, their
  README and BackdoorBench 10; on the embedded digits 1 told more images apart.
- deviation: the gamma term is a sum over pixels, and the authors' gamma was made for 32 x 32; the
  default is scaled by 1024 / (h w), so that the term weighs the same at every size. Too large a
  gamma empties **every** mask, clean images' first, and the order turns round: a run whose median
  mask keeps less than 1 % of the image says so on its record.
- deviation: the colour is drawn per step and channel and shared by all images, not drawn for every
  image. Each image sees the same distribution of colours; scores depend on no other image, and
  images are compared under the same colours.
- deviation: the losses of a piece's images are summed, where the authors take their mean. With the
  sum each image is optimised as if it were alone. With the mean it is not: gradients at saturated
  pixels, some 1e-4, are divided by the batch and then meet Adam's eps of 1e-8, so that the authors'
  scores depend on their batch size (by some 3 of 136 in a mask's sum, some .005 in AUROC); at a
  batch of one they are these. Rounding, which a network does differently for one image and for
  many, is carried on by the kinks of |.|: a mask's sum of 100 moves by some 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.plugin import Access, Card, Paper, SampleDetector, Tuning

#: gamma, beta, learning rate, as the authors' code has them.
AUTHORS_VALUES = {"logits": (0.01, 1.0, 0.1), "maps": (0.001, 10.0, 0.05)}
BETAS = (0.1, 0.1)
#: The area that the authors' gamma was made for, and the share of an image below which a mask has
#: collapsed.
AUTHORS_AREA, COLLAPSED = 32 * 32, 0.01
# Images optimised at once: about 340 of 16 x 16, 5,000 on a GPU, and never fewer than 16.
ELEMENTS_AT_ONCE = {"cpu": 2**18, "cuda": 2**22}


@dataclass(frozen=True, kw_only=True)
class CognitiveDistillation(SampleDetector):
    """``gamma``, ``beta``, ``learning_rate``: ``None`` takes the authors' value for ``features``,
    gamma scaled to the images' area.
    """

    card: ClassVar[Card] = Card(
        name="cognitive_distillation",
        summary="a small mask that keeps the classifier's answer betrays a trigger",
        paper=Paper(
            title="Distilling Cognitive Backdoor Patterns within an Image",
            authors="Hanxun Huang, Xingjun Ma, Sarah Erfani, James Bailey",
            year=2023,
            arxiv="2301.10908",
            bibtex=(
                "@inproceedings{huang2023distilling, title={Distilling Cognitive Backdoor "
                "Patterns within an Image}, "
                "author={Huang, Hanxun and Ma, Xingjun and Erfani, Sarah and Bailey, James}, "
                "booktitle={ICLR}, year={2023}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        needs=frozenset({"classifier"}),
        tuned=(
            Tuning(
                parameters=("beta",), testbed="digits-cfg", attacks=("badnets",), seeds=(0, 1, 2)
            ),
        ),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("features",)

    features: Literal["logits", "maps"] = "logits"
    gamma: Annotated[float, Ge(0)] | None = None
    beta: Annotated[float, Ge(0)] | None = None
    learning_rate: Annotated[float, Gt(0)] | None = None
    steps: Annotated[int, Ge(1)] = 100

    def score(self, images: Tensor, access: Access) -> Tensor:
        assert access.classifier is not None  # the card asks for it
        classifier = access.classifier.clone().requires_grad_(False).eval()
        device = classifier.head.weight.device
        drawn = access.rng.random((self.steps, images.shape[1], 1, 1), dtype=np.float32)
        colours = torch.from_numpy(drawn).to(device)
        norms = torch.empty(len(images))
        size = max(16, ELEMENTS_AT_ONCE[device.type] // images.shape[1:].numel())
        for start in range(0, len(images), size):
            rows = slice(start, min(start + size, len(images)))
            masks = self.masks(classifier, images[rows].to(device).float() / 255, colours)
            norms[rows] = masks.abs().sum((1, 2, 3)).cpu()
            access.progress(rows.stop, len(images), "distilled images")
        median_share = float(norms.median()) / images[0, 0].numel() if len(images) else 1.0
        if median_share < COLLAPSED:
            access.remark(
                f"collapsed masks, the median keeps {100 * median_share:.2f} % of the image; gamma "
                f"{self._gamma(images):.3g} is too large"
            )
        return -norms

    def _gamma(self, images: Tensor) -> float:
        """The weight of a mask's size for images (n, c, h, w)."""
        if self.gamma is not None:
            return self.gamma
        return AUTHORS_VALUES[self.features][0] * AUTHORS_AREA / images[0, 0].numel()

    def masks(self, classifier: Classifier, images: Tensor, colours: Tensor) -> Tensor:
        """The masks (n, 1, h, w) of images (n, c, h, w) in [0, 1]; colours (steps, c, 1, 1) in [0,
        1], one for each step.
        """
        values = zip(
            (self.beta, self.learning_rate), AUTHORS_VALUES[self.features][1:], strict=True
        )
        beta, learning_rate = (authors if value is None else value for value, authors in values)
        gamma = self._gamma(images)
        theta = torch.ones_like(images[:, :1], requires_grad=True)
        optimizer = torch.optim.Adam([theta], lr=learning_rate, betas=BETAS)
        with torch.no_grad():
            wanted = self._seen(classifier, images)
        for colour in colours:
            mask = (theta.tanh() + 1) / 2
            distilled = images * mask + (1 - mask) * colour
            change = (self._seen(classifier, distilled) - wanted).abs().flatten(1).mean(1)
            losses = change + gamma * mask.abs().sum((1, 2, 3)) + beta * total_variation(mask)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
        return (theta.detach().tanh() + 1) / 2

    def _seen(self, classifier: Classifier, images: Tensor) -> Tensor:
        """f of images in [0, 1]: logits (n, classes) or feature maps (n, d, h', w')."""
        images = images * 2 - 1
        return classifier(images) if self.features == "logits" else classifier.maps(images)


def total_variation(masks: Tensor) -> Tensor:
    """TV of each mask, (n,), of masks (n, 1, h, w)."""
    across = (masks[..., :, 1:] - masks[..., :, :-1]).square().sum((1, 2, 3))
    down = (masks[..., 1:, :] - masks[..., :-1, :]).square().sum((1, 2, 3))
    return (across + down) / masks[0].numel()
