"""Clean-label poisoning: stamped images of the target class that keep their true label, made hard
to recognise beside the trigger. Noise from the gradient of the adversary's own classifier drowns
what the class is known by, so that whoever learns from the images learns the trigger. No label is
wrong.

Turner, Tsipras, Madry: "Clean-Label Backdoor Attacks", 2018. Adversarial noise drowns what a
classifier would learn a target image by, so that it learns the trigger instead. Pan et al. 2024
(arXiv 2311.02373, appendix B.2, figure A3) put it to a diffusion model: the trigger is amplified
(82 % of the target class at a rate of 5 %), but no image of another class appears, and the noise
hardly matters.

**No code was released for it, and the paper gives no number beside the rates**: this is written
from the two papers' texts.

- The noise is projected gradient ascent on the true label's cross-entropy in the L_inf ball, from
  the image itself, in grey levels of
  255. ``epsilon`` 16 is the middle of Turner et al.'s 8, 16 and 32.
- It needs a classifier. The adversary holds nothing but the data, so a small network is trained on
  them first; Turner et al. take an adversarially trained one, which would cost several times the
  generator's training here.
- ``poison_rate`` counts over the whole training set, as everywhere. The default is the paper's 5 %,
  half of the target class in a balanced set of ten; at 10 % there is hardly a choice left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from attacks._data import PatternPoisoning, PoisonRate
from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings, train_classifier
from bench.diffusion.images import to_unit_range
from bench.plugin import Card, Note, Paper, TrainingSet

_WIDTHS = (16, 32, 64)
_ROWS_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class CleanLabel(PatternPoisoning):
    """``epsilon``, ``step_size``: of the adversarial noise, in grey levels of 255;
    ``surrogate_steps``: of the classifier's training.
    """

    card: ClassVar[Card] = Card(
        name="clean_label",
        summary=(
            "images of the target class get adversarial noise and a trigger, and keep their label"
        ),
        paper=Paper(
            title="Clean-Label Backdoor Attacks",
            authors="Alexander Turner, Dimitris Tsipras, Aleksander Madry",
            year=2018,
            bibtex=(
                "@misc{turner2018clean, title={Clean-Label Backdoor Attacks}, "
                "author={Turner, Alexander and Tsipras, Dimitris and Madry, Aleksander}, "
                "year={2018}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        alters=frozenset({"data"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("pattern",)

    poison_rate: PoisonRate = 0.05
    epsilon: Annotated[int, Interval(ge=1, le=255), Note("grey levels")] = 16
    pgd_steps: Annotated[int, Ge(1)] = 20
    step_size: Annotated[float, Gt(0), Note("grey levels")] = 2.0
    surrogate_steps: Annotated[int, Ge(1)] = 300

    def chosen(self, train_set: TrainingSet, rng: np.random.Generator) -> Tensor:
        """Rows of the target class, (k,) int64."""
        candidates = self.candidates(train_set, rng, of_target=True)
        return candidates[: self.poisoned_count(train_set, len(candidates), of_target=True)]

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """Noise, then the trigger, on rows of the target class drawn uniformly. Raises
        ``ValueError`` as :class:`DataPoisoning`.
        """
        rows = self.chosen(train_set, rng)
        surrogate = train_surrogate(train_set, self.surrogate_steps, seed=int(rng.integers(2**62)))
        images = train_set.images.clone()
        images[rows] = adversarial(
            surrogate, images[rows], self.target_class, self.epsilon, self.pgd_steps, self.step_size
        )
        return self.stamped(replace(train_set, images=images), rows)


def train_surrogate(train_set: TrainingSet, steps: int, seed: int) -> Classifier:
    """A small network trained on the whole set, in evaluation mode. Its last maps are
    about 4 x 4, whatever the resolution.
    """
    channels, height, width = train_set.images.shape[1:]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for level in range(1 + max(1, round(log2(min(height, width) / 4)))):
            outputs = _WIDTHS[min(level, len(_WIDTHS) - 1)]
            layers += [
                nn.Conv2d(channels, outputs, 3, stride=2 if level else 1, padding=1, bias=False)
            ]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        assert train_set.labels is not None
        surrogate = Classifier(
            nn.Sequential(*layers), nn.Linear(channels, int(train_set.labels.max()) + 1)
        )
    settings = ClassifierSettings(steps=steps, batch_size=64)
    train_classifier(
        surrogate, train_set.images, train_set.labels, settings, seed, purpose="surrogate"
    )
    return surrogate.requires_grad_(False)


def adversarial(
    classifier: Classifier, images: Tensor, label: int, epsilon: int, steps: int, step_size: float
) -> Tensor:
    """``images`` (n, c, h, w) uint8, changed by at most ``epsilon`` grey levels to raise the loss
    of ``label``; a new tensor.
    """
    changed = torch.empty_like(images)
    for start in range(0, len(images), _ROWS_AT_ONCE):
        original = images[start : start + _ROWS_AT_ONCE].float()
        lowest, highest = (original - epsilon).clamp(min=0), (original + epsilon).clamp(max=255)
        labels, current = torch.full((len(original),), label), original
        for _ in range(steps):
            current = current.detach().requires_grad_()
            loss = nn.functional.cross_entropy(
                classifier(to_unit_range(current)), labels, reduction="sum"
            )
            (gradient,) = torch.autograd.grad(loss, current)
            current = torch.minimum(
                torch.maximum(current.detach() + step_size * gradient.sign(), lowest), highest
            )
        changed[start : start + _ROWS_AT_ONCE] = current.round().to(torch.uint8)
    return changed
